"""Greedy word substitution without TextAttack's objects: the same questions, the same outcome, a fraction of the cost.

What TextAttack's ``GreedyWordSwapWIR`` does with an ``AttackedText`` for each query, this does with token ids: words
are ranked, then swapped in that order for the candidate that does most damage. Candidates and their parts of speech are
looked up once for each place of a text. Order of candidates, ties, budgets and the choice among several successes are
TextAttack's, and a test holds every outcome against it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from robusweep.attacks.greedy import Greedy
from robusweep.attacks.library import words_from_text
from robusweep.attacks.lockstep import Service, ask
from robusweep.attacks.neighbours import neighbours_of
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import synonyms
from robusweep.attacks.similarity import Similarity, blocks
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.attacks.surface import Rows, Strings, Surface, proper
from robusweep.attacks.tagger import tagger

Neighbours = Callable[[str], "Rows | Strings"]  # of a text: what the victim is asked about it


@dataclass(frozen=True)
class Found:
    """How a search ended; the last four are those of a broken text."""

    status: Literal["broken", "survived", "misclassified"]
    n_queries: int
    exhausted: bool = False
    text: str | None = None
    similarity: float | None = None
    n_changed: int | None = None


@dataclass(frozen=True)
class State:
    """A text on the way, its score (1 - probability of the label) and the similarity of each block with a change."""

    surface: Surface
    score: float
    similarities: dict[int, float]


@dataclass(frozen=True)
class Step:
    """One candidate at one place of a state."""

    place: int
    new: str
    block: int = 0  # that the place is in
    similarity: float | None = None  # of that block; None: not measured, or not yet

    def similarities(self, state: State) -> dict[int, float]:
        """Those of the text that it makes."""
        return state.similarities if self.similarity is None else state.similarities | {self.block: self.similarity}


class Asked:
    """The victim's answers about one example, counted and limited as TextAttack does."""

    def __init__(self, service: Service, label: int, budget: int | None) -> None:
        self._service, self._label = service, label
        self._left = float("inf") if budget is None else budget
        self.n_queries = 0

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return self._left == 0

    def __call__(self, queries: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(scores, whether the prediction is another label), for as many of the queries as the budget allows."""
        if self._left < len(queries):
            queries = queries[: int(self._left)]
        self._left -= len(queries)
        self.n_queries += len(queries)
        if not queries:
            return np.zeros(0), np.zeros(0, dtype=bool)
        p = probabilities(ask(self._service, list(queries), draws=False))
        return 1 - p[:, self._label], p.argmax(axis=1) != self._label


def probabilities(logits: Any) -> NDArray[np.float64]:
    """Softmax over classes in float64; TextAttack's path takes it too, so that ties stay ties."""
    found = np.array(logits, dtype=np.float64)
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    return found


def search(
    greedy: Greedy,
    protocol: Protocol,
    surface: Surface,
    neighbours: Neighbours,
    service: Service,
    label: int,
    similarity: Similarity | None,
) -> Found:
    """Attack one text. ``service`` answers the queries that ``neighbours`` makes with logits."""
    return _Search(greedy, protocol, surface, neighbours, service, label, similarity).run()


class _Search:
    def __init__(
        self,
        greedy: Greedy,
        protocol: Protocol,
        surface: Surface,
        neighbours: Neighbours,
        service: Service,
        label: int,
        similarity: Similarity | None,
    ) -> None:
        self.greedy, self.protocol, self.original = greedy, protocol, surface
        self.neighbours = lru_cache(1)(neighbours)  # a text is asked about again and again before it changes
        self.asked = Asked(service, label, protocol.max_queries(len(surface.words)))
        self.similarity = similarity
        self.firsts = blocks(len(surface.words), similarity.block if similarity else None)

    def run(self) -> Found:
        scores, wrong = self.asked([self.neighbours(self.original.text).whole()])
        if wrong[0]:
            return Found("misclassified", self.asked.n_queries)
        state = State(self.original, float(scores[0]), {})
        for place in self._order(state):
            if self.asked.over:
                break
            steps = self._steps(state, [place])
            if not steps:
                continue
            scores, wrong = self._scores(state, steps)
            ranked = np.argsort(-scores, kind="stable").tolist()
            if self.greedy.lazy:
                steps, ranked = self._first_similar(state, steps, ranked, scores, wrong)
            if not ranked or not scores[ranked[0]] > state.score:
                continue
            if wrong[ranked[0]]:
                return self._broken(state, self._most_similar(state, steps, ranked, wrong))
            state = self._accept(state, steps[ranked[0]], float(scores[ranked[0]]))
        return Found("survived", self.asked.n_queries, exhausted=self.asked.over)

    # ------------------------------------------------------------------------------------------- ranking
    def _order(self, state: State) -> list[int]:
        """Places in the order in which they are tried. Sets are intersected as TextAttack does: order and ties
        count."""
        n = len(state.surface.words)
        places = list(set(range(n)) & self._allowed_words(n) if n else set())
        if not places:
            return []
        near = self.neighbours(state.surface.text)
        if self.greedy.ranking == "delete":
            edits = [near.edited(*state.surface.deletion(place), [""])[0] for place in places]
        else:
            spans = [(state.surface.begins[place], state.surface.ends[place]) for place in places]
            edits = [near.edited(*span, ["[UNK]"])[0] for span in spans]
        importance, _ = self.asked(edits)
        if self.greedy.ranking == "weighted-saliency":
            importance = self._weighted(state, places, importance)
        order: list[int] = np.array(places)[(-importance).argsort()].tolist()
        return order

    def _allowed_words(self, n: int) -> set[int]:
        if not self.protocol.no_stop_words:
            return set(range(n))
        return {i for i, word in enumerate(self.original.words) if word.lower() not in STOP_WORDS}

    def _weighted(self, state: State, places: Sequence[int], saliency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Saliency, after a softmax in float32, times the largest score that a candidate achieves (PWWS)."""
        weights = torch.softmax(torch.tensor(saliency.tolist()), dim=0).numpy()
        gains = np.zeros(len(weights))
        if not self.asked.over:
            steps = self._steps(state, places, ranking=True)
            scores, _ = self._scores(state, steps)
            for step, score in zip(steps, scores.tolist(), strict=False):
                at = places.index(step.place)
                gains[at] = max(gains[at], score)
        found: NDArray[np.float64] = weights * gains
        return found

    # ---------------------------------------------------------------------------------------- candidates
    def _steps(self, state: State, places: Iterable[int], *, ranking: bool = False) -> list[Step]:
        """The candidates that the protocol allows, place by place, in the alphabetical order of the texts they make."""
        steps = self._candidate_steps(state, places)
        return steps if self.greedy.lazy and not ranking else self._similar(state, steps)

    def _candidate_steps(self, state: State, places: Iterable[int]) -> list[Step]:
        if len(state.surface.changed) >= self.protocol.max_changes(len(self.original.words)):
            return []
        steps = []
        for place in places:
            after = state.surface.text[state.surface.ends[place] :]
            news = sorted(self._candidates(place), key=lambda new: new + after)
            steps += [Step(place, new) for new in news]
        return steps

    def _candidates(self, place: int) -> tuple[str, ...]:
        words = self.original.words
        before, after = tuple(words[max(0, place - 4) : place]), tuple(words[place + 1 : place + 4])
        return _candidates(before, words[place], after, self.greedy)

    def _similar(self, state: State, steps: Sequence[Step]) -> list[Step]:
        """Those steps that make texts similar enough, with the similarity of the block they change."""
        if self.similarity is None or not steps:
            return list(steps)
        lasts = [*(first - 1 for first in self.firsts[1:]), len(self.original.words) - 1]
        at = [bisect_right(self.firsts, step.place) - 1 for step in steps]
        spans = [(self.firsts[block], lasts[block]) for block in at]
        pairs = [
            (self.original.span(*span), state.surface.span_with(*span, step.place, step.new))
            for step, span in zip(steps, spans, strict=True)
        ]
        measured = zip(steps, at, self.similarity.of(pairs).tolist(), strict=True)
        return [
            Step(step.place, step.new, block, cosine)
            for step, block, cosine in measured
            if cosine >= self.similarity.minimum
        ]

    def _first_similar(
        self,
        state: State,
        steps: Sequence[Step],
        ranked: list[int],
        scores: NDArray[np.float64],
        wrong: NDArray[np.bool_],
    ) -> tuple[list[Step], list[int]]:
        """Steps with similarities where they matter, and the ranking without those found too dissimilar.

        From the top: until one is similar enough, and, where that one succeeds, until the successes end.
        """
        found: list[Step] = list(steps)
        kept: list[int] = []
        for i in ranked:
            going_on = wrong[kept[0]] and wrong[i] if kept else scores[i] > state.score
            if not going_on:
                break
            for measured in self._similar(state, [steps[i]]):
                found[i] = measured
                kept.append(i)
        return found, kept

    def _scores(self, state: State, steps: Sequence[Step]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        near = self.neighbours(state.surface.text)
        edits: list[Any] = []
        begin = 0
        while begin < len(steps):
            place, end = steps[begin].place, begin
            while end < len(steps) and steps[end].place == place:
                end += 1
            span = state.surface.begins[place], state.surface.ends[place]
            edits += near.edited(*span, [step.new for step in steps[begin:end]])
            begin = end
        return self.asked(edits)

    # -------------------------------------------------------------------------------------------- moving
    def _accept(self, state: State, step: Step, score: float) -> State:
        return State(state.surface.swapped(step.place, step.new), score, step.similarities(state))

    @staticmethod
    def _most_similar(state: State, steps: Sequence[Step], ranked: Sequence[int], wrong: NDArray[np.bool_]) -> Step:
        """Of the successes at the top of the ranking, the most similar one; the first where nothing is measured."""
        best, highest = steps[ranked[0]], -float("inf")
        for i in ranked:
            if not wrong[i] or steps[i].similarity is None:
                break
            lowest = min(steps[i].similarities(state).values())
            if lowest > highest:
                best, highest = steps[i], lowest
        return best

    def _broken(self, state: State, step: Step) -> Found:
        surface = state.surface.swapped(step.place, step.new)
        changed = sum(a != b for a, b in zip(self.original.words, surface.words, strict=True))
        return Found(
            "broken",
            self.asked.n_queries,
            text=surface.text,
            similarity=min(step.similarities(state).values(), default=None),
            n_changed=changed,
        )


@lru_cache(2**17)
def _candidates(before: tuple[str, ...], word: str, after: tuple[str, ...], greedy: Greedy) -> tuple[str, ...]:
    """What may replace a word in its context, first senses first."""
    news = one_word_synonyms(word, greedy.max_candidates, greedy.neighbours)
    if not greedy.same_part_of_speech or not news:
        return news
    found = tagger()
    old = found.tag_at([*before, word, *after], len(before))
    allowed = {old} | ({"NOUN", "VERB"} if greedy.nouns_for_verbs and old in {"NOUN", "VERB"} else set())
    return tuple(new for new in news if found.tag_at([*before, proper(new)[1], *after], len(before)) in allowed)


@lru_cache(2**14)
def one_word_synonyms(word: str, most: int | None, file: str | None = None) -> tuple[str, ...]:
    """The first synonyms that TextAttack takes for one word, and that are not the word itself.

    They are WordNet's, or the neighbours that ``file`` lists.
    """
    found = synonyms().of(word) if file is None else neighbours_of(word, file)
    names = [name for name in found if len(words_from_text(name)) == 1]
    return tuple(name for name in names[:most] if name != word)
