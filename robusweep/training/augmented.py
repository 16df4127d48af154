"""What methods with changed texts beside the clean ones share: where those come from, and how many there are."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robusweep.training.base import Extra, Setting, TrainingMethod
from robusweep.training.standard import Standard


class Augmented(TrainingMethod, ABC):
    """Training with changed texts that are made once, before the first epoch. Labels are kept.

    ``source: synonyms`` replaces words by WordNet synonyms; ``eda`` makes one of the four edits of Wei and Zou 2019
    (arXiv:1901.11196); ``attack`` takes what an attack finds against a network trained in the same way on clean texts
    (the same adapter and the same keys of the optimiser, with ``standard``), and only successes. That network is
    trained once and shared with an equal ``train`` block. An attack obeys the recipe's protocol, but for its budget.
    ``share``: changed texts for each clean one, and of each attack where several are listed; fewer come out where texts
    can't be changed or an attack fails.
    ``words_changed``: share of a text's words that one change touches, one word at least (not for ``attack``).
    """

    source: Literal["none", "synonyms", "eda", "attack"]
    share: float = Field(1.0, ge=0, le=10)
    words_changed: float = Field(0.1, gt=0, le=1)
    loss_weight: float = Field(1.0, gt=0, le=100)
    attack: str | Annotated[list[str], Field(min_length=1)] | None = None
    n_queries: int = Field(200, ge=1)

    @model_validator(mode="after")
    def _sourced(self) -> Augmented:
        if (self.source == "attack") != (self.attack is not None):
            raise ValueError("attack: needed with source: attack, and only there")
        if len(set(self.attacks_with)) != len(self.attacks_with):
            raise ValueError(f"attack: one is listed twice ({', '.join(self.attacks_with)})")
        if self.source == "attack" and self.share > 1:
            raise ValueError("share: an attack finds one text for each, so 1 is the most with source: attack")
        return self

    @property
    def attacks_with(self) -> list[str]:
        return [self.attack] if isinstance(self.attack, str) else self.attack or []

    @property
    def reference(self) -> TrainingMethod | None:
        if self.source != "attack" or not self.share:
            return None
        kept: dict[str, Any] = {name: getattr(self, name) for name in TrainingMethod.model_fields if name != "kind"}
        return Standard(**kept)

    @property
    def needs_lexicon(self) -> bool:
        return self.source in ("synonyms", "eda") and self.share > 0

    @property
    def more_texts(self) -> float:
        return 0.0 if self.source == "none" else self.share * max(1, len(self.attacks_with))

    def extras(self, setting: Setting, epoch: int) -> list[Extra] | None:
        most = round(self.more_texts * len(setting.tokens))
        if epoch or not most:
            return None
        if self.source != "attack":
            return self._reworded(setting, most)
        from robusweep.training.attacked import attacked_texts

        return [
            extra
            for attack in self.attacks_with
            for extra in attacked_texts(
                setting,
                kind=self.kind,
                live=False,
                attack=attack,
                most=round(self.share * len(setting.tokens)),
                n_queries=self.n_queries,
                weight=self.loss_weight,
                draw=0,
            )
        ]

    def _reworded(self, setting: Setting, most: int) -> list[Extra]:
        """Texts in random order, each changed once before one is changed twice."""
        from robusweep.seeds import generator
        from robusweep.training.rewording import eda, with_synonyms

        texts, lent = setting.lexicon(self.kind)
        change = eda if self.source == "eda" else with_synonyms
        found: list[tuple[str, int]] = []
        for turn in range(-int(-most // len(texts))):
            rng = generator(setting.seed, "reworded", turn)
            for i in rng.permutation(len(texts)).tolist():
                new = change(texts[i], self.words_changed, lent.synonyms, rng) if len(found) < most else None
                if new is not None:
                    found.append((new, setting.labels[i]))
        ids = lent.tokens([text for text, _ in found])
        return [Extra(row, label, self.loss_weight) for row, (_, label) in zip(ids, found, strict=True)]
