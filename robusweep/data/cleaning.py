"""What every corpus goes through before it is split. Each step says in words how many rows it touched.

1. A text is cut to ``max_words`` white-space words, never more than 5,000 words and 50,000 characters.
2. A row whose text is empty or white space is dropped.
3. Two texts are the same when they agree after white-space folding and case folding. A text that carries two
   different labels is dropped with all its rows, in the official test part too; of the others the first row stays.
4. A text of the official test part is dropped from the train part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from robusweep.data.base import Corpus, Row

MAX_WORDS = 5_000
MAX_CHARACTERS = 50_000


def folded(text: str) -> str:
    """What two texts have in common when they count as the same."""
    return " ".join(text.split()).casefold()


def cut(text: str, n_words: int) -> str:
    """The first ``n_words`` words without the white space around them; white space between them stays as it is."""
    text = text.strip()[:MAX_CHARACTERS]
    words = text.split(None, n_words)
    return text[: len(text) - len(words[n_words])].rstrip() if len(words) > n_words else text.rstrip()


def cleaned(corpus: Corpus, max_words: int | None) -> Corpus:
    """The corpus with the rules of this module applied, and notes on what they did."""
    n_words = min(max_words or MAX_WORDS, MAX_WORDS)
    notes = list(corpus.notes)
    rows = readable(corpus.rows, n_words, "", notes)
    test = None if corpus.test is None else readable(corpus.test, n_words, " of the official test part", notes)
    ambiguous = two_labels([*rows, *(test or [])])
    n_before = len(rows) + len(test or [])
    rows, test = without(rows, ambiguous), None if test is None else without(test, ambiguous)
    note(notes, n_before - len(rows) - len(test or []), "rows whose text carries two different labels")
    rows = first_of_each(rows, "repeated texts", notes)
    if test is not None:
        test = first_of_each(test, "repeated texts of the official test part", notes)
        kept = without(rows, {folded(row.text) for row in test})
        note(notes, len(rows) - len(kept), "texts of the train part that are in the official test part")
        rows = kept
    return replace(corpus, rows=tuple(rows), test=None if test is None else tuple(test), notes=tuple(notes))


def note(notes: list[str], n: int, what: str) -> None:
    """Nothing is noted about no rows."""
    if n:
        notes.append(f"dropped {what}: {n:,}")


def readable(rows: Sequence[Row], n_words: int, where: str, notes: list[str]) -> list[Row]:
    """Rows with their texts cut, without those of no text."""
    shorter = [replace(row, text=cut(row.text, n_words)) for row in rows]
    n_cut = sum(len(new.text) < len(old.text.strip()) for new, old in zip(shorter, rows, strict=True))
    if n_cut:
        notes.append(f"cut texts{where} to {n_words:,} words or {MAX_CHARACTERS:,} characters: {n_cut:,}")
    kept = [row for row in shorter if row.text]
    note(notes, len(rows) - len(kept), f"rows{where} with an empty text")
    return kept


def two_labels(rows: Iterable[Row]) -> set[str]:
    """The folded texts that carry more than one label."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[folded(row.text)].add(row.label)
    return {text for text, seen in labels.items() if len(seen) > 1}


def without(rows: Iterable[Row], texts: set[str]) -> list[Row]:
    """The rows whose folded text is not in ``texts``."""
    return [row for row in rows if folded(row.text) not in texts]


def first_of_each(rows: Sequence[Row], what: str, notes: list[str]) -> list[Row]:
    """The first row of each folded text."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(folded(row.text), row)
    note(notes, len(rows) - len(first), what)
    return list(first.values())
