"""Whole sweeps with workers that train nothing: budget, resume, failures, locks, refusals."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fake_work
import pytest

from robusweep.assignment import check_data, resolved_sweep
from robusweep.errors import MissingError, UsageError
from robusweep.front import Point
from robusweep.recipe import SweepPlan, load_recipe
from robusweep.sweep.driver import Driver
from robusweep.sweep.identity import check_same, forked, identity_of
from robusweep.sweep.rebuild import rebuild_reports
from robusweep.sweep.run import Finished, run_sweep
from robusweep.sweep.status import read_points, read_status
from robusweep.sweep.stop import stopped_readably
from robusweep.sweep.study import MAX_ATTEMPTS, MAX_DEATHS, Study

Declare = Callable[..., SweepPlan]
HERE = Path(__file__).parent


class Here:
    """A worker of the local executor that is no process of its own: a trial ends where it is handed out."""

    def submit(self, work: Callable[[str], str], given: str) -> Future[str]:
        future: Future[str] = Future()
        try:
            future.set_result(work(given))
        except Exception as e:
            future.set_exception(e)
        return future


@pytest.fixture(autouse=True)
def _nothing_slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and figures cost most of a test's time; tests that are about them ask for ``spawned`` and ``drawn``."""
    if "spawned" not in request.fixturenames:
        monkeypatch.setattr("robusweep.sweep.local._worker", lambda: nullcontext(Here()))
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("robusweep.report._write_figures", lambda *_: [])


@pytest.fixture
def spawned() -> None:
    """The workers are processes, as in every real sweep."""


@pytest.fixture
def drawn() -> None:
    """Figures are drawn."""


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def silent(_text: str) -> None:
    """Say nothing."""


def swept(plan: SweepPlan, project: Path, work: Callable[[str], str] = fake_work.works) -> Finished:
    return run_sweep(plan, root=project, say=silent, work=work, track=False)


def calls(project: Path) -> list[int]:
    return [json.loads(line)["number"] for line in (project / "calls.log").read_text().splitlines()]


@pytest.mark.usefixtures("spawned", "drawn")
def test_a_sweep_runs_each_trial_once_and_scores_every_weight(declare: Declare, project: Path) -> None:
    done = swept(declare(), project)
    assert sorted(calls(project)) == [0, 1, 2, 3]
    assert len(done.points) == 12
    assert done.n_failed == 0
    assert Counter(p.params["mix.weight"] for p in done.points) == {0.0: 4, 0.5: 4, 1.0: 4}
    assert [p.id for p in read_points(done.run_dir)] == [p.id for p in done.points]
    assert sum(p.knee for p in done.points) == 1
    for name in (
        "recipe.yaml",
        "recipe.resolved.yaml",
        "environment.json",
        "study.journal",
        "report.html",
        "report.md",
        "figures/front.png",
    ):
        assert (done.run_dir / name).stat().st_size > 0


def test_a_finished_sweep_runs_nothing_more(declare: Declare, project: Path) -> None:
    first = swept(declare(), project)
    before = calls(project)
    again = swept(declare(), project)
    assert calls(project) == before
    assert again.points == first.points


def test_a_larger_budget_goes_on_with_the_same_sweep(declare: Declare, project: Path) -> None:
    swept(declare("search.budget.n_trials=2"), project)
    done = swept(declare("search.budget.n_trials=5"), project)
    assert sorted(calls(project)) == [0, 1, 2, 3, 4]
    assert len(done.points) == 15


def test_a_changed_recipe_is_refused_with_what_differs(declare: Declare, project: Path) -> None:
    swept(declare(), project)
    with pytest.raises(UsageError, match=r"train\.n_epochs: 1 -> 2") as refused:
        swept(declare("train.n_epochs=2"), project)
    assert "--fork small_2" in str(refused.value)


