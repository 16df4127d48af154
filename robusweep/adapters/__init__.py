"""Adapters: the trainable weights on a frozen base. A new kind is one file and one name in ``AnyAdapter``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.adapters.base import Adapter
from robusweep.adapters.full import Full
from robusweep.adapters.houlsby import Houlsby
from robusweep.adapters.ia3 import Ia3
from robusweep.adapters.lora import Lora
from robusweep.adapters.oft import Oft
from robusweep.adapters.pfeiffer import Pfeiffer
from robusweep.adapters.prefix import Prefix
from robusweep.adapters.prompt import Prompt

AnyAdapter = Annotated[Lora | Oft | Ia3 | Houlsby | Pfeiffer | Prefix | Prompt | Full, Field(discriminator="kind")]

__all__ = [
    "Adapter",
    "AnyAdapter",
    "Full",
    "Houlsby",
    "Ia3",
    "Lora",
    "Oft",
    "Pfeiffer",
    "Prefix",
    "Prompt",
]
