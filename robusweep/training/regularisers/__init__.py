"""Regularisers of training methods. A new one is one file and one name in ``AnyRegulariser``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.training.regularisers.base import Regulariser
from robusweep.training.regularisers.rift import Rift
from robusweep.training.regularisers.self_regularisation import SelfRegularisation

AnyRegulariser = Annotated[Rift | SelfRegularisation, Field(discriminator="kind")]

__all__ = ["AnyRegulariser", "Regulariser", "Rift", "SelfRegularisation"]
