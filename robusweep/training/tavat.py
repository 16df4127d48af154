"""Token-aware virtual adversarial training (Li and Qiu, AAAI 2021, arXiv:2004.14543)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.training.base import Setting
from robusweep.training.perturbed import Ascending
from robusweep.training.radius import Radius

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.training.step import Step


class Tavat(Ascending):
    """FreeLB with a second perturbation for each token, which the vocabulary remembers from batch to batch.

    Each pass learns a share of the loss. A token's perturbation starts at what its word had at its last use, climbs by
    steps of its own length, and is scaled by its length over the text's longest. Both perturbations together stay
    inside the ball. Departures from the authors' code: the loss is divided by ``n_steps``, padding neither starts nor
    remembers anything, the start is scaled for each text and not for the batch, and of several uses in a batch a word
    remembers the mean and not the sum.
    """

    kind: Literal["tavat"] = "tavat"
    n_steps: int = Field(2, ge=1, le=100)
    init_size: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _of_words(self) -> Tavat:
        if self.radius.scope != "sentence" or self.radius.space != "word":
            raise ValueError("radius: the vocabulary remembers word embeddings: scope sentence and space word only")
        return self

    def companion(self, setting: Setting) -> Module:
        from robusweep.training.vocabulary import Vocabulary

        return Vocabulary(setting.network, size=self.init_size, seed=setting.seed)

    def perturbed(self, step: Step, radius: Radius) -> float:
        from robusweep.training.vocabulary import learn_with_tokens

        return learn_with_tokens(step, radius, n_steps=self.n_steps, step_size=self.step_size, init_size=self.init_size)
