"""Bounds in the study, and a sweep that ends when its hypervolume grows no more. Trials are told at once, by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_work
import pytest

from robusweep.cli import main
from robusweep.recipe import SweepPlan
from robusweep.sweep.driver import Driver
from robusweep.sweep.run import run_sweep
from robusweep.sweep.status import read_status
from robusweep.sweep.study import Study

Declare = Callable[..., SweepPlan]
LONG = "search.budget.n_trials=20"
STOP = "search.stop={min_gain: 0.01, trials: 2}"
BOUND = "search.constraints=[{metric: clean_accuracy, at_least: 0.9}]"


def driver_of(project: Path, plan: SweepPlan) -> Driver:
    return Driver(project, plan, plan.recipe, [], name="s", killed=False)


def one_more(driver: Driver, *, fails: bool = False) -> int | None:
    """Run the next trial; its points are those of the first, so that nothing is gained after it."""
    assignment = driver.next_assignment()
    if assignment is None:
        return None
    tell(driver, assignment, fails=fails)
    return assignment.number


def tell(driver: Driver, assignment: Any, *, fails: bool = False) -> None:
    params = {key: 0.3 if "radius" in key else value for key, value in assignment.params.items()}
    record = fake_work.record_of(assignment.model_copy(update={"params": params}))
    if fails:
        record = record.model_copy(update={"status": "failed", "points": [], "error": "x", "error_kind": "ValueError"})
    driver.finished(assignment.number, record.model_dump_json())


def all_of(driver: Driver) -> int:
    n = 0
    while one_more(driver) is not None:
        n += 1
    return n


# ------------------------------------------------------------------------------------------------- when to stop
def test_a_sweep_that_grows_no_more_ends_and_a_resume_does_not_start_it_again(declare: Declare, project: Path) -> None:
    driver = driver_of(project, declare(LONG, STOP))
    assert all_of(driver) == 4  # twice two
    assert driver.is_over
    assert driver.ended is not None
    assert driver.ended.startswith("the last 2 of 4 completed trials raised the hypervolume by 0.00%")
    driver.points()
    status = read_status(driver.run_dir)
    assert status.ended == driver.ended
    assert status.hypervolume == driver.growth.volumes[-1] > 0
    again = driver_of(project, declare(LONG, STOP))
    assert (again.is_over, again.ended, again.next_assignment()) == (True, driver.ended, None)
    assert again.growth.volumes == driver.growth.volumes


def test_a_larger_budget_goes_on_and_waits_for_as_many_trials_as_the_rule_looks_back_on(
    declare: Declare, project: Path
) -> None:
    all_of(driver_of(project, declare(LONG, STOP)))
    larger = driver_of(project, declare("search.budget.n_trials=21", STOP))
    assert larger.ended is None
    assert one_more(larger) == 4
    cut = driver_of(project, declare("search.budget.n_trials=21", STOP))  # a kill on the way changes nothing
    assert all_of(cut) == 1
    assert cut.ended is not None


def test_another_rule_decides_anew_and_none_goes_on_to_the_budget(declare: Declare, project: Path) -> None:
    all_of(driver_of(project, declare("search.budget.n_trials=7", STOP)))
    other = driver_of(project, declare("search.budget.n_trials=7", "search.stop={min_gain: 0.01, trials: 1}"))
    assert all_of(other) == 1
    without = driver_of(project, declare("search.budget.n_trials=7"))
    assert without.ended is None
    assert all_of(without) == 2
    assert without.is_over


def test_failed_trials_say_nothing_of_growth(declare: Declare, project: Path) -> None:
    driver = driver_of(project, declare(LONG, STOP))
    one_more(driver)
    for _ in range(6):
        one_more(driver, fails=True)
    assert driver.ended is None
    assert all_of(driver) == 3


def test_trials_that_run_when_the_sweep_ends_are_told_and_counted(declare: Declare, project: Path) -> None:
    driver = driver_of(project, declare(LONG, STOP))
    handed = [driver.next_assignment() for _ in range(6)]
    for assignment in handed[:4]:
        tell(driver, assignment)
    reason = driver.ended
    assert reason is not None
    assert driver.next_assignment() is None
    assert not driver.is_over
    for assignment in handed[4:]:
        tell(driver, assignment)
    assert driver.is_over
    assert driver.ended == reason  # what ends later changes nothing
    assert len(driver.growth.volumes) == 6


def test_the_command_says_why_it_ends_and_status_too(
    declare: Declare, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = declare(LONG, STOP)
    driver = Driver(project, plan, plan.recipe, [], name="small", killed=False)
    all_of(driver)
    lines: list[str] = []
    done = run_sweep(plan, root=project, say=lines.append, track=False)
    assert any(line.startswith("the sweep has ended already, and nothing is trained: the last 2") for line in lines)
    assert done.ended is not None
    assert len(done.records) == 4
    assert "The sweep ended before its budget was spent" in (done.run_dir / "report.html").read_text()
    assert json.loads((done.run_dir / "report.json").read_text())["history"]["ended"] == done.ended
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["robusweep", "status", "small", "--root", str(project), *more])
        with pytest.raises(SystemExit):
            main()
    told = capsys.readouterr().out
    assert "hypervolume 0." in told
    assert "ended before its budget was spent: the last 2 of 4" in told
    assert '"ended": "the last 2 of 4' in told


# -------------------------------------------------------------------------------------------------- constraints
def test_each_point_tells_optuna_how_far_it_is_beyond_each_bound(declare: Declare, project: Path) -> None:
    driver = driver_of(project, declare("search.budget.n_trials=2", BOUND))
    all_of(driver)
    found = driver.study._study.get_trials()
    assert len(found) == 6
    for trial in found:
        excess = trial.constraints["clean_accuracy >= 0.9"]
        assert excess == pytest.approx((0.9 - trial.values[0]) / 0.9)
    assert {t.constraints["clean_accuracy >= 0.9"] > 0 for t in found} == {True, False}
    best = {t.user_attrs["robusweep.point"] for t in driver.study._study.best_trials}
    points = {p.id: p for p in driver.points()}
    assert best == {p.id for p in points.values() if p.pareto}
    assert not any(points[name].violated for name in best)
    again = driver_of(project, declare("search.budget.n_trials=2", BOUND))
    assert [t.constraints for t in again.study._study.get_trials()] == [t.constraints for t in found]


@pytest.mark.parametrize(
    "sampler", ["tpe, n_startup_trials: 1", "nsga2, population_size: 2", "nsga3, population_size: 2", "random"]
)
def test_samplers_take_bounds_without_a_warning(
    declare: Declare, project: Path, sampler: str, recwarn: pytest.WarningsRecorder
) -> None:
    driver = driver_of(project, declare("search.budget.n_trials=4", BOUND, f"search.sampler={{kind: {sampler}}}"))
    assert all_of(driver) == 4
    assert [str(w.message) for w in recwarn if "constraint" in str(w.message).lower()] == []


def test_tpe_looks_where_the_bounds_are_met(declare: Declare, project: Path) -> None:
    """The larger the radius the better in both objectives; the bound allows the smaller half."""
    space = "adversarial.0.radius: {uniform: [0.0, 1.0]}\n"

    def drawn(*overrides: str) -> list[float]:
        plan = declare("search.sampler={kind: tpe, n_startup_trials: 5}", *overrides, space=space)
        study = Study(project / f"{len(overrides)}.journal", plan)
        radii = []
        for i in range(30):
            asked = study.ask()
            radius = asked.params["adversarial.0.radius"]
            radii.append(radius)
            excesses = {"p": {"bound": radius - 0.5}} if overrides else {}
            point = (f"p{i}", asked.params, [radius, radius])
            study.complete(asked, [point], excesses={f"p{i}": excesses.get("p", {})})
        return radii[10:]

    free, bound = drawn(), drawn(BOUND)
    assert sum(r > 0.5 for r in free) > 15
    assert sum(r > 0.5 for r in bound) < 10
    assert max(r for r in bound if r <= 0.5) > 0.4
