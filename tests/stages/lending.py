"""A lender for methods that look at texts: words of the tiny vocabulary, synonyms by a table, a sham attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.model import TextModel


@dataclass
class Lending:
    """``turns``: whether the attack succeeds with a text; ``asked`` collects how ``attacked`` was called."""

    base: TextModel
    table: Mapping[str, list[str]] = field(default_factory=dict)
    turns: Callable[[str], bool] = bool
    asked: list[dict[str, Any]] = field(default_factory=list)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.base.tokens(texts)

    def synonyms(self, word: str) -> list[str]:
        return self.table.get(word, [])

    def whole_words(self) -> dict[int, str]:
        special = set(self.base.tokenizer.all_special_ids)
        return {i: word for word, i in self.base.tokenizer.get_vocab().items() if i not in special}

    def continues(self) -> set[int]:
        return {self.base.tokenizer.get_vocab()["w97"]}

    def attacked(
        self, examples: Sequence[tuple[str, int]], *, network: Module | None, attack: str, n_queries: int, seed: int
    ) -> list[str | None]:
        weights = [] if network is None else [p.detach().clone() for p in network.parameters() if p.requires_grad]
        self.asked.append({"examples": list(examples), "network": network, "attack": attack, "weights": weights,
                           "n_queries": n_queries, "seed": seed, "training": network and network.training})  # fmt: skip
        return [f"{text} w0" if self.turns(text) else None for text, _ in examples]
