"""Adapters: the trainable weights on a frozen base. A new kind is one file and one name in ``AnyAdapter``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.adapters.base import Adapter
from robusweep.adapters.full import Full
from robusweep.adapters.lora import Lora
from robusweep.adapters.oft import Oft

AnyAdapter = Annotated[Lora | Oft | Full, Field(discriminator="kind")]

__all__ = ["Adapter", "AnyAdapter", "Full", "Lora", "Oft"]
