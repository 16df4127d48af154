"""YAML as recipes need it: scalars, places, repeated keys, overrides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from robusweep.errors import RecipeError
from robusweep.yaml_source import Source, assign, load_yaml, override, parse_value, split_key


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "r.yaml"
    path.write_text("train:\n  n_epochs: 3\nadversarial:\n- {kind: pgd, radius: 0.3}\nname: small\n")
    return load_yaml(path)


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as e:
        load_yaml(path)
    return str(e.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2e-4", 2e-4), ("2.0e-4", 2e-4), ("2E4", 2e4), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("+0.5", 0.5)),
        *(("0", 0), ("-3", -3), ("+3", 3), ("1_000", 1000), ("1_000.5", 1000.5), ("0.0", 0.0)),
        *(("~", None), ("null", None), ("", None), ("true", True), ("False", False)),
        *((word, word) for word in ("no", "on", "off", "yes", "y", "n", "No", "ON")),
        *((word, word) for word in ("012", "-012", "00.5", "1:30", "0x1F", "1.2.3", "2026-11-23", ".inf", ".nan", "=")),
        *(("'3'", "3"), ('"null"', "null"), ("[1, 2.5, a]", [1, 2.5, "a"]), ("{a: {b: no}}", {"a": {"b": "no"}})),
    ],
)
def test_a_scalar_is_what_it_looks_like(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "r.yaml").write_text(f"key: {text}\n")
    read = load_yaml(tmp_path / "r.yaml").tree["key"]
    assert (read, type(read)) == (value, type(value))
    assert parse_value(text) == value


def test_a_number_beyond_floats_is_infinite_and_so_refused_by_every_block(tmp_path: Path) -> None:
    assert math.isinf(parse_value("1e999"))


def test_a_file_with_a_byte_order_mark_or_windows_line_ends_reads_alike(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\ntrain:\r\n  n_epochs: 1\r\n")
    read = load_yaml(path)
    assert read.tree == {"name": "a", "train": {"n_epochs": 1}}
    assert read.place(("train", "n_epochs")).line == 3


def test_every_value_and_key_has_its_line_and_column(source: Source) -> None:
    value, key = source.place(("adversarial", 0, "radius")), source.place(("adversarial", 0, "radius"), of_key=True)
    assert (value.line, key.line) == (4, 4)
    assert value.text[value.column - 1 :].startswith("0.3")
    assert key.text[key.column - 1 :].startswith("radius")


def test_the_caret_stands_below_the_value(source: Source) -> None:
    line, caret = source.place(("adversarial", 0, "radius")).excerpt().splitlines()[1:]
    assert line[caret.index("^") :].startswith("0.3")


def test_a_path_that_the_file_lacks_has_the_place_of_its_nearest_parent(source: Source) -> None:
    assert source.place(("train", "warmup", "more")).line == 1
    assert source.place(("nothing",)).line is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", ["r.yaml:3: a: the key is repeated (first on line 1)"]),
        ("a:\n  b: 1\n  b: 2\n", ["r.yaml:3: a.b: the key is repeated (first on line 2)"]),
        ("a:\n- {b: 1, b: 2}\n", ["r.yaml:2: a.0.b: the key is repeated"]),
        ("a: 1\n'a': 2\n", ["r.yaml:2: a: the key is repeated"]),
        ("a: [1, 2\nb: 3\n", ["r.yaml:2: not valid YAML"]),
        ("? [a]\n: 1\n", ["r.yaml:1: a key must be plain text"]),
        ("a: &x {b: *x}\n", ["r.yaml:1: not valid YAML", "aliases"]),
        ("a: &x 1\nb: *x\n", ["r.yaml:2: not valid YAML", "aliases"]),
        ("a: 1\n---\nb: 2\n", ["r.yaml:2: not valid YAML", "single document"]),
        ("a: !!python/object:os.system x\n", ["r.yaml:1: tags"]),
        ("a: !!set {b}\n", ["r.yaml:1: tags"]),
        (f"a: {'9' * 5000}\n", ["r.yaml:1: '9999", "can't be read as int"]),
        ("a: 1\nb: \x01\n", ["r.yaml:2: not valid YAML: a control character"]),
        ('a: "x\\0"\n', ["r.yaml:1: a text can't hold"]),
        ("- a\n", ["found a list"]),
        ("a\n", ["found a single value"]),
        ("", ["an empty file"]),
        ("a: " + "x" * 1_000_001, ["too long"]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(tmp_path: Path, text: str, says: list[str]) -> None:
    message = refused(tmp_path, text)
    assert [part for part in says if part not in message] == [], message


def test_a_key_of_a_dotted_path_may_be_an_index_of_a_list() -> None:
    assert split_key("adversarial.0.radius") == ("adversarial", 0, "radius")
    assert split_key("a.²") == ("a", "²")


def test_assigning_changes_a_copy_and_makes_missing_mappings(source: Source) -> None:
    before = repr(source.tree)
    changed = assign(source.tree, ("adversarial", 0, "radius"), 0.5)
    assert changed["adversarial"] == [{"kind": "pgd", "radius": 0.5}]
    assert assign(source.tree, ("mix", "weight"), 1)["mix"] == {"weight": 1}
    assert repr(source.tree) == before


@pytest.mark.parametrize("key", ["adversarial.1.radius", "adversarial.kind", "name.first", "0", "train.n_epochs.0"])
def test_assigning_below_what_is_not_there_names_the_part(source: Source, key: str) -> None:
    with pytest.raises(KeyError) as e:
        assign(source.tree, split_key(key), 1)
    assert key.startswith(e.value.args[0])


def test_overrides_read_their_values_as_yaml(source: Source) -> None:
    texts = ["train.n_epochs=5", "train.learning_rate=2e-4", "attacks.known=[pwws, deepwordbug]", "ticket=null"]
    tree = override(source, [*texts, "mix={kind: adpmixup, weight: .5}", "name=a=b", "adversarial.0.radius=no"]).tree
    assert tree["train"] == {"n_epochs": 5, "learning_rate": 2e-4}
    assert tree["attacks"] == {"known": ["pwws", "deepwordbug"]}
    assert tree["ticket"] is None
    assert tree["mix"] == {"kind": "adpmixup", "weight": 0.5}
    assert tree["name"] == "a=b"
    assert tree["adversarial"][0]["radius"] == "no"


def test_the_last_override_of_a_key_wins(source: Source) -> None:
    assert override(source, ["name=a", "name=b"]).tree["name"] == "b"


def test_an_overridden_key_and_all_below_it_are_placed_in_the_override(source: Source) -> None:
    changed = override(source, ["adversarial=[{kind: pgd, radius: 1}]"])
    for path in (("adversarial",), ("adversarial", 0), ("adversarial", 0, "radius")):
        assert str(changed.place(path)) == str(changed.place(path, of_key=True))
        assert str(changed.place(path)).startswith("override 'adversarial=")
    assert changed.place(("train", "n_epochs")).line == 2


@pytest.mark.parametrize("text", ["train.n_epochs", "=1", "", "a..b=1", ".a=1", "a.=1"])
def test_an_override_without_key_and_value_is_refused(source: Source, text: str) -> None:
    with pytest.raises(RecipeError, match="expected key=value"):
        override(source, [text])