def fork(plan: SweepPlan, project: Path, name: str = "small_2", of: str = "small") -> tuple[Finished, str]:
    """The run of a changed recipe, and what it said of the run that it comes from."""
    said: list[str] = []
    done = run_sweep(plan, root=project, say=said.append, name=name, fork_of=of, work=fake_work.works, track=False)
    (line,) = [line for line in said if line.startswith("forked from")]
    return done, line


def test_a_fork_runs_a_changed_recipe_beside_the_first(declare: Declare, project: Path) -> None:
    small = "search.budget.n_trials=2"
    first = swept(declare(small), project)
    changed = declare(small, "adversarial.0.n_epochs=2")
    done, said = fork(changed, project)
    assert done.run_dir == project / "runs/small_2"
    assert said.startswith("forked from small (2 trials): adversarial: ")
    assert "in the cache: adapters of clean," in said
    before = len(calls(project))
    assert fork(changed, project)[0].points == done.points, "the same command goes on with it"
    assert swept(declare(small), project).points == first.points
    assert len(calls(project)) == before


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        (
            "search.objectives=[{metric: clean_accuracy}, {metric: accuracy_under_attack.deepwordbug}]",
            "adapters of clean and adversarial.0,",
        ),
        ("mix.sharpness=2.0", "adapters of clean and adversarial.0,"),
        ("adversarial.0.n_epochs=2", "adapters of clean,"),
        ("attacks.n_examples=9", "adapters of clean,"),
        ("train.n_epochs=2", "nothing"),
        ("adapter.rank=8", "nothing"),
        ("seed=1", "nothing"),
        ("data.n_train=18", "nothing"),
    ],
)
def test_a_fork_says_which_views_are_trained_alike(change: str, shared: str, declare: Declare, project: Path) -> None:
    def identity(plan: SweepPlan) -> dict[str, Any]:
        recipe, _ = resolved_sweep(plan)
        return identity_of(plan, recipe, check_data(recipe))

    check_same(project / "runs/small", identity(declare()))
    said = forked(project / "runs/small", project / "runs/other", identity(declare(change)))
    assert f"in the cache: {shared}" in said


def test_a_fork_of_nothing_or_without_a_change_is_refused(declare: Declare, project: Path) -> None:
    with pytest.raises(UsageError, match="there is no run 'small'"):
        fork(declare(), project)
    swept(declare("search.budget.n_trials=1"), project)
    with pytest.raises(UsageError, match="nothing differs"):
        fork(declare(), project)
    with pytest.raises(UsageError, match="there is no run 'small'"):
        fork(declare("train.n_epochs=2"), project, name="small")
    assert [path.name for path in (project / "runs").iterdir()] == ["small"]


@pytest.mark.usefixtures("spawned")
@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (fake_work.fails_on_the_second, "ValueError"),
        (fake_work.raises_on_the_second, "WorkerLost"),
        (fake_work.dies_on_the_second, "WorkerLost"),
    ],
)
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(
    work: Callable[[str], str], kind: str, declare: Declare, project: Path
) -> None:
    done = swept(declare(), project, work)
    assert {r.number: r.status for r in done.records} == {0: "complete", 1: "failed", 2: "complete", 3: "complete"}
    assert done.records[1].error_kind == kind
    assert done.records[1].error
    assert len(done.points) == 9
    assert Study(done.run_dir / "study.journal", declare()).counts() == {"complete": 3, "failed": 1, "running": 0}


@pytest.mark.usefixtures("spawned")
def test_a_trial_whose_worker_dies_starts_again_under_its_number(declare: Declare, project: Path) -> None:
    said: list[str] = []
    done = run_sweep(declare(), root=project, say=said.append, work=fake_work.dies_once_on_the_second, track=False)
    assert [record.status for record in done.records] == ["complete"] * 4
    assert sorted(calls(project)) == [0, 1, 1, 2, 3]
    (line,) = [line for line in said if "worker process died" in line]
    assert "t001" in line
    assert "attempt 2 of 3" in line
    assert done.points == swept(declare(), project).points
    (project / "elsewhere").mkdir()
    undisturbed = run_sweep(declare(), root=project / "elsewhere", say=silent, work=fake_work.works, track=False)
    assert [record.params for record in done.records[:2]] == [record.params for record in undisturbed.records[:2]]


