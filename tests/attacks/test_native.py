"""The path without TextAttack's objects against TextAttack's own code: the same outcome on every real text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from robusweep.attacks import PROTOCOLS, Attack, run_attack
from robusweep.attacks.library import words_from_text
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.resources import TAGGER, WORDNET
from robusweep.attacks.similarity import blocks
from robusweep.attacks.surface import PART, Rows, Strings, Surface
from robusweep.attacks.textfooler import TextFoolerWordNet
from robusweep.examples import Example
from robusweep.record import AttackOutcome

pytestmark = pytest.mark.skipif(bool(WORDNET.missing() or TAGGER.missing()), reason="WordNet or the tagger is missing")

STANDARD = PROTOCOLS["standard_v1"]
NATIVE: list[Attack] = [TextFoolerWordNet(), Pwws()]
OTHERS = {
    "standard_v1": STANDARD,
    "strict_v1": PROTOCOLS["strict_v1"],
    "few queries": STANDARD.changed({"query_budget": 25}),
    "whole texts": STANDARD.changed({"similarity_block": None}),
    "free": STANDARD.changed({"min_similarity": None, "max_words_changed": None, "no_stop_words": False}),
}


def both(attack: Attack, victim: Any, examples: Sequence[Example], protocol: Any) -> tuple[list[AttackOutcome], ...]:
    """(native, through TextAttack)."""
    return tuple(
        run_attack(attack, victim=victim, exact=victim, examples=examples, protocol=protocol, seed=0, engine=engine)
        for engine in ("auto", "textattack")
    )


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("attack", NATIVE, ids=lambda attack: attack.kind)
def test_outcomes_are_textattacks_on_150_real_texts(
    attack: Attack, word_pieces: Any, review_examples: list[Example]
) -> None:
    native, textattack = both(attack, word_pieces, review_examples[:150], STANDARD)
    assert native == textattack
    statuses = [outcome.status for outcome in native]
    assert set(statuses) == {"broken", "survived", "misclassified"}
    assert statuses.count("broken") > 60


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("protocol", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("attack", NATIVE, ids=lambda attack: attack.kind)
def test_outcomes_are_textattacks_under_other_rules(
    attack: Attack, protocol: Any, word_pieces: Any, review_examples: list[Example]
) -> None:
    native, textattack = both(attack, word_pieces, review_examples[150:180], protocol)
    assert native == textattack


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("attack", NATIVE, ids=lambda attack: attack.kind)
def test_a_victim_of_strings_gives_the_same_outcomes_as_its_token_ids(
    attack: Attack, word_pieces: Any, review_examples: list[Example]
) -> None:
    few = review_examples[:30]
    by_rows = run_attack(attack, victim=word_pieces, exact=word_pieces, examples=few, protocol=STANDARD, seed=0)

    def by_strings(texts: Sequence[str]) -> Any:
        return word_pieces(texts)

    assert run_attack(attack, victim=by_strings, exact=by_strings, examples=few, protocol=STANDARD, seed=0) == by_rows


@pytest.mark.usefixtures("hashed_similarity")
def test_lazy_similarity_finds_the_same_texts_with_more_queries(
    word_pieces: Any, review_examples: list[Example]
) -> None:
    few = review_examples[:80]
    eager, lazy = (
        run_attack(
            TextFoolerWordNet(lazy=lazy),
            victim=word_pieces,
            exact=word_pieces,
            examples=few,
            protocol=STANDARD,
            seed=0,
        )
        for lazy in (False, True)
    )
    same = ("example_id", "status", "perturbed_text", "n_words_changed", "similarity")
    assert [[getattr(o, name) for name in same] for o in eager] == [[getattr(o, name) for name in same] for o in lazy]
    assert all(a.n_queries <= b.n_queries for a, b in zip(eager, lazy, strict=True))
    assert sum(a.n_queries for a in eager) < sum(b.n_queries for b in lazy)


@pytest.mark.parametrize(
    "text",
    [
        "<SPLIT> is what TextAttack puts between two inputs",
        "a Chinese word, 电影, is cut by a library of its own",
        "İstanbul is longer in lower case",
    ],
)
def test_texts_that_textattack_treats_in_its_own_way_are_left_to_it(text: str) -> None:
    assert Surface.of(text) is None


ODD = [
    "Dr. Who's co-star (a U.S.-born actor) said: 'It's good-looking -- isn't it?'",
    "  Leading blanks,\ttabs\nand   many   spaces  ",
    "e-mail me@home_now at 9.30am; costs $5, or 5€!",
    "\u201cQuoted\u201d\u2014dashed\u2026 na\u00efve caf\u00e9 ☃ done",
    "word",
    "the end",
]


@pytest.mark.parametrize("text", ODD)
def test_a_surface_edits_as_textattack_does(text: str) -> None:
    from robusweep.attacks.parts import AttackedText

    surface, attacked = Surface.of(text), AttackedText(text)
    assert surface is not None
    assert surface.text == text
    assert surface.words == attacked.words
    for place, word in enumerate(surface.words):
        begin, end = surface.deletion(place)
        assert text[:begin] + text[end:] == attacked.delete_word_at_index(place).text
        for new in ("other", "Dr.", "'hood", "[UNK]"):
            swapped, theirs = surface.swapped(place, new), attacked.replace_word_at_index(place, new)
            assert swapped.text == theirs.text
            assert swapped.words == theirs.words
            assert swapped.changed == {place}
            last = len(surface.words) - 1
            assert surface.span_with(0, last, place, new) == swapped.span(0, last)
        assert surface.span(place, place) == word


def test_rows_of_edited_texts_are_those_of_the_whole_texts(word_pieces: Any, reviews: list[str]) -> None:
    n_checked = 0
    for text in [*ODD, *reviews[:60]]:
        surface = Surface.of(text)
        assert surface is not None
        rows, strings = Rows(word_pieces, text), Strings(text)
        assert rows.fits(word_pieces.rows([text])[0])
        for place in range(len(surface.words)):
            span, news = (surface.begins[place], surface.ends[place]), ["banana", "[UNK]", "Dr."]
            expected = word_pieces.rows(strings.edited(*span, news))
            assert all(map(np.array_equal, rows.edited(*span, news), expected))
            deletion = surface.deletion(place)
            assert np.array_equal(rows.edited(*deletion, [""])[0], word_pieces.rows(strings.edited(*deletion, [""]))[0])
            n_checked += 1
    assert n_checked > 500


def test_rows_do_not_fit_a_tokenizer_that_looks_across_white_space(word_pieces: Any) -> None:
    text = "two words"
    assert not Rows(word_pieces, text).fits(word_pieces.rows(["twowords"])[0])


def test_parts_join_to_the_text_and_begin_with_its_white_space(reviews: list[str]) -> None:
    for text in [*ODD, *reviews, "", "   "]:
        parts = PART.findall(text)
        assert "".join(parts) == text
        assert all(part[0].isspace() for part in parts[1:])


def test_blocks_cover_a_text_and_differ_by_one_word_at_most() -> None:
    for n in range(1, 200):
        firsts = [*blocks(n, 15), n]
        lengths = [b - a for a, b in pairwise(firsts)]
        assert firsts[0] == 0
        assert max(lengths) - min(lengths) <= 1
        assert n < 23 or 11 <= min(lengths) <= max(lengths) <= 22
    assert blocks(22, 15) == [0]
    assert blocks(500, None) == [0]


def test_words_are_looked_up_and_not_shared() -> None:
    first = words_from_text("one two")
    first.append("three")
    assert words_from_text("one two") == ["one", "two"]
