"""SMART (Jiang et al., ACL 2020, arXiv:1911.03437): smooth predictions, and steps that stay near where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.training.base import Setting
from robusweep.training.perturbed import Ascending
from robusweep.training.radius import Radius, RadiusEntry

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.training.step import Step


class Smart(Ascending):
    """Cross-entropy plus ``weight`` times the symmetric KL between the clean and the worst perturbed prediction.

    The perturbation starts at Gaussian noise with standard deviation ``init_size`` and climbs the symmetric KL.
    ``normalise: paper_ball`` keeps it inside the radius, as the paper says. ``mtdnn_unit`` is what the authors' code
    does: each token's perturbation is scaled to a largest coordinate of about 1 whatever the radius; it is then
    thousands of times larger. ``proximal_weight`` times the symmetric KL to a running mean of the weights
    (``proximal_momentum``) is the paper's Bregman term, which the code lacks; 0 leaves it out.
    ``dropout: independent`` gives the perturbed pass that learns masks of its own, as the code does.
    """

    kind: Literal["smart"] = "smart"
    normalise: Literal["paper_ball", "mtdnn_unit"] = "paper_ball"
    radius: RadiusEntry = Radius(value=1e-5, norm="linf", scope="coordinate", space="post_ln")
    n_steps: int = Field(1, ge=1, le=100)
    step_size: float | None = Field(1e-3, gt=0)
    init_size: float = Field(1e-5, ge=0)
    weight: float = Field(1.0, gt=0)
    proximal_weight: float = Field(0.0, ge=0)
    proximal_momentum: float = Field(0.99, ge=0, lt=1)
    dropout: Literal["shared", "independent"] = "shared"

    @model_validator(mode="after")
    def _one_ball(self) -> Smart:
        if self.normalise == "mtdnn_unit" and "radius" in self.model_fields_set and self.radius.value:
            raise ValueError("normalise: mtdnn_unit has no radius: leave radius out, or take paper_ball")
        return self

    @property
    def needs_float32(self) -> bool:
        return self.normalise == "mtdnn_unit" or super().needs_float32  # its first noise is tiny, too

    @property
    def searches_from_predictions(self) -> bool:
        return True

    def companion(self, setting: Setting) -> Module | None:
        from robusweep.training.running_mean import RunningMean

        return RunningMean(setting.network, self.proximal_momentum) if self.proximal_weight else None

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.divergence import symmetric_kl
        from robusweep.training.running_mean import distance_to_mean
        from robusweep.training.virtual import largest_change, unit_change

        clean = step.logits()
        stride = 1e-3 if self.step_size is None else self.step_size
        search = unit_change if self.normalise == "mtdnn_unit" else largest_change
        delta = search(step, radius, clean.detach(), n_steps=self.n_steps, step_size=stride, init_size=self.init_size)
        moved = step.logits(delta, space=radius.space, dropout=self.dropout)
        loss = step.cross_entropy(clean) + self.weight * step.mean(symmetric_kl(clean, moved))
        if self.proximal_weight:
            loss = loss + self.proximal_weight * distance_to_mean(step, clean)
        return step.learn(loss)
