from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from robusweep.data.base import Corpus, Row
from robusweep.data.cleaning import cleaned, folded
from robusweep.data.splits import label_quotas, split
from robusweep.errors import MissingError
from robusweep.examples import Dataset

NAMES = ("train", "validation", "calibration", "test")
SIZES = {"test": 40, "validation": 30, "calibration": 20, "train": 100}
COUNTS = {"rare": 13, "some": 90, "many": 297}


def corpus_of(counts: dict[str, int], where: str = "", n_per_group: int | None = None) -> Corpus:
    numbered = [(i, label) for label, n in counts.items() for i in range(n)]
    rows = [
        Row(f"{where} {label} text {i}", label, None if n_per_group is None else f"film {k // n_per_group}")
        for k, (i, label) in enumerate(sorted(numbered))
    ]
    return Corpus(name="made_up", label_names=tuple(counts), rows=tuple(rows))


def with_test_part(counts: dict[str, int]) -> Corpus:
    return replace(corpus_of(counts), test=corpus_of(dict.fromkeys(counts, 30), "official").rows)


@pytest.fixture(params=["one part", "official test part", "groups"])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    made = {
        "one part": corpus_of(COUNTS),
        "official test part": with_test_part(COUNTS),
        "groups": corpus_of(COUNTS, n_per_group=3),
    }
    return made[request.param]


def splits_of(data: Dataset) -> dict[str, set[str]]:
    return {name: {folded(example.text) for example in getattr(data, name)} for name in NAMES}


def test_splits_have_the_sizes_asked_for_and_share_no_text(corpus: Corpus) -> None:
    texts = splits_of(split(corpus, SIZES, 0))
    assert {name: len(found) for name, found in texts.items()} == SIZES
    assert all(not texts[a] & texts[b] for a, b in combinations(NAMES, 2))


def test_every_class_is_in_every_split(corpus: Corpus) -> None:
    data = split(corpus, SIZES, 0)
    for name in NAMES:
        assert {example.label for example in getattr(data, name)} == {0, 1, 2}


def test_labels_index_the_label_names(corpus: Corpus) -> None:
    data = split(corpus, SIZES, 0)
    assert all(f" {data.label_names[e.label]} " in e.text for name in NAMES for e in getattr(data, name))


def test_a_split_has_the_label_shares_of_what_it_is_drawn_from_to_within_one_example() -> None:
    data = split(corpus_of(COUNTS), SIZES, 0)
    left = Counter(COUNTS)
    for name, n in SIZES.items():
        found = Counter(data.label_names[example.label] for example in getattr(data, name))
        assert all(abs(found[label] - n * left[label] / left.total()) < 1 for label in COUNTS)
        left -= found


@pytest.mark.parametrize("n", [3, 7, 20, 199, 400])
def test_quotas_sum_to_the_size_and_never_ask_for_more_than_there_is(n: int) -> None:
    rows = corpus_of({"a": 200, "b": 150, "c": 50}).rows
    quotas = label_quotas(rows, n, ("a", "b", "c"), split_name="train", corpus_name="x", key="data")
    assert sum(quotas.values()) == n
    assert all(1 <= quotas[label] <= count for label, count in {"a": 200, "b": 150, "c": 50}.items())


def test_the_whole_corpus_can_be_used_up() -> None:
    sizes = SIZES | {"train": 400 - 90}
    assert sum(map(len, splits_of(split(corpus_of(COUNTS), sizes, 0)).values())) == 400


def test_the_same_seed_gives_the_same_splits_and_another_seed_others(corpus: Corpus) -> None:
    assert split(corpus, SIZES, 3).digest() == split(corpus, SIZES, 3).digest()
    first, second = splits_of(split(corpus, SIZES, 3)), splits_of(split(corpus, SIZES, 4))
    assert all(first[name] != second[name] for name in NAMES)


def test_more_training_examples_move_nothing_out_of_the_other_splits(corpus: Corpus) -> None:
    small, large = (split(corpus, SIZES | {"train": n}, 0) for n in (50, 200))
    for name in ("validation", "calibration", "test"):
        assert getattr(small, name) == getattr(large, name)


def test_official_test_rows_are_in_no_other_split() -> None:
    texts = splits_of(split(with_test_part(COUNTS), SIZES, 0))
    assert all(text.startswith("official") for text in texts["test"])
    others = texts["train"] | texts["validation"] | texts["calibration"]
    assert not any(text.startswith("official") for text in others)


def test_no_group_is_in_two_splits() -> None:
    corpus = corpus_of({"a": 200, "b": 200}, n_per_group=7)
    group_of = {row.text: row.group for row in corpus.rows}
    data = split(corpus, SIZES, 0)
    groups = {name: {group_of[example.text] for example in getattr(data, name)} for name in NAMES}
    assert all(not groups[a] & groups[b] for a, b in combinations(NAMES, 2))
    assert None not in groups["train"]


def test_groups_too_few_for_the_splits_are_reported_with_what_can_be_had() -> None:
    rows = tuple(Row(f"text {i}", "ab"[i % 2], group=f"film {i // 50}") for i in range(200))
    with pytest.raises(MissingError, match=r"one group stay in one split") as error:
        split(Corpus("films", ("a", "b"), rows), SIZES, 0)
    assert "data.n_" in str(error.value.hint)


