"""Updates: how a step moves the weights. A new one is one file and one name in ``AnyUpdate``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.training.updates.base import Rule, Update
from robusweep.training.updates.dps import Dps
from robusweep.training.updates.last import Last

AnyUpdate = Annotated[Dps | Last, Field(discriminator="kind")]

__all__ = ["AnyUpdate", "Dps", "Last", "Rule", "Update"]
