"""Adversarial self-attention (Wu et al., AAAI 2023, arXiv:2206.12608; repository adversarialSA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.base import Setting, TrainingMethod

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.training.step import Step


class Asa(TrainingMethod):
    """An adversary with weights of its own hides pairs of tokens from attention; the model learns to cope.

    In each layer one head over the whole hidden size decides which (query, key) pairs stay: a hard mask for all
    heads, trained through a straight-through gradient whose sign is reversed. Loss: clean cross-entropy, plus half
    the symmetric KL between the clean and the masked pass, plus ``tau`` squared times the ``penalty`` on pairs that
    are kept. So tau is no temperature: the larger, the *fewer* pairs the adversary hides. ``penalty``: ``sum_all``
    (the code's: all pairs of all layers, padding included, per text; it grows with length), ``sum_valid`` (pairs of
    real tokens), ``mean_valid`` (their share, mean over layers and texts). A token always sees itself: a row with
    every pair hidden would look at padding. ``warmup_share`` of the run is clean: on a model that has learnt nothing
    the penalty wins at once and the adversary never hides anything again.
    ``dropout: independent``: the two passes differ in dropout, too, as in the code.
    The adversary computes in float32, is trained at the method's learning rate, and is dropped afterwards: it costs
    nothing in use. ``readings`` hold the share of pairs kept, by layer; 1.0 means that this was R-Drop.
    """

    kind: Literal["asa"] = "asa"
    tau: float = Field(0.5, ge=0)
    weight: float = Field(1.0, gt=0)
    penalty: Literal["sum_all", "sum_valid", "mean_valid"] = "sum_all"
    warmup_share: float = Field(0.0, ge=0, lt=1)
    dropout: Literal["shared", "independent"] = "independent"

    @property
    def needs_masks(self) -> bool:
        return True

    def companion(self, setting: Setting) -> Module:
        from robusweep.training.adversary import Adversary

        return Adversary(setting.network, seed=setting.seed)

    def backward(self, step: Step) -> float:
        from robusweep.training.adversary import Adversary, hiding
        from robusweep.training.divergence import symmetric_kl

        clean = step.logits()
        if step.progress <= self.warmup_share:
            return step.learn(step.cross_entropy(clean))
        assert isinstance(step.companion, Adversary)
        with hiding(step, step.companion) as masks:
            hidden = step.logits(dropout=self.dropout)
        apart = step.mean(symmetric_kl(clean, hidden)) / 2
        kept = step.companion.penalty(masks, step.mask, how=self.penalty)
        return step.learn(step.cross_entropy(clean) + self.weight * apart + self.tau**2 * kept)
