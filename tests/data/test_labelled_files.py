from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robusweep.data import load
from robusweep.data.base import DataSource
from robusweep.data.cleaning import MAX_WORDS
from robusweep.errors import MissingError

Parse = Callable[..., DataSource]
ROWS = [(f"a {word} film, number {i}", word) for i in range(10) for word in ("good", "bad")]


def write_csv(path: Path, rows: list[tuple[object, object]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def write_jsonl(path: Path, rows: list[tuple[object, object]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def write_parquet(path: Path, rows: list[tuple[object, object]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"text": [t for t, _ in rows], "label": [x for _, x in rows], "id": range(len(rows))}), path
    )
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
kinds = pytest.mark.parametrize("kind", sorted(WRITERS))


def refusal(data: DataSource) -> MissingError:
    with pytest.raises(MissingError) as error:
        load(data, 0)
    return error.value


@kinds
def test_the_three_formats_give_the_same_data_set(kind: str, tmp_path: Path, parse: Parse) -> None:
    data = load(parse(kind=kind, path=str(WRITERS[kind](tmp_path / f"films.{kind}", ROWS))), 0)
    assert data.name == "films"
    assert data.label_names == ("bad", "good")
    assert [len(part) for part in (data.train, data.validation, data.calibration, data.test)] == [4, 2, 2, 2]
    assert {(e.text, data.label_names[e.label]) for e in data.train} < set(ROWS)


@kinds
def test_integer_labels_become_names_in_the_order_of_numbers(kind: str, tmp_path: Path, parse: Parse) -> None:
    rows = [(f"text {i} of {label}", label) for label in (10, 9, 2) for i in range(10)]
    path = WRITERS[kind](tmp_path / "stars", rows)
    sizes = {"n_train": 9, "n_validation": 3, "n_calibration": 3, "n_test": 3}
    assert load(parse(kind=kind, path=str(path), **sizes), 0).label_names == ("2", "9", "10")


@kinds
def test_a_test_path_gives_the_test_split(kind: str, tmp_path: Path, parse: Parse) -> None:
    held = [(f"held {word} {i}", word) for i in range(3) for word in ("good", "bad")]
    path, test_path = WRITERS[kind](tmp_path / "a", ROWS), WRITERS[kind](tmp_path / "b", held)
    data = load(parse(kind=kind, path=str(path), test_path=str(test_path)), 0)
    assert {e.text for e in data.test} < {text for text, _ in held}
    assert all(e.text.startswith("a ") for e in data.train + data.validation + data.calibration)


@kinds
def test_a_larger_n_train_leaves_the_other_splits_of_a_block_alone(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = str(WRITERS[kind](tmp_path / "films", ROWS))
    small, large = (load(parse(kind=kind, path=path, n_train=n), 0) for n in (2, 14))
    assert (small.validation, small.calibration, small.test) == (large.validation, large.calibration, large.test)


@kinds
def test_test_path_and_path_must_be_two_files(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", ROWS)
    assert "same file" in refusal(parse(kind=kind, path=str(path), test_path=str(tmp_path / "." / "films"))).message


@kinds
def test_empty_texts_are_dropped_and_noted(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", [*ROWS, ("", "good"), (" \t ", "bad")])
    assert "dropped rows with an empty text: 2" in load(parse(kind=kind, path=str(path)), 0).notes


@kinds
@pytest.mark.parametrize("label", ["", "  "])
def test_an_empty_label_names_its_place(kind: str, label: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", [*ROWS, ("unsure", label)])
    place = f"{path}, row 21" if kind == "parquet" else f"{path}:{22 if kind == 'csv' else 21}"
    assert f"{place}: the label is missing" in refusal(parse(kind=kind, path=str(path))).message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_null_is_a_missing_label_and_an_empty_text(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", [*ROWS, (None, "good")])
    assert "dropped rows with an empty text: 1" in load(parse(kind=kind, path=str(path)), 0).notes
    path = WRITERS[kind](tmp_path / "films", [*ROWS, ("unsure", None)])
    assert "the label is missing" in refusal(parse(kind=kind, path=str(path))).message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_label_that_is_a_fraction_is_refused(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", [("a", 1.0), ("b", 0.5)])
    assert "1.0 (float), which is neither a text nor an integer" in refusal(parse(kind=kind, path=str(path))).message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_text_that_is_a_number_is_refused(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", [(7, "a"), (8, "b")])
    assert "the text is 7 (int)" in refusal(parse(kind=kind, path=str(path))).message


@kinds
def test_one_class_only_is_refused(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", [(f"text {i}", "good") for i in range(20)])
    assert "one class only, 'good'" in refusal(parse(kind=kind, path=str(path))).message


@kinds
def test_an_unknown_column_lists_those_there_are_and_the_nearest(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", ROWS)
    error = refusal(parse(kind=kind, path=str(path), label="labell"))
    assert "no column 'labell'; it has 'text', 'label'" in error.message
    assert error.hint == "did you mean 'label'?"


@kinds
@pytest.mark.parametrize("n_values", [101, 20])
def test_a_column_of_too_many_values_is_no_label(kind: str, n_values: int, tmp_path: Path, parse: Parse) -> None:
    n_rows = 400 if n_values == 101 else 20  # many values, or one for each row
    path = WRITERS[kind](tmp_path / "films", [(f"text {i}", f"id{i % n_values}") for i in range(n_rows)])
    assert f"'label' holds {n_values} values in {n_rows} rows" in refusal(parse(kind=kind, path=str(path))).message


@kinds
def test_a_missing_file_an_empty_file_and_a_folder_are_told_apart(kind: str, tmp_path: Path, parse: Parse) -> None:
    (tmp_path / "empty").write_text("\n")
    assert "there is no file" in refusal(parse(kind=kind, path=str(tmp_path / "absent"))).message
    assert "is empty" in refusal(parse(kind=kind, path=str(tmp_path / "empty"))).message
    assert "is a folder" in refusal(parse(kind=kind, path=str(tmp_path))).message


def test_a_missing_relative_path_says_where_it_was_looked_for(
    tmp_path: Path, parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in str(refusal(parse(kind="csv", path="absent.csv")).hint)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_rows_is_refused(kind: str, tmp_path: Path, parse: Parse) -> None:
    assert "holds no rows" in refusal(parse(kind=kind, path=str(WRITERS[kind](tmp_path / "films", [])))).message


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bytes_that_are_not_utf8_are_reported_by_line_and_offset(kind: str, tmp_path: Path, parse: Parse) -> None:
    raw = WRITERS[kind](tmp_path / "films", ROWS).read_bytes()
    start = raw.index(b"\n") + 3
    (tmp_path / "films").write_bytes(raw[:start] + "é".encode("latin-1") + raw[start:])
    error = refusal(parse(kind=kind, path=str(tmp_path / "films")))
    assert f":2: not UTF-8 at byte {start} (0xe9)" in error.message
    assert "iconv" in str(error.hint)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_data(kind: str, tmp_path: Path, parse: Parse) -> None:
    path = WRITERS[kind](tmp_path / "films", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(parse(kind=kind, path=str(path)), 0).label_names == ("bad", "good")


@kinds
def test_a_huge_text_is_read_and_cut(kind: str, tmp_path: Path, parse: Parse) -> None:
    huge = [("w " * 5_000_000 + word, word) for word in ("good", "bad")]
    before = csv.field_size_limit()
    csv.field_size_limit(131_072)
    data = load(parse(kind=kind, path=str(WRITERS[kind](tmp_path / "films", [*ROWS, *huge]))), 0)
    assert any(note.startswith(f"cut texts to {MAX_WORDS:,} words") for note in data.notes)
    assert csv.field_size_limit(before) == 131_072


def test_a_tsv_file_is_separated_by_tabs(tmp_path: Path, parse: Parse) -> None:
    path = write_csv(tmp_path / "films.tsv", ROWS)
    assert load(parse(kind="csv", path=str(path)), 0).label_names == ("bad", "good")


def test_a_csv_text_may_hold_line_breaks_and_lines_are_counted_past_them(tmp_path: Path, parse: Parse) -> None:
    path = write_csv(tmp_path / "films.csv", [("two\nlines", "good"), ("x", "")])
    assert f"{path}:4: the label is missing" in refusal(parse(kind="csv", path=str(path))).message


@pytest.mark.parametrize("line", ["good, but long,good", "unlabelled"])
def test_a_csv_record_of_another_length_than_the_header_is_refused(line: str, tmp_path: Path, parse: Parse) -> None:
    path = tmp_path / "films.csv"
    path.write_text(f"text,label\nfine,good\n\n{line}\n")
    assert f"{path}:4: {len(line.split(','))} fields" in refusal(parse(kind="csv", path=str(path))).message


def test_a_csv_quote_that_never_closes_is_refused(tmp_path: Path, parse: Parse) -> None:
    path = tmp_path / "films.csv"
    path.write_text('text,label\n"fine,good\nbad,bad\n')
    assert "not valid CSV: unexpected end of data" in refusal(parse(kind="csv", path=str(path))).message


def test_two_csv_columns_of_one_name_are_refused(tmp_path: Path, parse: Parse) -> None:
    path = tmp_path / "films.csv"
    path.write_text("text,label,text\na,good,b\n")
    assert "2 columns named 'text'" in refusal(parse(kind="csv", path=str(path))).message


@pytest.mark.parametrize(
    "bad", ['{"text": "x", ', "[1, 2]", "3", "[" * 100_000], ids=["cut off", "list", "number", "deep"]
)
def test_a_json_line_that_is_no_object_names_its_line(bad: str, tmp_path: Path, parse: Parse) -> None:
    path = write_jsonl(tmp_path / "films.jsonl", ROWS[:2])
    path.write_text(f"{path.read_text()}\n{bad}\n")
    assert f"{path}:4: " in refusal(parse(kind="jsonl", path=str(path))).message


def test_a_json_text_may_hold_any_line_separator(tmp_path: Path, parse: Parse) -> None:
    rows = [(f"{text}\u2028\u0085next", label) for text, label in ROWS]
    path = tmp_path / "films.jsonl"
    lines = (json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    assert load(parse(kind="jsonl", path=str(path)), 0).train[0].text.endswith("\u2028\u0085next")


def test_half_a_surrogate_pair_is_refused_before_anything_encodes_it(tmp_path: Path, parse: Parse) -> None:
    path = tmp_path / "films.jsonl"
    path.write_text('{"text": "bad \\ud800", "label": 1}\n')
    assert f"{path}:1: character 4 is half of a surrogate pair" in refusal(parse(kind="jsonl", path=str(path))).message


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, parse: Parse) -> None:
    path = write_csv(tmp_path / "films.parquet", ROWS)
    assert "is not a readable Parquet file" in refusal(parse(kind="parquet", path=str(path))).message
