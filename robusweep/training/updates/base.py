"""What every update offers: how the gradient of a batch is taken, and how a step moves the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from robusweep.training.step import Step


class Rule(ABC):
    """An update at work in one run. Its state is saved with the run's and restored from it."""

    def prepare(self, step: Step) -> None:  # noqa: B027 - most leave the step as it is
        """Called before the method's ``backward`` with every part of a batch."""

    @abstractmethod
    def move(self, optimiser: Optimizer) -> None:
        """One step of the weights. Gradients are there, clipped; the optimiser has not moved yet."""

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` needs to go on exactly as if the run had not been cut."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most have no state
        """Go on from this state."""


class Update(Spec, ABC):
    """Which weights a step moves, or by how much."""

    kind: str

    @abstractmethod
    def begin(self, weights: Mapping[str, Parameter], *, n_steps: int, seed: int) -> Rule:
        """The rule for a run of about ``n_steps`` optimiser steps over these trainable weights, by name."""
