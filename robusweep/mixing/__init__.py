"""Mixers: how adapters become one model. A new one is one file and one name in ``AnyMixer``."""

from __future__ import annotations

from robusweep.mixing.adpmixup import AdpMixup
from robusweep.mixing.base import Mixer

AnyMixer = AdpMixup  # a second mixer makes this a union with discriminator "kind"

__all__ = ["AdpMixup", "AnyMixer", "Mixer"]
