"""The independent check of adversarial texts: what it accepts, and each rule that it finds broken."""

from __future__ import annotations

from typing import Any

import pytest

from robusweep.attacks import PROTOCOLS
from robusweep.attacks.audit import changes, lowest_similarity, n_words_changed, violations
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.input_reduction import InputReduction
from robusweep.attacks.pwws import Pwws
from robusweep.examples import Example
from robusweep.record import AttackOutcome

STANDARD = PROTOCOLS["standard_v1"]
TEXT = "The old harbour was full of small boats and happy people on that warm evening"


def outcome(text: str, n_changed: int, n_queries: int = 9) -> AttackOutcome:
    return AttackOutcome(
        example_id="x",
        label=0,
        status="broken",
        n_queries=n_queries,
        n_words=15,
        n_words_changed=n_changed,
        perturbed_text=text,
    )


def found(attack: Any, text: str, n_changed: int, n_queries: int = 9) -> list[str]:
    return violations(attack, STANDARD, Example(TEXT, 0), outcome(text, n_changed, n_queries))


@pytest.mark.usefixtures("hashed_similarity")
def test_a_small_change_breaks_no_rule() -> None:
    assert found(Pwws(), TEXT.replace("small", "little"), 1) == []
    assert found(DeepWordBug(), TEXT.replace("harbour", "habrour"), 1) == []


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize(
    ("text", "n_changed", "says"),
    [
        (TEXT.replace("small", "little"), 2, "1 words changed, 2 reported"),
        (TEXT.replace("The", "A"), 1, "stop words changed: the"),
        ("The new port was crowded with tiny ships and glad folk on that hot night", 10, "10 words changed, 4 allowed"),
    ],
)
def test_each_broken_rule_is_named(text: str, n_changed: int, says: str) -> None:
    assert any(says in rule for rule in found(Pwws(), text, n_changed))


@pytest.mark.usefixtures("hashed_similarity")
def test_a_text_that_says_something_else_is_found() -> None:
    strict = STANDARD.changed({"min_similarity": 0.97})
    other = outcome(TEXT.replace("happy people", "wet fjord"), 2)
    (said,) = violations(Pwws(), strict, Example(TEXT, 0), other)
    assert said.startswith("similarity 0.")


def test_a_budget_that_was_overdrawn_is_found_on_survivors_too() -> None:
    survivor = AttackOutcome(example_id="x", label=0, status="survived", n_queries=751, n_words=15)
    assert violations(DeepWordBug(), STANDARD, Example(TEXT, 0), survivor) == ["751 queries, 750 allowed"]
    assert violations(DeepWordBug(), STANDARD, Example(TEXT, 0), survivor.model_copy(update={"n_queries": 750})) == []


def test_typing_errors_need_no_similarity_and_reductions_no_limit() -> None:
    garbled = TEXT.replace("harbour", "hqrbxur").replace("evening", "evzning").replace("boats", "bxats")
    assert found(DeepWordBug(), garbled, 3) == []
    assert found(InputReduction(), "harbour", 14) == []


@pytest.mark.parametrize(
    ("new", "n"),
    [
        ("one two three four", 0),
        ("one 2 three four", 1),
        ("one t wo three four", 1),  # a word that was split
        ("one t w o three 4", 2),
        ("one three four", 1),  # deleted
        ("one two and three four", 1),  # inserted
        ("four", 3),
        ("", 4),
    ],
)
def test_words_changed_are_those_of_the_old_text(new: str, n: int) -> None:
    old = ["one", "two", "three", "four"]
    assert n_words_changed(old, new.split()) == n
    touched = [i for places, _ in changes(old, new.split()) for i in places]
    assert len(touched) == len(set(touched))


@pytest.mark.usefixtures("hashed_similarity")
def test_similarity_is_the_lowest_of_the_blocks_that_changed() -> None:
    old = " ".join(f"word{i}" for i in range(45))
    near, far = old.replace("word3 ", "wording "), old.replace("word40 ", "zebra ")
    each = [lowest_similarity(old, new, 15) for new in (near, far)]
    assert lowest_similarity(old, near.replace("word40 ", "zebra "), 15) == pytest.approx(min(each))
    assert lowest_similarity(old, old, 15) == 1.0
    assert lowest_similarity(old, far, None) > each[1]  # one word in a long text weighs less


@pytest.mark.usefixtures("hashed_similarity")
def test_a_split_word_moves_no_block() -> None:
    old = " ".join(f"word{i}" for i in range(45))
    assert lowest_similarity(old, old.replace("word3 ", "wo rd3 "), 15) > 0.7
