"""Projected gradient descent on the embeddings (Madry et al. 2018, as "K-PGD" in FreeLB, arXiv:1909.11764)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.training.base import TrainingMethod
from robusweep.training.radius import RadiusEntry

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Pgd(TrainingMethod):
    """Train on the worst perturbation found by ``n_steps`` ascent steps inside the ball; the clean loss is not
    used.

    ``step_size``: length of one step in the ball's own norm, times the length scale; null takes 1.5 radius /
    n_steps.
    ``init_size``: the random start is uniform with a root-mean-square norm of init_size / sqrt(3) (FreeLB's
    1 / sqrt(n_tokens * hidden) scaling); 0 starts at the clean embeddings. All forward passes of a batch share
    their
    dropout masks. With radius 0 this is ``standard`` bit for bit.
    """

    kind: Literal["pgd"] = "pgd"
    radius: RadiusEntry
    n_steps: int = Field(3, ge=1, le=100)
    step_size: float | None = Field(None, gt=0)
    init_size: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _steppable(self) -> Pgd:
        if self.radius.value is None and self.step_size is None:
            raise ValueError("an unbounded radius (null) needs a step_size")
        return self

    def backward(self, step: Step) -> float:
        if self.radius.value == 0:
            loss = step.loss()
        else:
            from robusweep.training.embedding import ascend

            delta = ascend(step, self.radius, n_steps=self.n_steps, step_size=self.step_size, init_size=self.init_size)
            loss = step.loss(delta, space=self.radius.space)
        loss.backward()
        return float(loss.detach())
