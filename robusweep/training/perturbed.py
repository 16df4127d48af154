"""What training methods with a radius share: the radius, its growth, and clean training when it is 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from robusweep.training.base import TrainingMethod
from robusweep.training.radius import Radius, RadiusEntry

if TYPE_CHECKING:
    from robusweep.training.step import Step

FLOAT32_BELOW = 1e-3  # smaller perturbations are lost when bfloat16 rounds what they are added to


class Perturbed(TrainingMethod, ABC):
    """Training with embeddings that move inside a ball. With radius 0 this is ``standard`` bit for bit.

    ``radius_warmup``: the share of all steps over which the radius grows linearly from 0 to its value (ours: a head
    that is drawn at random learns nothing from a large radius at once). Below a radius of 0.001 training is in
    float32 whatever the recipe says: bfloat16 would round such perturbations away.
    """

    radius: RadiusEntry
    radius_warmup: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _bounded(self) -> Perturbed:
        if self.radius.value is None and self.radius_warmup:
            raise ValueError("an unbounded radius (null) can't grow: set radius_warmup to 0")
        return self

    @property
    def needs_float32(self) -> bool:
        return self.radius.value is not None and self.radius.value < FLOAT32_BELOW

    def radius_at(self, progress: float) -> Radius:
        """The radius when this share of the steps is done, the current one included."""
        if self.radius.value is None or progress >= self.radius_warmup:
            return self.radius
        return self.radius.model_copy(update={"value": self.radius.value * progress / self.radius_warmup})

    def backward(self, step: Step) -> float:
        if self.radius.value == 0:
            return step.learn(step.loss())
        return self.perturbed(step, self.radius_at(step.progress))

    @abstractmethod
    def perturbed(self, step: Step, radius: Radius) -> float:
        """``backward`` with a ball of this radius, which is not 0."""


class Ascending(Perturbed, ABC):
    """Perturbations that climb the loss in normalised steps.

    ``n_steps``: how many. ``step_size``: length of one step in the ball's own norm, times the length scale; null
    takes 1.5 radius / n_steps. ``init_size``: the random start is uniform with a root-mean-square norm of
    init_size / sqrt(3) (FreeLB's 1 / sqrt(n_tokens * hidden) scaling); 0 starts at the clean embeddings.
    All forward passes of a batch share their dropout masks.
    """

    n_steps: int = Field(3, ge=1, le=100)
    step_size: float | None = Field(None, gt=0)
    init_size: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _steppable(self) -> Ascending:
        if self.radius.value is None and self.step_size is None:
            raise ValueError("an unbounded radius (null) needs a step_size")
        return self
