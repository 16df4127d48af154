"""Training against mixtures of synonyms (ASCC: Dong et al., ICLR 2021; repository dongxinshuai/ASCC)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.base import Setting, TrainingMethod

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.training.step import Step


class Ascc(TrainingMethod):
    """Each word moves inside the convex hull of its own and its synonyms' embeddings: there is no radius.

    Weights over a word's candidates start even and climb KL(clean || moved) minus ``sparsity`` times their mean
    entropy in ``n_steps`` steps of Adam at ``search_rate``; sparse weights are near one real synonym. Loss: clean
    cross-entropy plus ``kl_weight`` times KL(clean || moved), whose gradient reaches both passes. Only words and
    synonyms that are one token each take part, at most ``n_synonyms`` for a word. Departures from the authors' code:
    WordNet instead of counter-fitted vectors; the entropy is the mean over words that have synonyms, where the code
    divides by a fixed 300 * 128; weights start even and not at random; dropout stays on while they climb, with the
    masks of the other passes.
    """

    kind: Literal["ascc"] = "ascc"
    n_steps: int = Field(10, ge=1, le=100)
    search_rate: float = Field(1.0, gt=0)
    sparsity: float = Field(15.0, ge=0)
    kl_weight: float = Field(4.0, gt=0)
    n_synonyms: int = Field(8, ge=1, le=64)

    @property
    def needs_lexicon(self) -> bool:
        return True

    @property
    def searches_from_predictions(self) -> bool:
        return True

    def companion(self, setting: Setting) -> Module:
        from robusweep.training.hull import candidates_of

        return candidates_of(setting, most=self.n_synonyms)

    def backward(self, step: Step) -> float:
        from robusweep.training.divergence import kl
        from robusweep.training.hull import Candidates, climb, moved

        table = step.companion
        assert isinstance(table, Candidates)
        clean = step.logits()
        places = table.places(step.ids, step.mask)
        if not places.any():
            return step.learn(step.cross_entropy(clean))
        weights = climb(
            step, places, clean.detach(), n_steps=self.n_steps, rate=self.search_rate, sparsity=self.sparsity
        )
        apart = step.mean(kl(clean, step.logits(moved(step, places, weights))))
        return step.learn(step.cross_entropy(clean) + self.kl_weight * apart)
