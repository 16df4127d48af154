"""Plain fine-tuning: the cross-entropy of the clean texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robusweep.training.base import TrainingMethod

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Standard(TrainingMethod):
    """Minimise cross-entropy on the texts as they are."""

    kind: Literal["standard"] = "standard"

    def backward(self, step: Step) -> float:
        return step.learn(step.loss())
