"""Projected gradient descent on the embeddings (Madry et al. 2018, as "K-PGD" in FreeLB, arXiv:1909.11764)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.perturbed import Ascending
from robusweep.training.radius import Radius

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Pgd(Ascending):
    """Train on the worst perturbation found by ``n_steps`` ascent steps inside the ball.

    ``clean_weight``: what the clean texts' loss counts beside the perturbed ones' 1; 0 trains on nothing else, 1 is
    the sum that Altinisik et al. use in their public code (for another paper: A3T).
    """

    kind: Literal["pgd"] = "pgd"
    clean_weight: float = Field(0.0, ge=0, le=100)

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.embedding import ascend

        delta = ascend(step, radius, n_steps=self.n_steps, step_size=self.step_size, init_size=self.init_size)
        clean = self.clean_weight * step.loss() if self.clean_weight else 0.0
        return step.learn(clean + step.loss(delta, space=radius.space))
