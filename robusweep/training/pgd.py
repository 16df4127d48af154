"""Projected gradient descent on the embeddings (Madry et al. 2018, as "K-PGD" in FreeLB, arXiv:1909.11764)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.training.base import TrainingMethod
from robusweep.training.radius import Radius, RadiusEntry

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Pgd(TrainingMethod):
    """Train on the worst perturbation found by ``n_steps`` ascent steps inside the ball, and on nothing else.

    ``step_size``: length of one step in the ball's own norm, times the length scale; null takes 1.5 radius / n_steps.
    ``init_size``: the random start is uniform with a root-mean-square norm of init_size / sqrt(3) (FreeLB's 1 /
    sqrt(n_tokens * hidden) scaling); 0 starts at the clean embeddings.
    ``radius_warmup``: the share of all steps over which the radius grows linearly from 0 to its value (ours: a head
    that is drawn at random learns nothing from a large radius at once). All forward passes of a batch share their
    dropout masks. With radius 0 this is ``standard`` bit for bit.
    """

    kind: Literal["pgd"] = "pgd"
    radius: RadiusEntry
    n_steps: int = Field(3, ge=1, le=100)
    step_size: float | None = Field(None, gt=0)
    init_size: float = Field(0.0, ge=0)
    radius_warmup: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _steppable(self) -> Pgd:
        if self.radius.value is None and self.step_size is None:
            raise ValueError("an unbounded radius (null) needs a step_size")
        if self.radius.value is None and self.radius_warmup:
            raise ValueError("an unbounded radius (null) can't grow: set radius_warmup to 0")
        return self

    def radius_at(self, progress: float) -> Radius:
        """The radius when this share of the steps is done, the current one included."""
        if self.radius.value is None or progress >= self.radius_warmup:
            return self.radius
        return self.radius.model_copy(update={"value": self.radius.value * progress / self.radius_warmup})

    def backward(self, step: Step) -> float:
        if self.radius.value == 0:
            loss = step.loss()
        else:
            from robusweep.training.embedding import ascend

            radius = self.radius_at(step.progress)
            delta = ascend(step, radius, n_steps=self.n_steps, step_size=self.step_size, init_size=self.init_size)
            loss = step.loss(delta, space=radius.space)
        loss.backward()
        return float(loss.detach())
