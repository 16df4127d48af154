"""A text as TextAttack edits it, without TextAttack's objects: words, what stands between them, and token ids."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any

import numpy as np

from robusweep.attacks.library import words_from_text
from robusweep.examples import Row, TokenVictim

PART = re.compile(r"\s*\S+|\s+$")  # white space and what stands behind it


class Surface:
    """``gaps[0] words[0] gaps[1] words[1] ... gaps[-1]``, joined, is the text. ``changed``: places of changed words."""

    def __init__(self, words: Sequence[str], gaps: Sequence[str], changed: frozenset[int] = frozenset()) -> None:
        self.words, self.gaps, self.changed = list(words), list(gaps), changed
        lengths = [n for gap, word in zip(gaps, words, strict=False) for n in (len(gap), len(word))]
        ends = list(accumulate(lengths, initial=0))
        self.begins, self.ends = ends[1::2], ends[2::2]  # of each word, in characters
        self.text = "".join(part for pair in zip(gaps, [*words, ""], strict=True) for part in pair)

    @classmethod
    def of(cls, text: str) -> Surface | None:
        """None for texts that TextAttack treats in ways of its own: several inputs, Chinese, odd lower case."""
        if "<SPLIT>" in text or re.search("[\u4e00-\u9fff]", text) or len(text.lower()) != len(text):
            return None
        words, gaps, at = words_from_text(text), [], 0
        for word in words:
            begin = text.index(word, at)
            if text.lower().find(word.lower(), at) != begin or words_from_text(word) != [word]:
                return None
            gaps.append(text[at:begin])
            at = begin + len(word)
        return cls(words, [*gaps, text[at:]])

    def swapped(self, place: int, new: str) -> Surface:
        """This text with one word replaced. Signs around the word proper, as in ``Dr.``, go to the gaps."""
        lead, word, trail = proper(new)
        words, gaps = list(self.words), list(self.gaps)
        words[place], gaps[place], gaps[place + 1] = word, gaps[place] + lead, trail + gaps[place + 1]
        return Surface(words, gaps, self.changed | {place})

    def deletion(self, place: int) -> tuple[int, int]:
        """The characters (begin, end) that go with a word: the word and one blank beside it, as TextAttack deletes."""
        begin, end = self.begins[place], self.ends[place]
        if end < len(self.text):
            if place == 0:
                end += self.text[end] == " "
            else:
                begin -= self.text[begin - 1] == " "
        return begin, end

    def span(self, first: int, last: int) -> str:
        """From the begin of one word to the end of another."""
        return self.text[self.begins[first] : self.ends[last]]

    def span_with(self, first: int, last: int, place: int, new: str) -> str:
        """``span`` after swapping the word at ``place``, which lies inside, for ``new``."""
        lead, word, trail = proper(new)
        before = self.text[self.begins[first] : self.begins[place]] + lead if first < place else ""
        behind = trail + self.text[self.ends[place] : self.ends[last]] if last > place else ""
        return before + word + behind


def proper(new: str) -> tuple[str, str, str]:
    """A candidate as (signs before, the word that TextAttack sees, signs behind)."""
    (word,) = words_from_text(new)
    begin = new.index(word)
    return new[:begin], word, new[begin + len(word) :]


class Strings:
    """What a victim is asked about a text and its neighbours, as strings."""

    def __init__(self, text: str) -> None:
        self._text = text

    def whole(self) -> Any:
        """The text itself."""
        return self._text

    def edited(self, begin: int, end: int, news: Sequence[str]) -> list[Any]:
        """The text with the characters ``begin`` to ``end`` replaced by each of ``news``."""
        before, after = self._text[:begin], self._text[end:]
        return [before + new + after for new in news]


class Rows:
    """The same as rows of token ids, put together from the ids of parts.

    A part is white space and what stands behind it: tokenizers don't look across. ``fits`` tells whether that holds for
    this text; where it does not, the victim must be asked about strings.
    """

    def __init__(self, victim: TokenVictim, text: str) -> None:
        self._victim, self._text = victim, text
        parts = PART.findall(text)
        pieces = victim.pieces(parts)
        self._ids = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
        self._ends = list(accumulate(map(len, parts)))  # of each part, in characters
        self._places = list(accumulate(map(len, pieces), initial=0))  # where the ids of each part begin

    def fits(self, row: Row) -> bool:
        """Whether the ids of the parts are those of the whole text, whose row is given."""
        return np.array_equal(self.whole(), row)

    def whole(self) -> Row:
        return self._victim.row([self._ids])

    def edited(self, begin: int, end: int, news: Sequence[str]) -> list[Row]:
        """As ``Strings.edited``; no new string holds white space."""
        first = min(bisect_right(self._ends, begin), len(self._ends) - 1)
        last = max(first, bisect_left(self._ends, end))
        if "" in news:  # the parts beside it may grow together
            first, last = max(0, first - 1), min(last + 1, len(self._ends) - 1)
        start = self._ends[first - 1] if first else 0
        before, after = self._text[start:begin], self._text[end : self._ends[last]]
        parts = [PART.findall(before + new + after) if "" in news else [before + new + after] for new in news]
        ids = iter(self._victim.pieces([part for local in parts for part in local]))
        left, right = self._ids[: self._places[first]], self._ids[self._places[last + 1] :]
        return [self._victim.row([left, *islice(ids, len(local)), right]) for local in parts]
