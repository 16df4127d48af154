"""Static data augmentation: changed texts beside the clean ones, made before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from robusweep.training.augmented import Augmented

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Augment(Augmented):
    """Cross-entropy on clean and changed texts, the changed ones made once, before the first epoch.

    The input-space method that does not look at the network while it learns. ``share: 0`` is ``standard`` bit for
    bit. ``loss_weight``: what a changed text's loss counts beside a clean one's 1. ``only_changed`` leaves the clean
    texts out: with ``source: attack``, the adversarial adapters of AdpMixup (Nguyen & Le, EMNLP 2024).
    """

    kind: Literal["augment"] = "augment"
    source: Literal["synonyms", "eda", "attack"] = "synonyms"
    only_changed: bool = False

    @model_validator(mode="after")
    def _something_is_left(self) -> Augment:
        if self.only_changed and not self.share:
            raise ValueError("only_changed: with share: 0 there is nothing to train on")
        return self

    @property
    def leaves_out_given(self) -> bool:
        return self.only_changed

    def backward(self, step: Step) -> float:
        return step.learn(step.loss())
