"""A sweep whose points are stopped early: what the study, the front, status and the report make of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fake_halving

from robusweep.recipe import SweepPlan
from robusweep.record import read_trials
from robusweep.sweep.run import Finished, run_sweep
from robusweep.sweep.status import read_points, read_status
from robusweep.sweep.study import Study

Declare = Callable[..., SweepPlan]
ONE = "resources.max_concurrent=1"
EARLY = "search.early_stopping={rungs: [5], eta: 3, min_points: 6}"


def swept(plan: SweepPlan, project: Path) -> Finished:
    return run_sweep(plan, root=project, say=lambda _text: None, work=fake_halving.climbs, track=False)


def test_stopped_points_are_pruned_in_the_study_off_the_front_and_told_of(declare: Declare, project: Path) -> None:
    plan = declare(EARLY, ONE)
    done = swept(plan, project)
    points = read_points(done.run_dir)
    stopped = {p.id for p in points if p.stopped}
    assert stopped
    assert not stopped & {p.id for p in points if p.trial == 0}, "three points are too few to judge by"
    assert not stopped & {p.id for p in points if p.pareto}
    assert {p.robust_accuracy.n for p in points if p.id in stopped} == {5}
    assert {p.robust_accuracy.n for p in points if p.id not in stopped} == {10}
    trials = Study(done.run_dir / "study.journal", plan)._study.get_trials()
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert {t.user_attrs["robusweep.point"] for t in pruned} == stopped
    assert all(t.values is None for t in pruned)
    assert [t.state.name for t in trials].count("COMPLETE") == 12 - len(stopped)
    status = read_status(done.run_dir)
    assert (status.n_stopped, status.n_queries_saved) == (len(stopped), 54 * len(stopped))
    said = f"{len(stopped)} of them stopped early as they fell behind"
    page = (done.run_dir / "report.html").read_text()
    assert said in page
    assert page.count('<circle class="stopped"') == len(stopped) + 1, "one stands in the legend"
    assert said in (done.run_dir / "report.md").read_text()

    before = read_trials(done.run_dir)
    (done.run_dir / "trials/t001/record.json").unlink()
    swept(declare(EARLY, ONE), project)
    assert read_trials(done.run_dir)[1].points == before[1].points, "what was decided is repeated"


def test_off_is_as_if_there_were_no_such_key(declare: Declare, project: Path) -> None:
    done = swept(declare("search.early_stopping=off", ONE, "search.budget.n_trials=1"), project)
    assert not (done.run_dir / "rungs").exists()
    front = json.loads((done.run_dir / "front.json").read_text())
    assert {point["stopped"] for point in front} == {None}
    assert "of them stopped early" not in (done.run_dir / "report.html").read_text()
    status = read_status(done.run_dir)
    assert (status.n_stopped, status.n_queries_saved) == (0, 0)
