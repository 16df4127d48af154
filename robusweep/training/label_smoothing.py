"""Label smoothing (Szegedy et al. 2016), a cheap baseline for robustness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.base import TrainingMethod

if TYPE_CHECKING:
    from robusweep.training.step import Step


class LabelSmoothing(TrainingMethod):
    """Cross-entropy against targets that give ``smoothing`` of their mass evenly to all classes; 0 is ``standard``."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    smoothing: float = Field(0.1, ge=0, lt=1)

    def backward(self, step: Step) -> float:
        from torch.nn.functional import cross_entropy

        if self.smoothing == 0:
            return step.learn(step.loss())
        losses = cross_entropy(step.logits(), step.labels, label_smoothing=self.smoothing, reduction="none")
        return step.learn(step.mean(losses))
