"""Sweeps with a store: two folders stand for two machines, and what one has finished the other takes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import fake_halving
import fake_work
import faulty_work
import flaky
import pytest

from robusweep import storage, stored
from robusweep.assignment import Assignment
from robusweep.errors import MissingError, UsageError
from robusweep.recipe import SweepPlan
from robusweep.record import read_trials, write_json
from robusweep.sweep import mirror
from robusweep.sweep.run import Finished, run_sweep
from robusweep.sweep.status import read_points

Declare = Callable[..., SweepPlan]
Work = Callable[[str], str]
FOREIGN = {"token": "another", "host": "laptop", "pid": 17}
ONE = "resources.max_concurrent=1"


class Here:
    """A worker that is no process of its own."""

    def submit(self, work: Work, given: str) -> Future[str]:
        future: Future[str] = Future()
        try:
            future.set_result(work(given))
        except Exception as e:
            future.set_exception(e)
        return future


@pytest.fixture(autouse=True)
def _nothing_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("robusweep.sweep.local._worker", lambda: nullcontext(Here()))
    monkeypatch.setattr("robusweep.report._write_figures", lambda *_: [])
    monkeypatch.setattr("robusweep.sweep.local.TICK_SECONDS", 0.0)
    for name in ("AWAY_SECONDS", "AWAY_MOST"):
        monkeypatch.setattr(storage, name, 0.0)
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())
    monkeypatch.setenv(flaky.AWAY, str(tmp_path / "away"))
    monkeypatch.setenv(faulty_work.LOGS, str(tmp_path))
    monkeypatch.setenv(faulty_work.STEP, "0")
    fsync = os.fsync
    yield
    os.fsync = fsync  # faulty_work puts its own in place
    storage.opened.cache_clear()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sweep(declare: Declare, project: Path, said: list[str]) -> Callable[..., Finished]:
    """Run the sweep on the machine of this name, with a store that both know."""

    def run(machine: str, *overrides: str, work: Work = faulty_work.works, stored_there: bool = True) -> Finished:
        url = [f"resources.storage=flaky://{project / 'store'}"] if stored_there else []
        plan = declare(ONE, *url, *overrides)
        return run_sweep(plan, root=project / machine, say=said.append, work=work, track=False)

    return run


def events(project: Path) -> Counter[str]:
    """How many trials were begun, adapters trained, outcomes asked for."""
    path = project / "events"
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lines(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lease(project: Path, **changed: object) -> None:
    write_json(project / "store/runs/small/LEASE.json", FOREIGN | {"at": time.time()} | changed)


def budget(n: int) -> str:
    return f"search.budget.n_trials={n}"


def test_another_machine_takes_a_finished_sweep_and_does_nothing_again(
    sweep: Callable[..., Finished], project: Path, said: list[str]
) -> None:
    first = sweep("a")
    done = events(project)
    assert done["begun"] == 4
    second = sweep("b")
    assert events(project) == done
    assert second.points == first.points
    assert read_trials(second.run_dir) == read_trials(first.run_dir)
    assert f"from flaky://{project}/store: 4 finished trials of small" in said
    assert "all 4 trials are done already; nothing is trained" in said
    assert not any("NOTICE" in line for line in said)
    again = sweep("a")
    assert events(project) == done
    assert again.points == first.points


def test_what_was_finished_before_there_was_a_store_is_pushed_with_the_next_run(
    sweep: Callable[..., Finished], project: Path
) -> None:
    first = sweep("a", budget(2), stored_there=False)
    assert not (project / "store").exists()
    sweep("a", budget(2))
    done = events(project)
    assert sweep("b", budget(2)).points == first.points
    assert events(project) == done


def test_the_machines_go_on_in_turn_and_each_has_all_files(sweep: Callable[..., Finished], project: Path) -> None:
    sweep("a", budget(2), work=fake_work.works)
    sweep("b", budget(4), work=fake_work.works)
    third = sweep("a", budget(6), work=fake_work.works)
    assert [record.number for record in third.records] == [0, 1, 2, 3, 4, 5]
    calls = {m: [line["number"] for line in lines(project / m / "calls.log")] for m in "ab"}
    assert calls == {"a": [0, 1, 4, 5], "b": [2, 3]}
    assert files(third.run_dir / "trials/t002") == files(project / "b/runs/small/trials/t002")


def test_a_run_of_another_name_on_another_machine_trains_and_attacks_nothing_again(
    sweep: Callable[..., Finished], declare: Declare, project: Path
) -> None:
    sweep("a", budget(2))
    done = events(project)
    sweep("b", budget(2), "name=renamed")
    assert events(project) - done == Counter({"begun": 2, "done": 2})


def test_a_lost_machine_leaves_the_next_one_its_trial_under_its_number(
    sweep: Callable[..., Finished], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver pushed the journal with the question for the trial, and is not seen again."""
    monkeypatch.setattr(mirror, "ROUND_SECONDS", 0.02)
    asked: list[dict[str, object]] = []

    def is_lost_in_the_second(assignment_json: str) -> str:
        assignment = Assignment.model_validate_json(assignment_json)
        if assignment.number == 1:
            asked.append(assignment.params)
            journals = [project / side / "runs/small/study.journal" for side in ("a", "store")]
            ends = time.monotonic() + 10
            while journals[0].read_bytes() != journals[1].read_bytes() and time.monotonic() < ends:
                time.sleep(0.02)
            shutil.copytree(project / "store", project / "as_left", ignore=shutil.ignore_patterns("*.partial"))
            raise KeyboardInterrupt
        return faulty_work.works(assignment_json)

    with pytest.raises(KeyboardInterrupt):
        sweep("a", budget(2), work=is_lost_in_the_second)
    shutil.rmtree(project / "store")
    (project / "as_left").rename(project / "store")
    with pytest.raises(UsageError, match=r"runs/small is being run by .* seen \d s ago"):
        sweep("b", budget(2))
    lease(project, at=time.time() - mirror.LEASE_SECONDS)
    done = sweep("b", budget(2))
    assert [record.params for record in done.records][1] == asked[0]
    assert events(project)["begun"] == 2


