"""Static data augmentation: changed texts beside the clean ones, made before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robusweep.training.augmented import Augmented

if TYPE_CHECKING:
    from robusweep.training.step import Step


class Augment(Augmented):
    """Cross-entropy on clean and changed texts, the changed ones made once, before the first epoch.

    The input-space method that does not look at the network while it learns. ``share: 0`` is ``standard`` bit for
    bit. ``loss_weight``: what a changed text's loss counts beside a clean one's 1.
    """

    kind: Literal["augment"] = "augment"
    source: Literal["synonyms", "eda", "attack"] = "synonyms"

    def backward(self, step: Step) -> float:
        return step.learn(step.loss())
