"""A text with a few words changed at random: synonyms, and the four edits of EDA."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Synonyms = Callable[[str], Sequence[str]]
Edit = Callable[[list[str], int, Synonyms, np.random.Generator], list[str]]

CORE = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")  # the word inside "(word," and the like


def with_synonyms(text: str, share: float, synonyms: Synonyms, rng: np.random.Generator) -> str | None:
    """The text with this share of its words, one at least, replaced by synonyms; None where no word has one."""
    return _edited(text, share, synonyms, rng, _replaced)


def eda(text: str, share: float, synonyms: Synonyms, rng: np.random.Generator) -> str | None:
    """The text after one of EDA's four edits, drawn at random (Wei and Zou, EMNLP 2019, arXiv:1901.11196).

    Synonyms replace words, synonyms of words are put in anywhere, words change places, words go. Unlike the authors'
    code this keeps case and punctuation, and no edit leaves a text as it was: None where it would.
    """
    return _edited(text, share, synonyms, rng, EDITS[rng.integers(len(EDITS))])


def _edited(text: str, share: float, synonyms: Synonyms, rng: np.random.Generator, edit: Edit) -> str | None:
    words = text.split()
    changed = edit(list(words), max(1, int(share * len(words))), synonyms, rng) if words else words
    return " ".join(changed) if changed != words else None


def _drawn(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _replaced(words: list[str], n: int, synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    for place in rng.permutation(len(words)).tolist():
        core = CORE.search(words[place])
        options = synonyms(core[0]) if core else ()
        if core and options:
            words[place] = words[place][: core.start()] + _drawn(options, rng) + words[place][core.end() :]
            n -= 1
        if n == 0:
            break
    return words


def _inserted(words: list[str], n: int, synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    cores = [core[0] for core in map(CORE.search, words) if core]
    able = [word for word in cores if synonyms(word)]
    for _ in range(n if able else 0):
        new = _drawn(synonyms(_drawn(able, rng)), rng)
        words.insert(int(rng.integers(len(words) + 1)), new)
    return words


def _swapped(words: list[str], n: int, _synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    for _ in range(n if len(words) > 1 else 0):
        i, j = rng.choice(len(words), size=2, replace=False).tolist()
        words[i], words[j] = words[j], words[i]
    return words


def _deleted(words: list[str], n: int, _synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    """EDA drops each word with the share's probability; so many at once is the same in the mean, and never none."""
    gone = set(rng.permutation(len(words))[: min(n, len(words) - 1)].tolist())
    return [word for i, word in enumerate(words) if i not in gone]


EDITS: tuple[Edit, ...] = (_replaced, _inserted, _swapped, _deleted)
