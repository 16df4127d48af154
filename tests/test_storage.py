"""Two folders with one store stand for two machines: what one has done, the other takes, and never half of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import flaky
import pytest
from pydantic import ValidationError

from robusweep import cache as cache_module
from robusweep import storage
from robusweep.cache import MANIFEST, Cache
from robusweep.errors import MissingError, UsageError
from robusweep.record import AttackOutcome
from robusweep.resources import Resources
from robusweep.storage import Store

KEY = {"seed": 0}
Machine = Callable[[str], Cache]


def write_seven(folder: Path) -> None:
    (folder / "value").write_text("7")


def never(folder: Path) -> None:
    raise AssertionError("what is in the store is not made again")


def outcome(name: str) -> AttackOutcome:
    return AttackOutcome(example_id=name, label=0, status="broken", n_queries=1, n_words=3)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())
    monkeypatch.setattr(storage, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(storage, "AWAY_MOST", 0.0)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def machine(tmp_path: Path, there: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The cache of a machine of this name. The store is away while ``tmp_path/away`` is there."""
    monkeypatch.setenv(flaky.AWAY, str(tmp_path / "away"))

    def named(name: str) -> Cache:
        store = Store(f"flaky://{there}", tmp_path / name)
        store.notice = said.append
        return Cache(tmp_path / name / "cache", store)

    yield named
    assert not list(there.rglob("*.partial"))


def test_what_one_machine_made_another_does_not_make_again(machine: Machine, said: list[str]) -> None:
    entry, cached = machine("a").get_or_make("train", KEY, write_seven)
    assert not cached
    other, cached = machine("b").get_or_make("train", KEY, never)
    assert cached
    assert other != entry
    assert {p.name: p.read_bytes() for p in other.iterdir()} == {p.name: p.read_bytes() for p in entry.iterdir()}
    assert said == []


def test_what_was_made_before_there_was_a_store_is_pushed_when_it_is_used(machine: Machine, tmp_path: Path) -> None:
    Cache(tmp_path / "a/cache").get_or_make("train", KEY, write_seven)
    machine("a").get_or_make("train", KEY, never)
    machine("b").get_or_make("train", KEY, never)


def the_entry(there: Path) -> Path:
    (found,) = (there / "cache/train").iterdir()
    return found


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"files": {"../value": "0"}}', '{"files": ["value"]}'])
def test_half_an_entry_is_not_taken(machine: Machine, there: Path, said: list[str], manifest: str | None) -> None:
    machine("a").get_or_make("train", KEY, write_seven)
    if manifest is None:
        (the_entry(there) / MANIFEST).unlink()
    else:
        (the_entry(there) / MANIFEST).write_text(manifest)
    assert not machine("b").get_or_make("train", KEY, write_seven)[1]
    assert said == []
    machine("c").get_or_make("train", KEY, never)


def test_a_damaged_entry_is_reported_made_again_and_replaced(machine: Machine, there: Path, said: list[str]) -> None:
    machine("a").get_or_make("train", KEY, write_seven)
    (the_entry(there) / "value").write_text("8")
    entry, cached = machine("b").get_or_make("train", KEY, write_seven)
    assert not cached
    assert (entry / "value").read_text() == "7"
    assert "is damaged (value)" in said[0]
    machine("c").get_or_make("train", KEY, never)
    assert len(said) == 1


def test_outcomes_go_on_where_another_machine_was(machine: Machine, there: Path) -> None:
    with machine("a").outcomes(KEY) as log:
        log.append(outcome("1"))
        log.append(outcome("2"))
    (path,) = (there / "cache/attack").iterdir()
    path.write_bytes(path.read_bytes() + b"torn")
    with machine("b").outcomes(KEY) as log:
        assert set(log.done) == {"1", "2"}
        log.append(outcome("3"))
    with machine("a").outcomes(KEY) as log:
        assert set(log.done) == {"1", "2", "3"}
    assert path.read_bytes().count(b"\n") == 3


def test_outcomes_of_two_machines_at_once_are_merged(machine: Machine) -> None:
    with machine("a").outcomes(KEY) as one, machine("b").outcomes(KEY) as other:
        one.append(outcome("1"))
        other.append(outcome("2"))
    with machine("c").outcomes(KEY) as log:
        assert set(log.done) == {"1", "2"}


