"""Mixup of hidden states inside a batch (MixADA: Si et al., Findings of ACL 2021, arXiv:2012.15699)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.augmented import Augmented

if TYPE_CHECKING:
    from robusweep.training.step import Step


class MixAda(Augmented):
    """Learn from mixtures of two texts of a batch, with their labels mixed alike (TMix, Chen et al., ACL 2020).

    One share l for each batch comes from Beta(alpha, alpha), folded to at least 0.5. Each text's states are l times
    its own plus 1 - l times those of a random partner, at ``mix_at``: behind a layer, counted from 1, or what the
    classifier reads (``features``). The loss is l times the cross-entropy of the text's label plus 1 - l times that of
    the partner's. A partner's states at padding count as zero, and the text keeps its own mask: what of a longer
    partner lies behind its end is not attended to. Every batch is mixed; there is no second, unmixed pass.
    With ``source: attack`` attacked texts are among those that are mixed, as in MixADA.
    """

    kind: Literal["mixada"] = "mixada"
    source: Literal["none", "synonyms", "eda", "attack"] = "none"
    alpha: float = Field(0.2, gt=0, le=1000)
    mix_at: str = Field("features", pattern=r"^(features|layer:[1-9]\d*)$")

    def backward(self, step: Step) -> float:
        from robusweep.training.mixup import draw, mixed_logits, mixed_loss

        share, partner = draw(step, self.alpha)
        logits = mixed_logits(step, share, partner, at=self.mix_at)
        return step.learn(mixed_loss(step, logits, share, partner))
