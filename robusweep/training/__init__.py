"""Training methods. A new one is one file and one name in ``AnyTraining``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.training.asa import Asa
from robusweep.training.ascc import Ascc
from robusweep.training.augment import Augment
from robusweep.training.base import TrainingMethod
from robusweep.training.freelb import FreeLb
from robusweep.training.freelb_pp import FreeLbPp
from robusweep.training.high_temperature import HighTemperature
from robusweep.training.label_smoothing import LabelSmoothing
from robusweep.training.mixada import MixAda
from robusweep.training.pgd import Pgd
from robusweep.training.r3f import R3f
from robusweep.training.radius import Radius
from robusweep.training.rdrop import RDrop
from robusweep.training.smart import Smart
from robusweep.training.standard import Standard
from robusweep.training.tavat import Tavat
from robusweep.training.text_attack import TextAttackTraining
from robusweep.training.vat import Vat

AnyTraining = Annotated[
    Standard
    | LabelSmoothing
    | HighTemperature
    | Pgd
    | FreeLb
    | FreeLbPp
    | Smart
    | Vat
    | R3f
    | RDrop
    | Tavat
    | Asa
    | Augment
    | TextAttackTraining
    | Ascc
    | MixAda,
    Field(discriminator="kind"),
]

__all__ = ["AnyTraining", "Pgd", "Radius", "Standard", "TrainingMethod"]
