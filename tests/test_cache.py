"""The cache: computed once by many processes, verified when read, nothing left by what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from robusweep.cache import MANIFEST, Cache
from robusweep.record import AttackOutcome

KEY = {"code": 1, "seed": 0}

MAKE_ONCE = """
import sys, time
from pathlib import Path
from robusweep.cache import Cache

def make(folder):
    with open(sys.argv[2], "a") as file:
        file.write("made\\n")
    time.sleep(0.3)
    (folder / "value").write_text("7")

entry, cached = Cache(Path(sys.argv[1])).get_or_make("train", {"seed": 0}, make)
print((entry / "value").read_text(), cached)
"""

HOLD = """
import sys, time
from pathlib import Path
from robusweep.cache import Cache

def make(folder):
    (folder / "half").write_text("half")
    print("held", flush=True)
    time.sleep(600)

Cache(Path(sys.argv[1])).get_or_make("train", {"code": 1, "seed": 0}, make)
"""


def write_seven(folder: Path) -> None:
    (folder / "value").write_text("7")


def never(folder: Path) -> None:
    raise AssertionError("what is in the cache is not made again")


def visible(cache: Cache) -> list[str]:
    """Everything below the cache but its lock files."""
    return [str(path) for path in cache.root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def outcome(name: str, text: str | None = None) -> AttackOutcome:
    return AttackOutcome(example_id=name, label=0, status="broken", n_queries=1, n_words=3, perturbed_text=text)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_made_is_found_by_its_key_alone(cache: Cache) -> None:
    entry, cached = cache.get_or_make("train", KEY, write_seven)
    again, found = cache.get_or_make("train", {"seed": 0, "code": 1}, never)
    assert (cached, found, again) == (False, True, entry)
    assert (entry / "value").read_text() == "7"
    assert json.loads((entry / MANIFEST).read_text())["key"] == KEY
    assert not cache.get_or_make("train", KEY | {"seed": 1}, write_seven)[1]
    assert not cache.get_or_make("other", KEY, write_seven)[1]


def test_four_processes_make_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE_ONCE, str(tmp_path / "cache"), str(tmp_path / "made")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = sorted(child.communicate(timeout=60)[0].strip() for child in children)
    assert said == ["7 False", "7 True", "7 True", "7 True"]
    assert (tmp_path / "made").read_text() == "made\n"


def test_an_exception_leaves_nothing_and_the_next_call_makes_it(cache: Cache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.get_or_make("train", KEY, fail)
    assert visible(cache) == []
    assert not cache.get_or_make("train", KEY, write_seven)[1]


def truncated(entry: Path) -> None:
    (entry / "value").write_text("")


def removed(entry: Path) -> None:
    (entry / "value").unlink()


def no_manifest(entry: Path) -> None:
    (entry / MANIFEST).unlink()


def torn_manifest(entry: Path) -> None:
    (entry / MANIFEST).write_text('{"files": {"val')


def list_for_a_manifest(entry: Path) -> None:
    (entry / MANIFEST).write_text("[]")


def list_of_files(entry: Path) -> None:
    (entry / MANIFEST).write_text('{"files": ["value"]}')


@pytest.mark.parametrize("damage", [truncated, removed, no_manifest, torn_manifest, list_for_a_manifest, list_of_files])
def test_a_corrupt_entry_is_reported_set_aside_and_made_again(cache: Cache, damage: Callable[[Path], None]) -> None:
    entry, _ = cache.get_or_make("train", KEY, write_seven)
    for _ in range(2):  # a second time in the same process, too
        damage(entry)
        with pytest.warns(UserWarning, match=r"corrupt .*made again"):
            again, cached = cache.get_or_make("train", KEY, write_seven)
        assert (again, cached) == (entry, False)
        assert (entry / "value").read_text() == "7"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get_or_make("train", KEY, never)[1]


def test_a_killed_maker_lets_the_next_one_in_and_its_rest_is_cleared(cache: Cache) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(cache.root)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("time.sleep(600)", ""), str(cache.root)], stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    assert waiter.poll() is None  # it waits for the lock
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert waiter.communicate(timeout=60)[0] == "held\n"
    assert waiter.returncode == 0
    entry, cached = cache.get_or_make("train", KEY, never)
    assert cached
    assert sorted(visible(cache)) == sorted(str(path) for path in entry.iterdir())


def test_outcomes_are_on_disk_one_by_one_and_come_back(cache: Cache) -> None:
    with cache.outcomes(KEY) as log:
        assert log.done == {}
        log.append(outcome("a", "text"))
        assert len(log.path.read_text().splitlines()) == 1
        log.append(outcome("b"))
    with cache.outcomes(KEY) as log:
        assert log.done == {"a": outcome("a", "text"), "b": outcome("b")}
    with cache.outcomes(KEY | {"seed": 1}) as log:
        assert log.done == {}


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\n", "\r\n", "\u00e9\U0001f600"])
def test_a_text_with_an_unusual_line_end_is_kept(cache: Cache, mark: str) -> None:
    with cache.outcomes(KEY) as log:
        log.append(outcome("a", f"one{mark}two"))
        log.append(outcome("b"))
    with cache.outcomes(KEY) as log:
        assert log.done["a"].perturbed_text == f"one{mark}two"
        assert set(log.done) == {"a", "b"}


@pytest.mark.parametrize("n_bytes_kept", [1, 5, 13, 40, 60])
def test_a_torn_line_is_dropped_and_the_others_and_the_next_are_kept(cache: Cache, n_bytes_kept: int) -> None:
    with cache.outcomes(KEY) as log:
        log.append(outcome("a"))
        n_bytes = log.path.stat().st_size
        log.append(outcome("b"))
    os.truncate(log.path, n_bytes + n_bytes_kept)
    with cache.outcomes(KEY) as log:
        assert set(log.done) == {"a"}
        log.append(outcome("c"))
    with cache.outcomes(KEY) as log:
        assert set(log.done) == {"a", "c"}


def test_a_line_that_was_changed_is_dropped(cache: Cache) -> None:
    with cache.outcomes(KEY) as log:
        log.append(outcome("a"))
        log.append(outcome("b"))
    path = log.path
    path.write_bytes(path.read_bytes().replace(b'"example_id":"a"', b'"example_id":"x"') + b"\xff\xfe\n")
    with cache.outcomes(KEY) as log:
        assert set(log.done) == {"b"}


def test_the_last_outcome_of_an_example_counts(cache: Cache) -> None:
    with cache.outcomes(KEY) as log:
        log.append(outcome("a", "first"))
        log.append(outcome("a", "second"))
    with cache.outcomes(KEY) as log:
        assert log.done["a"].perturbed_text == "second"
