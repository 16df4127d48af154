"""Virtual adversarial training (Miyato et al. 2017, arXiv:1605.07725), or local distributional smoothness (LDS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.training.perturbed import Perturbed
from robusweep.training.radius import Radius

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Vat(Perturbed):
    """Cross-entropy plus ``weight`` times KL(p(x) || p(x + delta)) for the direction that changes predictions most.

    ``n_steps`` power iterations find the direction from a random one: each takes the gradient of the KL at a small
    probe of ``probe_size`` (in the ball's norm, times the length scale; null takes a tenth of the radius. Public text
    code uses 1e-6, which float32 rounds to noise). Then delta is that direction at the length of the radius. The
    clean prediction is a constant in the KL. Labels are not used to find delta.
    """

    kind: Literal["vat"] = "vat"
    weight: float = Field(1.0, gt=0)
    n_steps: int = Field(1, ge=1, le=100)
    probe_size: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _has_length(self) -> Vat:
        if self.radius.value is None:
            raise ValueError("radius: null has no length for delta: give a number")
        return self

    @property
    def searches_from_predictions(self) -> bool:
        return True

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.divergence import kl
        from robusweep.training.virtual import virtual_direction

        clean = step.logits()
        delta = virtual_direction(step, radius, clean.detach(), n_steps=self.n_steps, probe_size=self.probe_size)
        moved = step.logits(delta, space=radius.space)
        return step.learn(step.cross_entropy(clean) + self.weight * step.mean(kl(clean.detach(), moved)))
