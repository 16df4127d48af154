"""Pruning after training: weights or units go, and the rest makes up for them. A new kind is one file and one name in
``AnyPruning``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.pruning.akr import Akr
from robusweep.pruning.base import Pruning, Seen
from robusweep.pruning.magnitude import MagnitudePruning

AnyPruning = Annotated[Akr | MagnitudePruning, Field(discriminator="kind")]

__all__ = ["Akr", "AnyPruning", "MagnitudePruning", "Pruning", "Seen"]
