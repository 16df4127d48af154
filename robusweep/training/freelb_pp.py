"""FreeLB++ (Li et al., EMNLP 2021, arXiv:2108.12777; repository TextDefender): FreeLB unbounded, with more steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.perturbed import Ascending
from robusweep.training.radius import Radius, RadiusEntry

if TYPE_CHECKING:
    from robusweep.training.step import Step


class FreeLbPp(Ascending):
    """``freelb`` without a bound on the norm; defaults are those of the authors' code.

    What holds the perturbation then is ``n_steps * step_size``. A radius may be given, and 0 is clean training.
    """

    kind: Literal["freelb_pp"] = "freelb_pp"
    radius: RadiusEntry = Radius(value=None)
    n_steps: int = Field(5, ge=1, le=100)
    step_size: float | None = Field(0.03, gt=0)
    init_size: float = Field(0.05, ge=0)

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.embedding import learn_along

        passes = learn_along(step, radius, n_steps=self.n_steps, step_size=self.step_size, init_size=self.init_size)
        return sum(loss for _, loss in passes) / self.n_steps
