"""Fake defences that must be flagged, honest victims that must not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from victims import WordPieces

from robusweep.attacks import PROTOCOLS, flags
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.evaluation import Evaluation, Terms
from robusweep.attacks.hard_label import HardLabelWordNet
from robusweep.attacks.pwws import Pwws
from robusweep.cache import Cache
from robusweep.examples import Example, Gradient, Row
from robusweep.record import FLAGS, AttackOutcome
from robusweep.scores import Rate

STANDARD = PROTOCOLS["standard_v1"]


class Sharp(WordPieces):
    """Logits a thousand times as large."""

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return super().logits(rows) * np.float32(1000)


class Rounded(WordPieces):
    """Probabilities rounded to one digit."""

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        logits = super().logits(rows)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        rounded = np.round(p / p.sum(axis=1, keepdims=True), 1)
        return np.log(rounded + 1e-3).astype(np.float32)


class Noisy(WordPieces):
    """A draw added to every logit."""

    def __init__(self, tokenizer: Any, scale: float = 0.2) -> None:
        super().__init__(tokenizer)
        self.draws, self.scale = np.random.default_rng(1), scale

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        logits = super().logits(rows)
        return logits + self.draws.normal(scale=self.scale, size=logits.shape).astype(np.float32)


class Blocked(WordPieces):
    """No gradient comes back."""

    def gradients(self, texts: Sequence[str]) -> list[Gradient]:
        return [Gradient(g.ids, g.tokens, np.zeros_like(g.values)) for g in super().gradients(texts)]


class Crowded(WordPieces):
    """What else is asked moves the answer."""

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return super().logits(rows) + np.float32(0.01 * len(rows)) * np.array([1, 0, 0], dtype=np.float32)


class Undecided(WordPieces):
    """Probabilities near a third."""

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return super().logits(rows) / np.float32(1000)


FAKES = {
    Sharp: "saturated",
    Rounded: "coarse_scores",
    Noisy: "nondeterministic",
    Blocked: "zero_gradient",
    Crowded: "depends_on_batch",
    Undecided: "flat",
}


def names(found: Sequence[Any]) -> set[str]:
    return {flag.name for flag in found}


@pytest.mark.parametrize("fake", FAKES, ids=lambda fake: fake.__name__)
def test_a_fake_defence_is_flagged_for_what_it_is(fake: type[WordPieces], tokenizer: Any, reviews: list[str]) -> None:
    victim = fake(tokenizer)
    found = flags.of_victim(victim, victim, reviews, Rate.of(150, len(reviews)))
    assert FAKES[fake] in names(found)
    assert names(found) <= set(FLAGS)
    assert all(flag.detail for flag in found)


def test_an_honest_victim_has_no_flag(word_pieces: WordPieces, reviews: list[str]) -> None:
    assert flags.of_victim(word_pieces, word_pieces, reviews, Rate.of(150, len(reviews))) == []


def test_a_sure_victim_that_is_as_good_as_it_says_is_not_saturated(tokenizer: Any, reviews: list[str]) -> None:
    sure = WordPieces(tokenizer, sharpness=400.0)
    n = len(reviews)
    assert "saturated" in names(flags.of_victim(sure, sure, reviews, Rate.of(n - 40, n)))
    certain = flags._confidence(np.tile(np.float32([[0.0, 7.0]]), (n, 1)), Rate.of(n, n))
    assert certain == []


def outcome(i: int, status: Any, n_queries: int = 10, **fields: Any) -> AttackOutcome:
    return AttackOutcome(example_id=str(i), label=0, status=status, n_queries=n_queries, n_words=9, **fields)


def test_used_up_budgets_are_flagged_above_a_fifth() -> None:
    def suite(n: int) -> Any:
        rows = [outcome(i, "survived", exhausted=i < n) for i in range(10)]
        return {"pwws": (Pwws(), [*rows, outcome(10, "misclassified")])}

    assert flags.of_outcomes(suite(2)) == []
    assert names(flags.of_outcomes(suite(3))) == {"budget_exhausted"}


def test_an_attack_on_labels_that_beats_those_on_scores_is_flagged() -> None:
    def suite(n_only_labels: int, n_only_scores: int) -> Any:
        by_labels = [outcome(i, "broken" if i < n_only_labels else "survived") for i in range(40)]
        by_scores = [outcome(i, "broken" if i >= 40 - n_only_scores else "survived") for i in range(40)]
        return {"pwws": (Pwws(), by_scores), "hard_label_wordnet": (HardLabelWordNet(), by_labels)}

    assert flags.of_outcomes(suite(3, 0)) == []  # three texts may be luck
    assert names(flags.of_outcomes(suite(6, 0))) == {"labels_beat_scores"}
    assert flags.of_outcomes(suite(6, 6)) == []
    assert flags.of_outcomes({"hard_label_wordnet": suite(6, 0)["hard_label_wordnet"]}) == []


def test_a_temperature_that_costs_accuracy_under_attack_is_flagged() -> None:
    standing, broken = ([outcome(i, status) for i in range(24)] for status in ("survived", "broken"))
    assert names(flags.of_calibration(standing, broken, 80.0)) == {"uncalibrated_gain"}
    assert flags.of_calibration(broken, standing, 80.0) == []
    assert flags.of_calibration([*standing[:22], *broken[22:]], standing, 80.0) == []


def test_what_breaks_with_fewer_queries_and_not_with_more_is_flagged() -> None:
    examples = [Example(f"text {i}", 0) for i in range(4)]
    full = [outcome(0, "broken", 40), outcome(1, "survived"), outcome(2, "broken", 60), outcome(3, "misclassified")]
    asked = []

    def again(protocol: Any, few: Sequence[Example]) -> list[AttackOutcome]:
        asked.append((protocol.query_budget, len(few)))
        return second

    second = [outcome(0, "survived"), outcome(1, "survived"), outcome(2, "broken", 20), outcome(3, "misclassified")]
    assert flags.of_smaller_budget(again, STANDARD, examples, full) == []
    second = [outcome(0, "broken"), outcome(1, "broken"), outcome(2, "survived"), outcome(3, "misclassified")]
    assert names(flags.of_smaller_budget(again, STANDARD, examples, full)) == {"less_budget_breaks_more"}
    assert asked == [(25, 4)] * 2  # half of what a success took
    assert flags.of_smaller_budget(again, STANDARD, examples, full[1:2]) == []  # nothing broke: nothing to compare


def test_an_evaluation_asks_an_honest_victim_nothing_for_the_smaller_budget(
    word_pieces: WordPieces, review_examples: list[Example], tmp_path: Any
) -> None:
    few = review_examples[:30]
    evaluation = Evaluation(
        word_pieces,
        word_pieces,
        digest="x",
        clean=few,
        calibration=None,
        terms=Terms(STANDARD, 0, False, "cpu"),
        cache=Cache(tmp_path),
    )
    attack = DeepWordBug()
    outcomes = evaluation.attack(attack, few)
    assert evaluation.flags({"deepwordbug": (attack, outcomes)}, few) == []
    n_asked = word_pieces.n_asked
    assert evaluation.attack(attack, few) == outcomes  # from the log
    assert word_pieces.n_asked == n_asked
