"""What every training method offers: fields of the optimiser, and the gradient of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from robusweep.spec import Spec

if TYPE_CHECKING:
    from robusweep.training.step import Step


class TrainingMethod(Spec, ABC):
    """How one adapter is trained: AdamW, linear warm-up and decay, length-grouped batches.

    ``learning_rate`` is the peak; ``warmup`` the fraction of all steps until it is reached. ``weight_decay`` is
    decoupled (AdamW). Gradients are clipped to the L2 length ``max_grad_norm``.
    """

    kind: str
    n_epochs: int = Field(3, ge=1, le=1000)
    learning_rate: float = Field(5e-4, gt=0, le=1)
    batch_size: int = Field(16, ge=1, le=4096)
    weight_decay: float = Field(0.0, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)

    @abstractmethod
    def backward(self, step: Step) -> float:
        """Leave the gradient of this batch's loss in the trainable parameters; return the loss (mean per example)."""