@pytest.mark.usefixtures("spawned")
def test_a_trial_that_always_kills_its_worker_ends_after_three_attempts(declare: Declare, project: Path) -> None:
    done = swept(declare(), project, fake_work.dies_on_the_second)
    assert sorted(calls(project)) == [0, 1, 1, 1, 2, 3]
    lost = done.records[1]
    assert "in each of 3 attempts" in str(lost.error)
    assert lost.recipe["adapter"]["rank"] == lost.params["adapter.rank"], "its own parameters"
    assert lost.recipe["adversarial"][0]["radius"]["value"] == lost.params["adversarial.0.radius"]


@pytest.mark.parametrize(("killed", "starts"), [(True, MAX_ATTEMPTS), (False, None)])
def test_a_trial_has_ten_attempts_where_drivers_are_killed_and_any_number_where_they_end(
    killed: bool, starts: int | None, declare: Declare, project: Path
) -> None:
    plan, started = declare("search.budget.n_trials=2"), 0
    for _ in range(MAX_ATTEMPTS + 2):  # a driver that hands out its first trial and is no more
        driver = Driver(project, plan, plan.recipe, [], name="small", killed=killed)
        assignment = driver.next_assignment()
        started += assignment is not None and assignment.number == 0
        assert driver.study.counts()["running"] >= 1
    assert started == (starts or MAX_ATTEMPTS + 2)
    records = driver.records()
    assert [record.number for record in records] == ([0] if killed else [])
    assert all("in each of 10 attempts" in str(record.error) for record in records)


def test_a_trial_that_only_waited_when_the_driver_was_killed_loses_no_attempt(declare: Declare, project: Path) -> None:
    plan = declare("search.budget.n_trials=2")
    first = Driver(project, plan, plan.recipe, [], name="small")
    assert [a.number for a in (first.next_assignment(), first.next_assignment()) if a] == [0, 1]
    for _ in range(MAX_ATTEMPTS - 1):  # killed with the first trial; the second one waited behind it
        again = Driver(project, plan, plan.recipe, [], name="small")
        assert again.n_waiting == 2
        again.next_assignment()
    last = Driver(project, plan, plan.recipe, [], name="small")
    assert [record.number for record in last.records()] == [0]
    assert last.n_waiting == 1
    assignment = last.next_assignment()
    assert assignment is not None
    assert assignment.number == 1


def test_killed_workers_and_killed_drivers_are_counted_apart_and_over_all_drivers(
    declare: Declare, project: Path
) -> None:
    plan, said = declare("search.budget.n_trials=1"), []
    for _ in range(5):  # killed drivers use up no attempt that a killed worker has
        driver = Driver(project, plan, plan.recipe, [], name="small")
        assert driver.next_assignment() is not None
    for _ in range(MAX_DEATHS):
        driver = Driver(project, plan, plan.recipe, [], name="small", killed=False)
        driver.on_change = said.append
        assert driver.next_assignment() is not None
        driver.died(0, "the worker died")
    assert [text.split("; ")[-1] for text in said[:2]] == [f"it starts again, attempt {n} of 3" for n in (2, 3)]
    assert driver.study.counts() == {"complete": 0, "failed": 1, "running": 0}


@pytest.mark.usefixtures("spawned")
def test_a_complete_trial_that_lost_its_record_and_kills_its_workers_ends_as_well(
    declare: Declare, project: Path
) -> None:
    first = swept(declare(), project)
    shutil.rmtree(first.run_dir / "trials/t001")
    done = swept(declare(), project, fake_work.dies_on_the_second)
    assert sorted(calls(project)) == [0, 1, 1, 1, 1, 2, 3]
    assert done.records[1].status == "failed"