def test_a_size_that_cannot_be_given_says_what_there_is_and_which_key_to_lower() -> None:
    with pytest.raises(MissingError) as error:
        split(corpus_of(COUNTS), SIZES | {"train": 1000}, 0)
    assert "400 different texts" in error.value.message
    assert "n_test 40 + n_validation 30 + n_calibration 20 + n_train 1,000 = 1,090" in error.value.message
    assert error.value.hint == "lower data.n_train to at most 310"
    split(corpus_of(COUNTS), SIZES | {"train": 310}, 0)  # the hint is right


def test_when_lowering_n_train_is_not_enough_all_keys_are_named() -> None:
    with pytest.raises(MissingError) as error:
        split(corpus_of(COUNTS), SIZES | {"validation": 500}, 0)
    assert all(f"data.n_{name}" in str(error.value.hint) for name in NAMES)


def test_an_official_test_part_too_small_is_reported_as_such() -> None:
    with pytest.raises(MissingError, match=r"90 different texts in its official test part.*n_test 91"):
        split(with_test_part(COUNTS), SIZES | {"test": 91}, 0)


def test_a_class_that_runs_out_is_an_error() -> None:
    with pytest.raises(MissingError, match="class 'rare' has no text left for the train split"):
        split(corpus_of({"rare": 3, "many": 300}), SIZES, 0)


def test_a_split_too_small_for_every_class_names_its_key_and_a_size_that_works() -> None:
    counts = dict.fromkeys("abcde", 100)
    with pytest.raises(MissingError, match=r"data.n_calibration is 4, too few to hold class") as error:
        split(corpus_of(counts), SIZES | {"calibration": 4}, 0)
    assert error.value.hint == "raise data.n_calibration to 5"


def test_one_class_only_is_an_error() -> None:
    with pytest.raises(MissingError, match="one class only, 'many'"):
        split(corpus_of({"many": 300}), SIZES, 0)


def rows_after_cleaning(*rows: Row, test: tuple[Row, ...] | None = None, max_words: int | None = None) -> Corpus:
    return cleaned(Corpus("made_up", ("0", "1"), rows, test), max_words)


def test_the_first_of_texts_that_differ_in_case_or_white_space_stays() -> None:
    corpus = rows_after_cleaning(Row("A  good\nfilm", "1"), Row("a GOOD film ", "1"), Row("bad", "0"))
    assert [row.text for row in corpus.rows] == ["A  good\nfilm", "bad"]
    assert corpus.notes == ("dropped repeated texts: 1",)


def test_a_text_with_two_labels_is_dropped_with_all_its_rows() -> None:
    corpus = rows_after_cleaning(Row("so so", "1"), Row("So so", "0"), Row("bad", "0"))
    assert [row.text for row in corpus.rows] == ["bad"]
    assert corpus.notes == ("dropped rows whose text carries two different labels: 2",)


def test_a_text_with_another_label_in_the_official_test_part_is_dropped_from_both() -> None:
    corpus = rows_after_cleaning(Row("so so", "1"), Row("bad", "0"), test=(Row("so so", "0"), Row("good", "1")))
    assert [row.text for row in corpus.rows] == ["bad"]
    assert [row.text for row in corpus.test or ()] == ["good"]


def test_a_text_of_the_official_test_part_leaves_the_train_part() -> None:
    corpus = rows_after_cleaning(Row("Good", "1"), Row("bad", "0"), test=(Row("good", "1"),))
    assert [row.text for row in corpus.rows] == ["bad"]
    assert [row.text for row in corpus.test or ()] == ["good"]
    assert corpus.notes == ("dropped texts of the train part that are in the official test part: 1",)


def test_empty_texts_are_dropped_and_counted() -> None:
    corpus = rows_after_cleaning(Row("", "1"), Row(" \n\t", "0"), Row("bad", "0"))
    assert [row.text for row in corpus.rows] == ["bad"]
    assert corpus.notes == ("dropped rows with an empty text: 2",)


def test_max_words_keeps_the_first_words_and_the_white_space_between_them() -> None:
    corpus = rows_after_cleaning(Row(" one  two\nthree four ", "1"), Row("one", "0"), max_words=3)
    assert [row.text for row in corpus.rows] == ["one  two\nthree", "one"]
    assert corpus.notes == ("cut texts to 3 words or 50,000 characters: 1",)


def test_texts_that_are_the_same_once_cut_count_as_the_same() -> None:
    corpus = rows_after_cleaning(Row("a b c", "1"), Row("a b d", "1"), Row("x", "0"), max_words=2)
    assert [row.text for row in corpus.rows] == ["a b", "x"]


@pytest.mark.parametrize("max_words", [None, 10**9])
def test_a_huge_text_is_cut_to_the_documented_bounds(max_words: int | None) -> None:
    corpus = rows_after_cleaning(Row("word " * 2_000_000, "1"), Row("x" * 10_000_000, "0"), max_words=max_words)
    assert [len(row.text.split()) for row in corpus.rows] == [5_000, 1]
    assert len(corpus.rows[1].text) == 50_000
    assert corpus.notes == ("cut texts to 5,000 words or 50,000 characters: 2",)
