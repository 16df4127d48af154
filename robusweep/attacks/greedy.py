"""What a greedy word-substitution attack is, for the path without TextAttack's objects (``native``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Greedy:
    """How words are ranked, and what may replace one.

    ``nouns_for_verbs``: these two parts of speech may replace each other. ``neighbours``: the file that lists what may
    replace a word; None takes WordNet. ``lazy``: ask the victim about all candidates first, and check similarity from
    the most damaging one down.
    """

    ranking: Literal["delete", "unk", "weighted-saliency"]
    same_part_of_speech: bool = False
    nouns_for_verbs: bool = False
    max_candidates: int | None = None
    neighbours: str | None = None
    lazy: bool = False