def test_outcomes_are_pushed_while_the_attack_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "PUSH_SECONDS", 0.0)
    with machine("a").outcomes(KEY) as log:
        log.append(outcome("1"))
        with machine("b").outcomes(KEY) as other:
            assert set(other.done) == {"1"}


def test_while_the_store_is_away_work_goes_on_and_is_pushed_later(
    machine: Machine, tmp_path: Path, said: list[str]
) -> None:
    away, a = tmp_path / "away", machine("a")
    away.touch()
    assert not a.get_or_make("train", KEY, write_seven)[1]
    with a.outcomes(KEY) as log:
        log.append(outcome("1"))
    assert len(said) == 1
    assert "can't be reached (ConnectionError: no route to host); work goes on here" in said[0]
    away.unlink()
    later = Store(f"flaky://{tmp_path / 'there'}", tmp_path / "a")  # of the next process
    assert later.keep_owed() == 0
    assert not list((tmp_path / "a" / storage.OWED).rglob("*cache*"))
    assert machine("b").get_or_make("train", KEY, never)[1]
    with machine("b").outcomes(KEY) as log:
        assert set(log.done) == {"1"}
    assert a.get_or_make("train", KEY, never)[1]
    assert said[1:] == [f"flaky://{tmp_path / 'there'} can be reached again"]


def test_a_store_that_was_away_is_not_asked_again_at_once(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "AWAY_SECONDS", 60.0)
    store = Store(f"flaky://{tmp_path / 'there'}", tmp_path)
    store.notice = lambda _text: None
    asked = []
    (tmp_path / "away").touch()
    for _ in range(3):
        store.attempt(lambda: asked.append(1) or store.read("x"))
    assert len(asked) == 1


def test_a_store_that_does_not_answer_is_not_waited_for(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.05)
    store, said = Store(f"file://{there}", tmp_path), list[str]()
    store.notice = said.append
    monkeypatch.setattr(store._fs, "cat_file", lambda _path: time.sleep(1))
    began = time.monotonic()
    assert store.attempt(lambda: store.read("x")) is None
    assert time.monotonic() - began < 0.5
    assert "(TimeoutError: no answer in 0 s)" in said[0]


def test_a_folder_that_may_change_is_replaced_file_by_file(machine: Machine, tmp_path: Path, there: Path) -> None:
    store, trial = Store(f"file://{there}", tmp_path / "a"), tmp_path / "a/runs/r/trials/t000"
    (trial / "adapters").mkdir(parents=True)
    (trial / "checkpoints").mkdir()
    for name in ("record.json", "adapters/clean", "checkpoints/clean", ".hidden"):
        (trial / name).write_text("first")
    store.push("runs/r/trials/t000")
    (trial / "record.json").write_text("second")
    store.push("runs/r/trials/t000")
    other = Store(str(there), tmp_path / "b")
    assert storage.fetch_trial(other, "runs/r/trials/t000")
    found = {str(p.relative_to(tmp_path / "b/runs/r/trials/t000")): p.read_text() for p in (tmp_path / "b").rglob("*")
             if p.is_file()}  # fmt: skip
    assert found == {"record.json": "second", "adapters/clean": "first"}


def test_a_protocol_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        Store("abfs://container/prefix", tmp_path)
    assert "'adlfs'" in caught.value.message
    assert str(caught.value.hint).startswith("pip install adlfs")
    with pytest.raises(UsageError, match="nosuch"):
        Store("nosuch://bucket", tmp_path)


def test_the_root_can_not_be_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is --root itself"):
        Store(str(tmp_path), Path())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("runs/elsewhere", "another place in each process"),
        ("file://elsewhere", "another place in each process"),
        ("memory://x", "by one process alone"),
        ("ftp://me:secret@host/x", "holds a password"),
    ],
)
def test_a_place_that_machines_can_not_share_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Resources(storage=url)


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "file:///mnt/x", "/mnt/x", "ftp://me@host/x", None])
def test_a_place_that_all_know_is_taken(url: str | None) -> None:
    assert Resources(storage=url).storage == url


def test_without_a_store_fsspec_is_not_loaded() -> None:
    asks = "import sys, robusweep.cache, robusweep.recipe, robusweep.stored; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asks], check=False).returncode == 0
