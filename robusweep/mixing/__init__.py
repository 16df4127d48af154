"""Mixers: how adapters become one system. A new one is one file and one name in ``AnyMixer``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.mixing.adpmixup import AdpMixup
from robusweep.mixing.base import Emulated, Fixed, Mixer, OfLogits, PerText, System, TrainedSet
from robusweep.mixing.dare import Dare
from robusweep.mixing.emulated import EmulatedFineTuning
from robusweep.mixing.logits import Logits
from robusweep.mixing.ties import Ties
from robusweep.mixing.uniform import Uniform

AnyMixer = Annotated[AdpMixup | Uniform | Ties | Dare | Logits | EmulatedFineTuning, Field(discriminator="kind")]

__all__ = ["AnyMixer", "Emulated", "Fixed", "Mixer", "OfLogits", "PerText", "System", "TrainedSet"]