@pytest.mark.usefixtures("spawned")
def test_a_worker_that_dies_behind_its_record_has_not_worked_in_vain(declare: Declare, project: Path) -> None:
    done = swept(declare(), project, fake_work.dies_behind_its_record)
    assert [record.status for record in done.records] == ["complete"] * 4
    assert sorted(calls(project)) == [0, 1, 2, 3]


def test_a_full_disk_in_a_worker_ends_the_sweep_readably_and_costs_no_trial(declare: Declare, project: Path) -> None:
    for _ in range(MAX_ATTEMPTS + 1):  # trying in vain does not use up the trial's attempts
        with pytest.raises(MissingError, match=r"disk is full: t001 .*No space left") as full:
            swept(declare(), project, fake_work.finds_the_disk_full)
        assert "same command again" in str(full.value)
    (project / "room").touch()
    done = swept(declare(), project, fake_work.finds_the_disk_full)
    assert [record.status for record in done.records] == ["complete"] * 4


@pytest.mark.parametrize("failing", ["study.journal", "front.json", "report.html", "budget.json"])
def test_a_full_disk_in_the_driver_ends_readably_and_the_same_command_goes_on(
    failing: str, declare: Declare, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from the first trial's end on, for one of the driver's files."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if failing in file and (failing == "budget.json" or len(calls(project)) > 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    (project / "calls.log").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MissingError, match="disk is full"):
            swept(declare(), project)
    done = swept(declare(), project)
    assert [record.status for record in done.records] == ["complete"] * 4
    assert len(read_points(done.run_dir)) == 12
    assert Study(done.run_dir / "study.journal", declare()).counts() == {"complete": 4, "failed": 0, "running": 0}


@pytest.mark.parametrize("name", ["front.json", "mlflow.json", "budget.json", "trials/t001/record.json"])
def test_a_file_that_was_cut_off_does_not_stop_the_sweep(name: str, declare: Declare, project: Path) -> None:
    first = swept(declare(), project)
    (first.run_dir / name).write_text("")
    assert read_status(first.run_dir).name == "small"
    if name == "front.json":
        with pytest.raises(MissingError, match=r"front\.json is damaged"):
            read_points(first.run_dir)
    again = swept(declare(), project)
    assert again.points == first.points
    assert read_points(first.run_dir) == first.points
    assert sorted(calls(project)) == [0, 1, *([1] if "t001" in name else []), 2, 3]


def test_a_torn_last_line_of_the_study_is_dropped_with_a_notice(declare: Declare, project: Path) -> None:
    first = swept(declare("search.budget.n_trials=1"), project)
    for torn, n_notices in ((b'{"op_code":4', 1), (b"", 0)):
        with (first.run_dir / "study.journal").open("ab") as file:
            file.write(torn)
        said: list[str] = []
        run_sweep(declare("search.budget.n_trials=1"), root=project, say=said.append, work=fake_work.works, track=False)
        assert len([line for line in said if line.startswith("NOTICE the study's last line")]) == n_notices


def test_a_description_that_was_cut_off_is_named(declare: Declare, project: Path) -> None:
    first = swept(declare(), project)
    (first.run_dir / "sweep.json").write_text("{")
    with pytest.raises(MissingError, match=r"remove .*sweep\.json"):
        swept(declare(), project)
    with pytest.raises(MissingError, match=r"sweep\.json is missing or damaged"):
        rebuild_reports(first.run_dir)
    (first.run_dir / "sweep.json").unlink()
    assert swept(declare(), project).points == first.points
    assert len(calls(project)) == 4


def test_a_worker_that_talks_nonsense_fails_its_trial(declare: Declare, project: Path) -> None:
    done = swept(declare("search.budget.n_trials=1"), project, fake_work.talks_nonsense)
    assert done.records[0].status == "failed"
    assert done.points == []


def test_a_missing_metric_is_a_failed_trial_never_a_score(declare: Declare, project: Path) -> None:
    objectives = "search.objectives=[{metric: clean_accuracy}, {metric: accuracy_under_attack.deepwordbug}]"
    done = swept(declare(objectives, "search.budget.n_trials=1"), project, fake_work.lacks_the_attack)
    assert done.records[0].status == "failed"
    assert "accuracy_under_attack.deepwordbug" in str(done.records[0].error)
    assert Study(done.run_dir / "study.journal", declare(objectives)).counts()["failed"] == 1


def test_a_sweep_of_one_recipe_has_one_driver_at_a_time(declare: Declare, project: Path) -> None:
    plan = declare()

    def second_driver(text: str) -> None:
        if "local worker" in text:
            with pytest.raises(UsageError, match="being run by another process"):
                swept(plan, project)
            refused.append(read_status(project / "runs" / "small").running)

    refused: list[bool] = []
    run_sweep(plan, root=project, say=second_driver, work=fake_work.works, track=False)
    assert refused == [True]
    assert not read_status(project / "runs" / "small").running


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import fake_work
from robusweep.recipe import load_recipe
from robusweep.sweep.run import run_sweep
if __name__ == "__main__":
    project = Path(sys.argv[1])
    plan = load_recipe(project / "recipe.yaml", ["search.budget.n_trials=6"])
    run_sweep(plan, root=project, say=print, work=fake_work.works, track=False)
"""


@pytest.mark.slow  # test_faults kills one in the default tier
def test_a_driver_killed_with_sigkill_is_continued_and_no_finished_trial_runs_again(
    declare: Declare, project: Path
) -> None:
    script = project / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(project), str(HERE)]
    for seconds in ("0.7", "0.7", "0"):
        log = project / "calls.log"
        begun = len(calls(project)) if log.exists() else 0
        finished = set((project / "runs/small/trials").glob("*/record.json"))
        driver = subprocess.Popen(command, env={**os.environ, "FAKE_SECONDS": seconds}, stdout=subprocess.DEVNULL)
        if seconds == "0":
            assert driver.wait(timeout=60) == 0
            break
        while len(set((project / "runs/small/trials").glob("*/record.json")) - finished) < 1:
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert len(calls(project)) > begun
    study = Study(project / "runs/small/study.journal", declare("search.budget.n_trials=6"))
    assert study.counts() == {"complete": 6, "failed": 0, "running": 0}
    assert study.n_points() == 18
    ran = Counter(calls(project))
    assert set(ran) == set(range(6))
    assert max(ran.values()) <= 3  # at most the two that were in flight at each kill ran again
    assert sum(ran.values()) <= 6 + 2 * 2


def test_workers_of_a_killed_driver_do_not_live_on(declare: Declare, project: Path) -> None:
    script = project / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(project), str(HERE)]
    driver = subprocess.Popen(command, env={**os.environ, "FAKE_SECONDS": "60"}, stdout=subprocess.DEVNULL)
    while not (project / "calls.log").exists():
        assert driver.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 10
    while any(_spawned_worker(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if _spawned_worker(pid)]


def _spawned_worker(pid: str) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    try:
        return b"spawn_main" in command.read_bytes()
    except OSError:
        return False


def test_a_project_that_moves_goes_on_with_its_sweep(
    declare: Declare, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    swept(declare("search.budget.n_trials=2"), project)
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    project.rename(moved)
    done = swept(load_recipe(moved / "recipe.yaml", ["search.budget.n_trials=3"]), moved)
    assert sorted(calls(moved)) == [0, 1, 2]
    assert len(done.points) == 9


def test_data_that_changed_under_a_sweep_are_refused(declare: Declare, project: Path) -> None:
    swept(declare("search.budget.n_trials=1"), project)
    data = (project / "data.csv").read_text()
    (project / "data.csv").write_text(data.replace("dogs", "hounds"))
    with pytest.raises(UsageError, match="data_digest"):
        swept(declare("search.budget.n_trials=2"), project)


def test_a_name_that_leaves_the_runs_folder_is_refused(declare: Declare, project: Path) -> None:
    with pytest.raises(UsageError, match="can't be named"):
        run_sweep(declare(), root=project, say=silent, name="../outside", work=fake_work.works, track=False)


def test_mlflow_that_is_down_is_caught_up_by_the_next_run(
    declare: Declare, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow itself is down in the slow test of faults."""
    said: list[str] = []

    def down(*_: Any, **_named: Any) -> dict[str, str]:
        raise MissingError("there is no server")

    def up(*_: Any, points: list[Point], **_named: Any) -> dict[str, str]:
        return {point.id: f"run of {point.id}" for point in points}

    monkeypatch.setattr("robusweep.tracking.sync", down)
    done = run_sweep(declare("search.budget.n_trials=2"), root=project, say=said.append, work=fake_work.works)
    assert any("MLflow was not written" in line for line in said)
    assert {point.run_id for point in done.points} == {None}
    monkeypatch.setattr("robusweep.tracking.sync", up)
    again = run_sweep(declare("search.budget.n_trials=2"), root=project, say=said.append, work=fake_work.works)
    assert sorted(calls(project)) == [0, 1]
    assert len({point.run_id for point in again.points}) == len(again.points) == 6
    assert None not in {point.run_id for point in read_points(again.run_dir)}


@pytest.mark.usefixtures("spawned")
def test_an_interrupt_does_not_wait_for_running_trials_and_the_sweep_goes_on(declare: Declare, project: Path) -> None:
    def interrupted(text: str) -> None:
        if "1/2 trials" in text:
            ends = time.monotonic() + 30
            while 1 not in calls(project) and time.monotonic() < ends:  # until the second trial runs, too
                time.sleep(0.05)
            raise KeyboardInterrupt

    plan = declare("search.budget.n_trials=2")
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, root=project, say=interrupted, work=fake_work.never_ends_the_second, track=False)
    assert time.monotonic() - began < 60
    done = swept(plan, project)
    assert [record.status for record in done.records] == ["complete", "complete"]
    assert sorted(calls(project)) == [0, 1, 1]


