"""What lies in the cache, and what of it may go: never what a run or a process still has in its hands."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from robusweep import cli
from robusweep.cache import Cache
from robusweep.queries import QueryMemory
from robusweep.record import AttackOutcome, write_json, write_text
from robusweep.storage import OWED
from robusweep.upkeep import DAY, Group, age_text, listed, n_owed, prune, size_text

EPOCHS = "search: {early_stopping: {epochs: [0.5]}}\n"

HOLD = """
import sys, time
from pathlib import Path
from robusweep.cache import Cache

def make(folder):
    raise AssertionError

cache = Cache(Path(sys.argv[1]))
cache.get_or_make("train", {"seed": 0}, make)
print("held", flush=True)
time.sleep(600)
"""


def write(folder: Path) -> None:
    (folder / "value").write_text("seven")


def entry(root: Path, stage: str, key: dict[str, object], *, days: float = 0.0) -> Path:
    """An entry of the cache that was last used so many days ago."""
    made, _ = Cache(root / "cache").get_or_make(stage, key, write)
    return aged(made, days)


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    for file in (path, path.with_name(f".{path.name}.lock")):
        if file.exists():
            os.utime(file, (then, then))
    return path


def state(root: Path, training: str, *, days: float = 0.0) -> Path:
    return entry(root, "halted", {"training": training, "epochs": 1}, days=days)


def sweep(
    root: Path, name: str, *, recipe: str = EPOCHS, n_trials: int = 2, n_over: int = 1, days: float = 0.0
) -> Path:
    """A run that was begun so many days ago, with ``n_over`` of its trials over."""
    run_dir = root / "runs" / name
    write_json(run_dir / "sweep.json", {})
    write_json(run_dir / "budget.json", {"n_trials": n_trials})
    write_text(run_dir / "recipe.resolved.yaml", recipe)
    for number in range(n_over):
        write_json(run_dir / "trials" / f"t{number:03d}" / "record.json", {})
    aged(run_dir / "sweep.json", days)
    return run_dir


@contextmanager
def driven(run_dir: Path) -> Iterator[None]:
    """As if a driver ran it."""
    with (run_dir / "LOCK").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def names(groups: list[Group]) -> dict[str, int]:
    return {group.kind: group.n for group in groups}


def test_what_lies_there_is_listed_by_kind_with_size_and_age(tmp_path: Path) -> None:
    assert listed(tmp_path) == []
    entry(tmp_path, "train", {"seed": 0}, days=2)
    entry(tmp_path, "train", {"seed": 1}, days=5)
    state(tmp_path, "t")
    with Cache(tmp_path / "cache").outcomes({"a": 1}) as log:
        log.append(AttackOutcome(example_id="a", label=0, status="broken", n_queries=1, n_words=3))
    QueryMemory(tmp_path / "cache/queries/x.bin").remember([b"k" * 16], np.zeros((1, 2), dtype=np.float32))
    (tmp_path / "cache/train/.corrupt.abc.x1").mkdir()
    (tmp_path / "cache/train/.abc.x2").mkdir()
    (tmp_path / "cache/newer").mkdir()
    write_text(tmp_path / "cache/newer/thing", "12345")
    (tmp_path / OWED / "0000").mkdir(parents=True)
    (tmp_path / OWED / "0000" / "cache%2Ftrain%2Fabc").touch()
    groups = listed(tmp_path)
    assert list(names(groups).items()) == [
        *(("train", 2), ("halted", 1), ("attack", 1), ("queries", 1)),
        *(("unfinished", 1), ("damaged", 1), ("newer", 1)),
    ]
    assert (groups[0].last_use_days, groups[0].longest_unused_days) == pytest.approx((2, 5), abs=0.01)
    assert groups[-1].n_bytes == 5
    assert all(group.n_bytes > 0 for group in groups[:4])
    assert n_owed(tmp_path) == 1


def test_asking_for_an_entry_and_reading_answers_are_use(tmp_path: Path) -> None:
    made = entry(tmp_path, "train", {"seed": 0}, days=9)
    answers = tmp_path / "cache/queries/x.bin"
    QueryMemory(answers).remember([b"k" * 16], np.zeros((1, 2), dtype=np.float32))
    aged(answers, 9)
    assert [group.last_use_days > 8 for group in listed(tmp_path)] == [True, True]
    assert Cache(tmp_path / "cache").get_or_make("train", {"seed": 0}, write) == (made, True)
    assert len(QueryMemory(answers)) == 1
    assert [group.longest_unused_days < 1 for group in listed(tmp_path)] == [True, True]


def test_states_go_when_their_training_has_ended_or_no_unfinished_sweep_needs_them(tmp_path: Path) -> None:
    ended = entry(tmp_path, "train", {"seed": 0})
    of_ended, old, new = state(tmp_path, ended.name), state(tmp_path, "x", days=3), state(tmp_path, "y")
    sweep(tmp_path, "going", days=1)
    told = prune(tmp_path, dry_run=True)
    assert of_ended.is_dir()
    whys = [("its training has ended", 1), ("no unfinished run needs it", 1)]
    assert sorted((group.what, group.n) for group in told.groups) == whys
    assert sorted((group.what, group.n) for group in prune(tmp_path).groups) == whys
    assert [path.is_dir() for path in (ended, of_ended, old, new)] == [True, False, False, True]


@pytest.mark.parametrize("change", [{"n_over": 2}, {"recipe": "search: {early_stopping: {epochs: []}}\n"}])
def test_a_sweep_that_is_over_or_has_no_rungs_of_epochs_needs_no_states(tmp_path: Path, change: dict[str, int]) -> None:
    new = state(tmp_path, "y")
    sweep(tmp_path, "going", days=1, **change)  # type: ignore[arg-type]
    assert [(group.kind, group.what) for group in prune(tmp_path).groups] == [("halted", "no unfinished run needs it")]
    assert not new.exists()


def test_by_age_all_goes_that_was_not_used_and_is_made_again(tmp_path: Path) -> None:
    old, new = entry(tmp_path, "train", {"seed": 0}, days=9), entry(tmp_path, "train", {"seed": 1}, days=2)
    log = tmp_path / "cache/attack/0.jsonl"
    write_text(log, "{}\n")
    aged(log, 9)
    answers = tmp_path / "cache/queries/0.bin"
    write_text(answers, "x")
    aged(answers, 9)
    assert prune(tmp_path).groups == []
    assert names(prune(tmp_path, older_than_days=7, dry_run=True).groups) == {"train": 1, "attack": 1, "queries": 1}
    assert names(prune(tmp_path, older_than_days=7).groups) == {"train": 1, "attack": 1, "queries": 1}
    assert [path.exists() for path in (old, new, log, answers)] == [False, True, False, False]
    assert Cache(tmp_path / "cache").get_or_make("train", {"seed": 0}, write) == (old, False)
    assert len(QueryMemory(answers)) == 0


def test_what_a_live_run_has_used_since_it_began_stays(tmp_path: Path) -> None:
    ended = entry(tmp_path, "train", {"seed": 0}, days=3)
    of_ended, before = state(tmp_path, ended.name, days=3), entry(tmp_path, "train", {"seed": 1}, days=5)
    run_dir = sweep(tmp_path, "going", days=4, recipe="search: {early_stopping: null}\n")
    with driven(run_dir):
        pruned = prune(tmp_path, older_than_days=1)
    assert (names(pruned.groups), pruned.n_kept) == ({"train": 1}, 2)
    assert [path.exists() for path in (ended, of_ended, before)] == [True, True, False]
    assert names(prune(tmp_path, older_than_days=1).groups) == {"train": 1, "halted": 1}


def test_what_a_process_holds_stays_until_it_ends(tmp_path: Path) -> None:
    made = entry(tmp_path, "train", {"seed": 0})
    command = [sys.executable, "-c", HOLD, str(tmp_path / "cache")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    aged(made, 9)
    pruned = prune(tmp_path, older_than_days=1)
    assert (pruned.groups, pruned.n_kept, made.is_dir()) == ([], 1, True)
    holder.kill()
    holder.communicate()
    assert names(prune(tmp_path, older_than_days=1).groups) == {"train": 1}


def test_a_log_that_an_attack_writes_to_stays(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache").outcomes({"a": 1}) as log:
        log.append(AttackOutcome(example_id="a", label=0, status="broken", n_queries=1, n_words=3))
        aged(log.path, 9)
        assert prune(tmp_path, older_than_days=1).n_kept == 1
        assert log.path.is_file()
    assert names(prune(tmp_path, older_than_days=1).groups) == {"attack": 1}


def test_what_was_asked_for_between_the_look_and_the_removal_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robusweep import upkeep

    made = entry(tmp_path, "train", {"seed": 0}, days=9)
    taken_out: Callable[..., bool] = upkeep.taken_out

    def late(path: Path, **named: object) -> bool:
        Cache(tmp_path / "cache").get_or_make("train", {"seed": 0}, write)
        return taken_out(path, **named)

    monkeypatch.setattr(upkeep, "taken_out", late)
    assert prune(tmp_path, older_than_days=1).n_kept == 1
    assert (made / "value").read_text() == "seven"


def test_rests_of_killed_makers_go_and_what_is_being_made_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cache/train"
    (folder / ".abc.x1").mkdir(parents=True)
    (folder / ".def.x2").mkdir()
    with (folder / ".def.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert names(prune(tmp_path).groups) == {"unfinished": 1}
    assert not (folder / ".abc.x1").exists()
    assert (folder / ".def.x2").is_dir()


def test_damaged_entries_go_by_age_alone(tmp_path: Path) -> None:
    (tmp_path / "cache/train/.corrupt.abc.x1").mkdir(parents=True)
    assert prune(tmp_path).groups == []
    assert names(prune(tmp_path, older_than_days=0).groups) == {"damaged": 1}
    assert listed(tmp_path) == []


def test_what_a_store_has_not_got_yet_stays(tmp_path: Path) -> None:
    made = entry(tmp_path, "train", {"seed": 0}, days=9)
    mark = tmp_path / OWED / "0000" / f"cache%2Ftrain%2F{made.name}"
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert prune(tmp_path, older_than_days=1).n_kept == 1
    mark.unlink()
    assert names(prune(tmp_path, older_than_days=1).groups) == {"train": 1}


def test_an_entry_of_a_copied_cache_without_locks_is_taken_by_its_own_time(tmp_path: Path) -> None:
    made = entry(tmp_path, "train", {"seed": 0}, days=9)
    for lock in made.parent.glob(".*.lock"):
        lock.unlink()
    assert names(prune(tmp_path, older_than_days=10).groups) == {}
    assert names(prune(tmp_path, older_than_days=8).groups) == {"train": 1}


def test_sizes_and_ages_are_words(tmp_path: Path) -> None:
    assert [size_text(n) for n in (999, 1500, 2.0e6, 3.2e9)] == ["999 B", "1.5 kB", "2.0 MB", "3.2 GB"]
    assert [age_text(days) for days in (3.2, 1.0, 0.5, 1 / 24, 0.01, 0.0)] == [
        *("3 days", "1 day", "12 hours", "1 hour", "14 minutes", "a moment")
    ]


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["robusweep", "cache", *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def test_the_commands_say_what_lies_there_and_what_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = entry(tmp_path, "train", {"seed": 0}, days=9)
    root = ("--root", str(tmp_path))
    call(monkeypatch, "ls", *root)
    said = capsys.readouterr().out
    assert "used 9 days ago" in said
    assert "trained adapters" in said
    call(monkeypatch, "ls", "--json", *root)
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"][0]["n"] == 1
    assert found["n_bytes"] == found["kinds"][0]["n_bytes"] > 0
    call(monkeypatch, "prune", "--older-than", "7", "--dry-run", *root)
    assert "would go: 1, " in capsys.readouterr().out
    assert made.is_dir()
    call(monkeypatch, "prune", "--older-than", "7", "--json", *root)
    gone = json.loads(capsys.readouterr().out)
    assert (gone["dry_run"], gone["n_kept"], gone["groups"][0]["what"]) == (False, 0, "not used for so long")
    assert not made.exists()
