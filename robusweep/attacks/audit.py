"""Whether an adversarial text obeys its protocol, found from the two texts alone: nothing of the search is believed."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.examples import Example
from robusweep.record import AttackOutcome

ROUNDING = 1e-4  # of a cosine that was computed in another batch


def violations(attack: Attack, protocol: Protocol, example: Example, outcome: AttackOutcome) -> list[str]:
    """In words, every rule of the protocol that an outcome breaks. Loads torch where similarity has to be measured.

    Under ``library_constraints`` only the count of words is checked: each recipe has rules of its own.
    """
    from robusweep.attacks.library import words_from_text

    old = words_from_text(example.text)
    found = []
    budget = protocol.max_queries(len(old))
    if budget is not None and outcome.n_queries > budget:
        found.append(f"{outcome.n_queries} queries, {budget} allowed")
    if outcome.perturbed_text is None or attack.goal == "keep_label":
        return found
    new = words_from_text(outcome.perturbed_text)
    changed = changes(old, new)
    if outcome.n_words_changed != len(changed):
        found.append(f"{len(changed)} words changed, {outcome.n_words_changed} reported")
    if protocol.max_words_changed is not None and len(changed) > protocol.max_changes(len(old)):
        found.append(f"{len(changed)} words changed, {protocol.max_changes(len(old))} allowed")
    touched = {old[i].lower() for places, _ in changed for i in places}
    if protocol.no_stop_words and touched & STOP_WORDS:
        found.append(f"stop words changed: {', '.join(sorted(touched & STOP_WORDS))}")
    if protocol.min_similarity is not None and attack.level != "char":
        lowest = lowest_similarity(example.text, outcome.perturbed_text, protocol.similarity_block)
        if lowest < protocol.min_similarity - ROUNDING:
            found.append(f"similarity {lowest:.4f}, {protocol.min_similarity} asked")
    return found


def changes(old: Sequence[str], new: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """(places of old words, places of new words) that differ, a pair for each changed word.

    Texts of as many words are compared place by place. Others are aligned: a word that was split counts once.
    """
    if len(old) == len(new):
        return [([i], [i]) for i in range(len(old)) if old[i] != new[i]]
    found: list[tuple[list[int], list[int]]] = []
    for what, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "insert":
            found.append(([], list(range(c, d))))
        elif what != "equal":  # the last of several old words takes the new words that are left
            begins = [min(c + i, d) for i in range(b - a)] + [d]
            found += [([a + i], list(range(begins[i], begins[i + 1]))) for i in range(b - a)]
    return found


def n_words_changed(old: Sequence[str], new: Sequence[str]) -> int:
    """How many words of the old text were replaced, split or deleted, plus places where words were inserted."""
    return len(changes(old, new))


def lowest_similarity(old: str, new: str, block: int | None) -> float:
    """The lowest cosine, in float32, over the blocks of the old text that differ in the new one; 1.0 if none does."""
    from robusweep.attacks.encoder import sentence_encoder
    from robusweep.attacks.library import words_from_text
    from robusweep.attacks.similarity import blocks

    before, after = words_from_text(old), words_from_text(new)
    at = _places_in(before, after)
    spans_before, spans_after = _spans(old, before), _spans(new, after)
    pairs = []
    for first, end in pairwise([*blocks(len(before), block), len(before)]):
        if before[first:end] != after[at[first] : at[end]]:
            pairs.append(
                (_cut(old, spans_before[first:end]), _cut(new, spans_after[at[first] : at[end]])),
            )
    if not pairs:
        return 1.0
    return float(sentence_encoder("cpu", False).cosines(pairs).min())


def _places_in(old: Sequence[str], new: Sequence[str]) -> list[int]:
    """For each old word, and for the end, the place in the new text where it, or what replaces it, begins."""
    if len(old) == len(new):
        return list(range(len(old) + 1))
    at = [len(new)] * (len(old) + 1)
    for what, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for i in range(a, b):
            at[i] = c + i - a if what == "equal" else min(c + i - a, d)
    return at


def _spans(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    found, at = [], 0
    for word in words:
        begin = text.index(word, at)
        at = begin + len(word)
        found.append((begin, at))
    return found


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> str:
    return text[spans[0][0] : spans[-1][1]] if spans else ""