def test_signals_are_counted_and_the_third_ctrl_c_interrupts(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stopped_readably(tmp_path) as stop:
        for number, n_asked in ((signal.SIGINT, 1), (signal.SIGTERM, 3), (signal.SIGTERM, 5)):
            signal.raise_signal(number)
            assert stop.n_asked == n_asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop.n_asked = 0
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background
    with stopped_readably(tmp_path):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, FileNotFoundError])
def test_an_interrupt_that_a_library_turns_into_its_own_error_is_still_one(
    interrupt: type[BaseException], tmp_path: Path
) -> None:
    def interrupted_in_a_library() -> None:
        try:
            raise interrupt
        finally:
            raise FileNotFoundError("the lock that was to be released")

    with pytest.raises(interrupt), stopped_readably(tmp_path):
        interrupted_in_a_library()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_trial_ends_the_sweep_before_it(
    number: signal.Signals, declare: Declare, project: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_sweep(
            declare(),
            root=project,
            say=lambda text: signal.raise_signal(number) if "local worker" in text else None,
            work=fake_work.works,
            track=False,
        )
    assert not (project / "calls.log").exists()


def test_ctrl_c_while_reports_are_written_is_heeded_afterwards(
    declare: Declare, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Driver.points

    def pressed(driver: Driver, run_ids: dict[str, str] | None = None) -> Any:
        if driver.is_over:
            signal.raise_signal(signal.SIGINT)
        return points(driver, run_ids)

    plan = declare("search.budget.n_trials=1")
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "points", pressed)
        with pytest.raises(KeyboardInterrupt):
            swept(plan, project)
    assert (project / "runs/small/report.html").stat().st_size > 0
    assert len(swept(plan, project).points) == 3
    assert calls(project) == [0]


def test_a_trial_whose_record_was_removed_is_made_anew_under_its_number(declare: Declare, project: Path) -> None:
    first = swept(declare(), project)
    shutil.rmtree(first.run_dir / "trials/t002")
    again = swept(declare(), project)
    assert sorted(calls(project)) == [0, 1, 2, 2, 3]
    assert again.points == first.points
    assert Study(first.run_dir / "study.journal", declare()).n_points() == 12


def test_an_unreadable_record_that_a_worker_wrote_is_replaced_by_the_failed_one(
    declare: Declare, project: Path
) -> None:
    done = swept(declare("search.budget.n_trials=1"), project, fake_work.writes_nonsense)
    assert done.records[0].status == "failed"
    assert "can't be read" in str(done.records[0].error)


NAMED = """\
train: {grid: {vanilla: {kind: standard}, longer: {kind: standard, n_epochs: 3}}}
train.learning_rate: {uniform: [1.0e-4, 1.0e-3], when: {train: longer}}
mix.weight: {grid: [0.0, 1.0], after: training}
"""


def test_a_sweep_over_named_blocks_shows_names_and_trains_blocks(declare: Declare, project: Path) -> None:
    done = swept(declare(space=NAMED), project)
    assert [record.params["train"] for record in done.records] == ["vanilla", "longer"] * 2
    assert [record.recipe["train"]["n_epochs"] for record in done.records] == [3, 3, 3, 3]
    rates = {record.params.get("train.learning_rate") for record in done.records[1::2]}
    assert rates == {record.recipe["train"]["learning_rate"] for record in done.records[1::2]}
    assert len(rates) == 2
    assert {point.params["train"] for point in read_points(done.run_dir)} == {"vanilla", "longer"}
    assert swept(declare(space=NAMED), project).points == done.points, "the same sweep"
    with pytest.raises(UsageError, match=r"space\.train\.grid\.longer\.n_epochs: 3 -> 4"):
        swept(declare(space=NAMED.replace("n_epochs: 3", "n_epochs: 4")), project)


def test_reports_compare_with_the_reference_and_a_finished_sweep_takes_another_one(
    declare: Declare, project: Path
) -> None:
    def compared(*reference: str) -> dict[str, Any] | None:
        done = swept(declare("search.budget.n_trials=2", *reference, space=NAMED), project)
        written = [json.loads((done.run_dir / "report.json").read_text())["compared_with"]]
        rebuild_reports(done.run_dir)
        written.append(json.loads((done.run_dir / "report.json").read_text())["compared_with"])
        assert written[0] == written[1]
        found: dict[str, Any] | None = written[0]
        return found

    assert compared() is None
    table = compared("search.reference={train: vanilla}")
    assert table is not None
    assert (table["values"], table["references"]) == ({"train": "vanilla"}, ["t000.00", "t000.01"])
    pairs = [(row["point"], row["reference"]) for row in table["rows"]]
    assert pairs == [("t001.00", "t000.00"), ("t001.01", "t000.01")], "the same weight"
    assert all(row["comparisons"]["robust_accuracy"]["first"]["n"] == fake_work.N for row in table["rows"])
    assert len(compared("search.reference={mix.weight: 0.0}")["rows"]) == 2  # type: ignore[index]
    assert sorted(calls(project)) == [0, 1]


def test_before_the_reference_is_complete_the_report_says_so(declare: Declare, project: Path) -> None:
    reference = "search.reference={train: longer}"
    done = swept(declare("search.budget.n_trials=1", reference, space=NAMED), project)
    assert "No complete point has train = longer yet" in (done.run_dir / "report.html").read_text()
    assert "No complete point has train = longer yet" in (done.run_dir / "report.md").read_text()
