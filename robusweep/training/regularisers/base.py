"""What every regulariser offers: a term of the loss, and weights of its own where it needs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.training.step import Step


class Regulariser(Spec, ABC):
    """A term that is added to the loss of every pass that learns."""

    kind: str

    @property
    def needs_teacher(self) -> bool:
        """Whether it asks the network without its adapter, which full fine-tuning has not."""
        return False

    def companion(self, *, hidden_size: int, n_classes: int, seed: int) -> Module | None:  # noqa: ARG002
        """Weights of its own, trained with the network and dropped afterwards."""
        return None

    @abstractmethod
    def penalty(self, step: Step, companion: Module | None) -> Tensor:
        """The weighted term, a scalar, for the pass that ran last: ``step.hidden`` and ``step.answer`` are of it."""