def test_a_trial_that_another_machine_ran_arrives_with_all_its_files(
    sweep: Callable[..., Finished], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robusweep.sweep.run.work_stored", elsewhere)
    done = sweep("a", work=fake_work.works)
    assert not (project / "a/calls.log").exists()
    for number in range(4):
        trial = f"runs/small/trials/t{number:03d}"
        assert files(project / "a" / trial) == files(project / "node" / trial)
    assert len(read_points(done.run_dir)) == 12


def elsewhere(work: Work, assignment_json: str) -> str:
    """A worker on a machine that does not see the driver's folder."""
    assignment = Assignment.model_validate_json(assignment_json)
    node = assignment.model_copy(update={"root": str(Path(assignment.root).parent / "node")})
    return stored.work_stored(work, node.model_dump_json())


def test_files_of_a_trial_that_could_not_be_fetched_come_later(
    sweep: Callable[..., Finished], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(work: Work, assignment_json: str) -> str:
        number = Assignment.model_validate_json(assignment_json).number
        (project / "away").touch() if number == 3 else None
        return elsewhere(work, assignment_json)

    monkeypatch.setattr("robusweep.sweep.run.work_stored", cut_off)
    done = sweep("a", work=fake_work.works)
    assert len(read_points(done.run_dir)) == 12
    assert not (done.run_dir / "trials/t003/attacks").exists()
    (project / "away").unlink()
    trial = "runs/small/trials/t003"
    sweep("a")
    assert set(json.loads((project / "store" / trial / "manifest.json").read_text())["files"]) == {"record.json"}
    assert storage.Store(f"flaky://{project / 'store'}", project / "node").keep_owed() == 0
    sweep("a")
    assert files(project / "a" / trial) == files(project / "node" / trial)
    assert read_trials(sweep("b").run_dir) == read_trials(done.run_dir)


def test_a_store_that_goes_away_costs_nothing_and_gets_the_rest_with_the_next_run(
    sweep: Callable[..., Finished], project: Path, said: list[str]
) -> None:
    def loses_the_store(assignment_json: str) -> str:
        if Assignment.model_validate_json(assignment_json).number == 1:
            (project / "away").touch()
        return faulty_work.works(assignment_json)

    first = sweep("a", work=loses_the_store)
    assert [record.status for record in first.records] == ["complete"] * 4
    notices = [line for line in said if "NOTICE" in line]
    assert len([line for line in notices if "can't be reached" in line]) == 1
    assert "not all of" in notices[-1]
    with pytest.raises(MissingError, match="can't be reached") as caught:
        sweep("b")
    assert "resources.storage=null" in str(caught.value.hint)
    (project / "away").unlink()
    done = events(project)
    sweep("a")
    assert sweep("b").points == first.points
    assert events(project) == done


def test_a_run_that_another_driver_holds_is_refused_and_one_that_was_left_is_not(
    sweep: Callable[..., Finished], project: Path
) -> None:
    sweep("a", budget(1))
    lease(project)
    with pytest.raises(UsageError, match=r"is being run by laptop \(process 17\), seen 0 s ago") as caught:
        sweep("b", budget(1))
    assert "in 120 s" in str(caught.value.hint)
    own = (project / "a/runs/small/.lease").read_text()
    lease(project, token=own)  # of a driver of this folder that was killed
    sweep("a", budget(1))
    lease(project, at=time.time() - 121)
    sweep("b", budget(1))
    assert json.loads((project / "store/runs/small/LEASE.json").read_text())["at"] == 0.0, "it is let go at the end"


def test_a_driver_whose_run_was_taken_over_ends_and_pushes_nothing_more(
    sweep: Callable[..., Finished], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "ROUND_SECONDS", 0.02)

    def is_taken_over(assignment_json: str) -> str:
        record = faulty_work.works(assignment_json)
        if Assignment.model_validate_json(assignment_json).number == 1:
            for _ in range(10):  # one that falls between a look and a renewal is lost; a driver writes its own again
                lease(project)
                time.sleep(0.03)
        return record

    with pytest.raises(UsageError, match=r"was taken over by laptop \(process 17\)"):
        sweep("a", work=is_taken_over)
    assert events(project)["begun"] == 2
    assert json.loads((project / "store/runs/small/LEASE.json").read_text())["token"] == "another"


def test_two_machines_that_have_both_gone_on_are_not_mixed(sweep: Callable[..., Finished], project: Path) -> None:
    sweep("a", budget(1))
    sweep("b", budget(2))
    sweep("a", budget(2), stored_there=False)
    with pytest.raises(UsageError, match="t001 would be lost") as caught:
        sweep("a", budget(2))
    assert "move" in str(caught.value.hint)
    shutil.move(project / "a/runs/small", project / "aside")
    assert len(sweep("a", budget(2)).records) == 2


def test_points_are_held_against_rungs_of_another_machine(sweep: Callable[..., Finished], project: Path) -> None:
    early = "search.early_stopping={rungs: [5], eta: 3, min_points: 6}"
    sweep("a", early, budget(2), work=fake_halving.climbs)
    sweep("b", early, budget(3), work=fake_halving.climbs)
    verdicts = [line for line in lines(project / "b/runs/small/rungs/t002.jsonl") if "goes_on" in line]
    assert {verdict["n_points"] for verdict in verdicts} == {9}


def test_a_race_is_held_against_finished_trials_of_another_machine(
    sweep: Callable[..., Finished], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("a", "attacks.race={first: 5}", budget(1), work=fake_work.works)
    monkeypatch.setattr("robusweep.sweep.run.work_stored", elsewhere)
    sweep("a", "attacks.race={first: 5}", budget(2), work=fake_work.works)
    rival = files(project / "node/runs/small/trials/t000")
    assert rival == files(project / "a/runs/small/trials/t000")


def test_what_ray_pickles_holds_no_mirror(tmp_path: Path) -> None:
    held = mirror.Mirror(storage.Store(f"flaky://{tmp_path}/store", tmp_path), tmp_path / "runs/r", print)
    assert pickle.loads(pickle.dumps([held])) == [None]


def test_storage_makes_no_other_sweep_of_a_recipe(declare: Declare) -> None:
    with_store, without = declare("resources.storage=s3://bucket/x"), declare()
    assert with_store.sweep_digest() == without.sweep_digest()
    assert with_store.recipe.trial_digest() == without.recipe.trial_digest()
