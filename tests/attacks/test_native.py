"""The path without TextAttack's objects against TextAttack's own code: the same outcome on every real text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusweep.attacks import PROTOCOLS, Attack, run_attack
from robusweep.attacks.library import words_from_text
from robusweep.attacks.neighbours import in_case_of, neighbours_of
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.resources import TAGGER, WORDNET
from robusweep.attacks.similarity import blocks
from robusweep.attacks.surface import PART, Rows, Strings, Surface
from robusweep.attacks.textfooler import TextFoolerNeighbours, TextFoolerWordNet
from robusweep.errors import MissingError
from robusweep.examples import Example
from robusweep.record import AttackOutcome

pytestmark = pytest.mark.skipif(bool(WORDNET.missing() or TAGGER.missing()), reason="WordNet or the tagger is missing")

STANDARD = PROTOCOLS["standard_v1"]
NATIVE: list[Attack] = [TextFoolerWordNet(), Pwws()]


@pytest.fixture
def neighbour_file(reviews: list[str], tmp_path: Path) -> Path:
    """Every word of the reviews with a dozen of the others, drawn at random."""
    words = sorted({word.lower() for text in reviews for word in words_from_text(text)})
    rng = np.random.default_rng(0)
    drawn = {word: [words[i] for i in rng.choice(len(words), 12, replace=False)] for word in words}
    path = tmp_path / "neighbours.json"
    path.write_text(json.dumps(drawn))
    return path


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
def test_outcomes_are_textattacks_on_60_real_texts(
    attack: Attack, word_pieces: Any, review_examples: list[Example]
) -> None:
    native, textattack = both(attack, word_pieces, review_examples[:60], STANDARD)
    assert native == textattack
    statuses = [outcome.status for outcome in native]
    assert set(statuses) == {"broken", "survived", "misclassified"}
    assert statuses.count("broken") > 24


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("protocol", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("attack", NATIVE, ids=lambda attack: attack.kind)
def test_outcomes_are_textattacks_under_other_rules(
    attack: Attack, protocol: Any, word_pieces: Any, review_examples: list[Example]
) -> None:
    native, textattack = both(attack, word_pieces, review_examples[150:170], protocol)
    assert native == textattack


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("attack", NATIVE, ids=lambda attack: attack.kind)
def test_a_victim_of_strings_gives_the_same_outcomes_as_its_token_ids(
    attack: Attack, word_pieces: Any, review_examples: list[Example]
) -> None:
    few = review_examples[:15]
    by_rows = run_attack(attack, victim=word_pieces, exact=word_pieces, examples=few, protocol=STANDARD, seed=0)

    def by_strings(texts: Sequence[str]) -> Any:
        return word_pieces(texts)

    assert run_attack(attack, victim=by_strings, exact=by_strings, examples=few, protocol=STANDARD, seed=0) == by_rows


@pytest.mark.usefixtures("hashed_similarity")
def test_outcomes_over_a_list_of_neighbours_are_textattacks(
    neighbour_file: Path, word_pieces: Any, review_examples: list[Example]
) -> None:
    attack = TextFoolerNeighbours(neighbours=str(neighbour_file))
    assert attack.missing(STANDARD) == []
    native, textattack = both(attack, word_pieces, review_examples[:100], STANDARD)
    assert native == textattack
    assert {outcome.status for outcome in native} == {"broken", "survived", "misclassified"}
    table = json.loads(neighbour_file.read_text())
    for example, outcome in zip(review_examples, native, strict=False):
        if outcome.perturbed_text is not None:
            pairs = zip(words_from_text(example.text), words_from_text(outcome.perturbed_text), strict=True)
            assert all(new.lower() in table[old.lower()] for old, new in pairs if old != new)


def test_a_neighbour_has_the_case_of_the_word_it_replaces() -> None:
    from textattack.transformations.word_swaps.word_swap_embedding import recover_word_case

    for word in ("film", "FILM", "Film", "iFilm", "A", "a"):
        assert in_case_of(word, "movie") == recover_word_case("movie", word)


def test_a_list_counts_by_its_contents_and_is_missed_by_its_path(
    neighbour_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, other = tmp_path / "copy.json", tmp_path / "other.json"
    copy.write_bytes(neighbour_file.read_bytes())
    other.write_text('{"film": ["movie"]}')
    first, same, else_ = (TextFoolerNeighbours(neighbours=str(p)).identity() for p in (neighbour_file, copy, other))
    assert first == same != else_
    monkeypatch.delenv("ROBUSWEEP_DATA", raising=False)
    assert "key neighbours" in TextFoolerNeighbours().missing()[0]
    monkeypatch.setenv("ROBUSWEEP_DATA", str(tmp_path))
    assert str(tmp_path / "lexicon") in TextFoolerNeighbours().missing()[0]
    for number, text in enumerate(("{", "[1]", '{"a": "b"}', '{"a": [1]}')):
        broken = tmp_path / f"{number}.json"
        broken.write_text(text)
        with pytest.raises(MissingError, match=f"{number}.json"):
            neighbours_of("a", str(broken))


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
