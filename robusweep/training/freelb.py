"""FreeLB (Zhu et al., ICLR 2020, arXiv:1909.11764): every ascent step teaches the weights, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robusweep.training.perturbed import Ascending
from robusweep.training.radius import Radius

if TYPE_CHECKING:
    from robusweep.training.step import Step


class FreeLb(Ascending):
    """Minimise the mean loss over the ``n_steps`` perturbations along one ascent.

    ``n_steps`` counts passes that learn, so the perturbation moves n_steps - 1 times (fairseq's ``adv_steps`` is one
    less, the Hugging Face script's is the same). The first pass is at the start: the clean embeddings when
    ``init_size`` is 0. The norm bounds the whole text; only the start is scaled by its length.
    """

    kind: Literal["freelb"] = "freelb"

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.embedding import learn_along

        passes = learn_along(step, radius, n_steps=self.n_steps, step_size=self.step_size, init_size=self.init_size)
        return sum(loss for _, loss in passes) / self.n_steps
