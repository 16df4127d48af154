"""R-Drop (Liang et al., NeurIPS 2021, arXiv:2106.14448): the control for every method that compares two passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.base import TrainingMethod

if TYPE_CHECKING:
    from robusweep.training.step import Step


class RDrop(TrainingMethod):
    """The mean cross-entropy of two passes with different dropout, plus ``weight`` times the mean of both KLs.

    Without dropout the passes are equal and this is ``standard`` at twice the cost: ``validate`` refuses it.
    """

    kind: Literal["rdrop"] = "rdrop"
    weight: float = Field(1.0, gt=0)

    @property
    def needs_dropout(self) -> bool:
        return True

    def backward(self, step: Step) -> float:
        from robusweep.training.divergence import symmetric_kl

        first = step.logits()
        second = step.logits(dropout="independent")
        fit = (step.cross_entropy(first) + step.cross_entropy(second)) / 2
        return step.learn(fit + self.weight * step.mean(symmetric_kl(first, second)) / 2)
