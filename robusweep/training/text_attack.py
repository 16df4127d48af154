"""Adversarial training in input space with texts found against the network as it learns (A2T, arXiv:2109.00544)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.training.base import Extra, Setting, TrainingMethod

if TYPE_CHECKING:
    from robusweep.training.step import Step


class TextAttackTraining(TrainingMethod):
    """Cross-entropy on clean texts and on those with which an attack succeeds against the network as it stands.

    After ``clean_epochs`` epochs, and again ``every`` so many, training texts are attacked in random order until
    ``share`` of their number have turned (Yoo and Qi, Findings of EMNLP 2021: 0.2, with their own attack A2T). These
    train with their old labels until the next attack (TextAttack's trainer drops them in the epochs between). The
    network is attacked without dropout, adapter included. The attack obeys the recipe's protocol, but for
    ``n_queries``, the budget for each text. ``loss_weight``: what such a text's loss counts beside a clean one's 1.
    """

    kind: Literal["text_attack"] = "text_attack"
    attack: str = "a2t_wordnet"
    clean_epochs: int = Field(1, ge=0)
    every: int = Field(1, ge=1)
    share: float = Field(0.2, ge=0, le=1)
    loss_weight: float = Field(1.0, gt=0, le=100)
    n_queries: int = Field(200, ge=1)

    @model_validator(mode="after")
    def _at_work(self) -> TextAttackTraining:
        if self.clean_epochs >= self.n_epochs:
            raise ValueError(
                f"clean_epochs: {self.clean_epochs} of {self.n_epochs} epochs are clean, so no text is ever attacked"
            )
        return self

    @property
    def attacks_with(self) -> list[str]:
        return [self.attack]

    @property
    def more_texts(self) -> float:
        return self.share

    @property
    def n_rounds(self) -> int:
        return -int(-(self.n_epochs - self.clean_epochs) // self.every)

    def extras(self, setting: Setting, epoch: int) -> list[Extra] | None:
        from robusweep.training.attacked import attacked_texts

        most = int(self.share * len(setting.tokens) + 1e-9)
        past = epoch - self.clean_epochs
        if past < 0 or past % self.every or not most:
            return None
        return attacked_texts(
            setting,
            kind=self.kind,
            live=True,
            attack=self.attack,
            most=most,
            n_queries=self.n_queries,
            weight=self.loss_weight,
            draw=epoch,
        )

    def backward(self, step: Step) -> float:
        return step.learn(step.loss())
