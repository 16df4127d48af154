"""Training methods. A new one is one file and one name in ``AnyTraining``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.training.base import TrainingMethod
from robusweep.training.pgd import Pgd
from robusweep.training.radius import Radius
from robusweep.training.standard import Standard

AnyTraining = Annotated[Standard | Pgd, Field(discriminator="kind")]

__all__ = ["AnyTraining", "Pgd", "Radius", "Standard", "TrainingMethod"]
