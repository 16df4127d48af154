"""R3F (Aghajanyan et al., ICLR 2021, arXiv:2008.03156): predictions that stay the same under random noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.perturbed import Perturbed
from robusweep.training.radius import Radius, RadiusEntry

if TYPE_CHECKING:
    from robusweep.training.step import Step


class R3f(Perturbed):
    """Cross-entropy plus ``weight`` times the symmetric KL between the clean and the noisy prediction. No ascent.

    ``noise``: ``uniform`` in the coordinate ball [-radius, radius], or ``normal`` with that standard deviation (not
    bounded), as in fairseq. In a ball of another norm the noise is uniform with the radius as root-mean-square
    length, moved inside. ``dropout: independent`` gives the two passes masks of their own, as the source does: with
    dropout on, the term is then R-Drop's even without noise; ``shared`` leaves the noise alone to differ.
    """

    kind: Literal["r3f"] = "r3f"
    radius: RadiusEntry = Radius(value=1e-5, norm="linf", scope="coordinate")
    weight: float = Field(1.0, gt=0)
    noise: Literal["uniform", "normal"] = "uniform"
    dropout: Literal["shared", "independent"] = "shared"

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.divergence import symmetric_kl
        from robusweep.training.noise import random_perturbation

        delta = random_perturbation(step, radius, noise=self.noise)
        clean = step.logits()
        noisy = step.logits(delta, space=radius.space, dropout=self.dropout)
        return step.learn(step.cross_entropy(clean) + self.weight * step.mean(symmetric_kl(clean, noisy)))
