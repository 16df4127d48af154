"""Trials in two legs: what the driver hands out, and in which order, to an executor that is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_work
import pytest

from robusweep.assignment import Assignment, TrainedLeg
from robusweep.errors import MissingError, RecipeError
from robusweep.progress import Progress
from robusweep.recipe import SweepPlan
from robusweep.record import TrialRecord, write_text
from robusweep.resources import Taken
from robusweep.stored import work_stored
from robusweep.sweep.driver import Driver
from robusweep.sweep.ray_tune import _check_fits
from robusweep.sweep.run import Finished, run_sweep
from robusweep.sweep.status import read_status
from robusweep.sweep.study import MAX_DEATHS, Study

Declare = Callable[..., SweepPlan]
LEGS = (
    "resources={executor: ray, gpus: 0.25, train: {cpus: 2, gpus: 1}}",
    "search.sampler={kind: random}",
    "search.budget.n_trials=3",
)
SECONDS = {"train clean": 2.0, "model": 0.5}


def works(assignment_json: str) -> str:
    """As the workers of other tests, in legs."""
    assignment = Assignment.model_validate_json(assignment_json)
    progress = Progress(assignment.trial_dir)
    if assignment.leg is not None:
        progress.leg(assignment.leg, "begins")
    if assignment.leg == "train":
        return TrainedLeg(seconds=SECONDS, made=["clean"]).model_dump_json()
    return fake_work.works(assignment_json)


class Executor:
    """Runs one leg after the other, and notes them. ``dies``: of which legs the worker is killed, by their place."""

    def __init__(self, driver: Driver, *, dies: Sequence[int] = ()) -> None:
        self.driver, self.dies = driver, dies
        self.given: list[Assignment] = []

    @property
    def legs(self) -> list[tuple[int, str | None]]:
        return [(assignment.number, assignment.leg) for assignment in self.given]

    def step(self, work: Callable[[str], str] = works) -> Assignment | None:
        assignment = self.driver.next_assignment()
        if assignment is not None:
            self.given.append(assignment)
            if len(self.given) - 1 in self.dies:
                self.driver.died(assignment.number, "the worker was lost")
            else:
                self.driver.finished(assignment.number, work(assignment.model_dump_json()))
        return assignment

    def run(self, work: Callable[[str], str] = works) -> Executor:
        while self.step(work) is not None:
            assert len(self.given) < 30, "it goes on for ever"
        return self


@pytest.fixture
def driven(declare: Declare, project: Path) -> Callable[..., Driver]:
    """A driver of the project's sweep in legs; one that is made later goes on with it."""

    def make(*, killed: bool = True) -> Driver:
        plan = declare(*LEGS)
        return Driver(project, plan, plan.recipe, [], name="small", killed=killed)

    return make


Driven = Callable[..., Driver]


def test_a_second_leg_goes_out_before_new_trials_and_the_study_sees_one_trial(driven: Driven) -> None:
    driver, said = driven(), []
    driver.on_change = said.append
    executor = Executor(driver).run()
    assert executor.legs == [(n, leg) for n in range(3) for leg in ("train", "score")]
    assert driver.study.counts() == {"complete": 3, "failed": 0, "running": 0}
    assert driver.study.n_points() == 9
    assert driver.is_over
    assert said[:2] == ["t000 trained; its points are scored next", "t000 3 points"]
    first, second = executor.given[:2]
    assert first.trained is None
    assert second.trained == TrainedLeg(seconds=SECONDS, made=["clean"])
    assert second.model_copy(update={"leg": "train", "trained": None}) == first
    assert [first.recipe.resources.taken(leg) for leg in ("train", "score")] == [Taken(2.0, 1.0), Taken(1.0, 0.25)]


def test_while_trials_train_others_are_begun_and_none_is_over_between_its_legs(driven: Driven) -> None:
    driver = driven()
    first, second = driver.next_assignment(), driver.next_assignment()
    assert first is not None
    assert second is not None
    assert [(a.number, a.leg) for a in (first, second)] == [(0, "train"), (1, "train")]
    driver.finished(1, works(second.model_dump_json()))
    assert driver.n_live == 2
    assert not driver.is_over
    third = driver.next_assignment()
    assert third is not None
    assert (third.number, third.leg) == (1, "score")


def test_stages_that_take_the_same_are_one_leg(declare: Declare, project: Path) -> None:
    same = "resources={executor: ray, cpus: 1, train: {cpus: 2, gpus: 0.5}, score: {cpus: 2, gpus: 0.5}}"
    plan = declare(same, *LEGS[1:])
    executor = Executor(Driver(project, plan, plan.recipe, [], name="small")).run()
    assert executor.legs == [(0, None), (1, None), (2, None)]
    assert plan.recipe.resources.taken(None) == Taken(2.0, 0.5)


def test_the_same_sweep_with_and_without_legs_has_the_same_records(
    driven: Driven, declare: Declare, project: Path
) -> None:
    in_legs = driven()
    Executor(in_legs).run()
    plan = declare(*LEGS, "resources={executor: ray}")
    whole = Driver(project / "elsewhere", plan, plan.recipe, [], name="small")
    Executor(whole).run()
    assert [comparable(record) for record in in_legs.records()] == [comparable(record) for record in whole.records()]


def comparable(record: TrialRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"seconds": True, "recipe": {"resources"}})


def test_a_worker_that_dies_while_scoring_starts_again_there(driven: Driven) -> None:
    executor = Executor(driven(), dies=[1]).run()
    assert executor.legs[:3] == [(0, "train"), (0, "score"), (0, "score")]
    assert executor.given[2] == executor.given[1], "it knows what the training leg came to"
    assert executor.legs[3:] == [(n, leg) for n in (1, 2) for leg in ("train", "score")]


def test_deaths_count_over_both_legs(driven: Driven) -> None:
    driver = driven()
    executor = Executor(driver, dies=[0, 2, 3]).run()
    assert executor.legs[:4] == [(0, "train"), (0, "train"), (0, "score"), (0, "score")]
    assert MAX_DEATHS == 3
    assert [record.status for record in driver.records()] == ["failed", "complete", "complete"]
    assert "in each of 3 attempts" in str(driver.records()[0].error)


@pytest.mark.parametrize("n_legs", [0, 1])
def test_a_killed_driver_goes_on_with_the_training_leg_whose_adapters_are_in_the_cache(
    n_legs: int, driven: Driven
) -> None:
    """Killed in the first leg, or in the second."""
    first = Executor(driven())
    for _ in range(n_legs):
        first.step()
    assert first.driver.next_assignment() is not None
    again = driven()
    assert again.n_waiting == 1
    executor = Executor(again).run()
    assert executor.legs == [(n, leg) for n in range(3) for leg in ("train", "score")]
    assert again.study.attempt(again.study.finished()[0]) == 2
    assert again.study.counts() == {"complete": 3, "failed": 0, "running": 0}


def test_a_trial_whose_first_leg_ends_while_the_sweep_stops_gets_its_second(driven: Driven) -> None:
    driver = driven()
    first, second = driver.next_assignment(), driver.next_assignment()
    assert first is not None
    assert second is not None
    driver.finished(0, works(first.model_dump_json()))
    driver.stop()
    executor = Executor(driver)
    assert executor.step() is not None
    assert executor.step() is None, "the other one still trains"
    assert driver.n_live == 1
    driver.finished(1, works(second.model_dump_json()))
    executor.run()
    assert executor.legs == [(0, "score"), (1, "score")]
    assert driver.n_live == 0
    assert driver.study.counts() == {"complete": 2, "failed": 0, "running": 0}


def test_a_trial_that_fails_while_training_has_no_second_leg(driven: Driven) -> None:
    def fails(assignment_json: str) -> str:
        assignment = Assignment.model_validate_json(assignment_json)
        failed = {"status": "failed", "points": [], "error": "Traceback: it broke", "error_kind": "ValueError"}
        record = fake_work.record_of(assignment).model_copy(update=failed)
        write_text(assignment.trial_dir / "record.json", record.model_dump_json())
        return record.model_dump_json()

    executor = Executor(driven())
    executor.step(fails)
    assert executor.run().legs == [(0, "train"), *((n, leg) for n in (1, 2) for leg in ("train", "score"))]
    assert [record.error_kind for record in executor.driver.records()] == ["ValueError", None, None]


def test_status_says_which_leg_a_trial_is_at(driven: Driven, project: Path) -> None:
    executor = Executor(driven())
    legs = []
    for _ in range(3):
        executor.step()
        legs.append([(trial.state, trial.leg) for trial in read_status(project / "runs/small").trials])
    assert legs == [
        [("interrupted", "train")],
        [("complete", "")],
        [("complete", ""), ("interrupted", "train")],
    ]
    assert read_status(project / "runs/small").trials[1].standing == "interrupted, train"


def test_a_whole_sweep_in_legs_ends_as_one_without(
    declare: Declare, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robusweep.sweep.ray_tune.run_ray", lambda driver, work, **_: Executor(driver).run(work))
    monkeypatch.setattr("robusweep.report._write_figures", lambda *_: [])
    said: list[str] = []

    def swept(*overrides: str, root: Path) -> Finished:
        return run_sweep(declare(*LEGS, *overrides), root=root, say=said.append, work=works, track=False)

    done = swept(root=project)
    assert sum("trained; its points are scored next" in line for line in said) == 3
    whole = swept("resources.train=null", root=project / "elsewhere")
    assert done.points == whole.points
    assert len(done.points) == 9
    again = swept("resources.train=null", root=project)
    assert again.points == done.points, "it is the same sweep without legs"
    assert Study(done.run_dir / "study.journal", declare(*LEGS)).counts()["complete"] == 3
    calls = [json.loads(line)["number"] for line in (project / "calls.log").read_text().splitlines()]
    assert sorted(calls) == [0, 1, 2]


def test_a_leg_that_this_machine_has_no_room_for_is_told_before_anything_runs(declare: Declare) -> None:
    resources = declare(*LEGS).recipe.resources
    _check_fits({"CPU": 2.0, "GPU": 1.0}, resources)
    with pytest.raises(MissingError, match="training takes 2 CPUs, 1 GPUs, and Ray finds 2 CPUs, 0 GPUs"):
        _check_fits({"CPU": 2.0}, resources)
    with pytest.raises(MissingError, match="scoring takes 8 CPUs"):
        _check_fits({"CPU": 2.0}, declare("resources={score: {cpus: 8}}").recipe.resources)


def test_through_a_store_the_log_of_the_training_leg_goes_along(
    declare: Declare, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each leg on a machine of its own."""
    machines = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    plan = declare(LEGS[0].replace("ray,", f"ray, storage: {project / 'store'},"), *LEGS[1:])
    driver = Driver(project, plan, plan.recipe, [], name="small")
    for root in machines:
        assignment = driver.next_assignment()
        assert assignment is not None
        there = assignment.model_copy(update={"root": str(root)})
        driver.finished(0, work_stored(works, there.model_dump_json()))
    said = [line.split(" ", 1)[1] for line in (machines[1] / "runs/small/trials/t000/log.txt").read_text().splitlines()]
    assert said == ["leg train: begins", "leg score: begins"]
    assert (project / "store/runs/small/trials/t000/log.txt").read_text().count("leg") == 2
    assert (project / "store/runs/small/trials/t000/record.json").is_file()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("resources={executor: local, train: {cpus: 2}}", r"resources\.train: local processes divide one machine"),
        ("resources={executor: local, score: {cpus: 2}}", r"resources\.score: .*resources\.score=null"),
        ("resources={train: {gpus: 1}}", r"resources\.train\.gpus: training takes 1 GPUs and scoring 0"),
        ("resources={gpus: 1, score: {cpus: 4, gpus: 0}}", r"resources\.score\.gpus: .*allowed: above 0 for both"),
        ("resources={train: {gpu: 1}}", r"resources\.train\.gpu: unknown key"),
        ("resources={train: {cpus: 0}}", r"resources\.train\.cpus"),
        ("resources={gpus: 1.5}", r"resources\.gpus: .*whole"),
        ("resources={gpus: 1, train: {gpus: 2.5}}", r"resources\.train\.gpus: .*whole"),
    ],
)
def test_what_can_not_be_placed_is_refused(override: str, says: str, declare: Declare) -> None:
    with pytest.raises(RecipeError, match=says):
        declare(override)


def test_rungs_of_epochs_and_legs_are_refused_together(declare: Declare) -> None:
    rungs = ("search.early_stopping={epochs: [1], rungs: []}", "train.n_epochs=3")
    with pytest.raises(RecipeError, match=r"search\.early_stopping\.epochs: training and attacks take turns"):
        declare("resources={train: {cpus: 2}}", *rungs)
    assert declare("resources={executor: ray}", *rungs).recipe.resources.in_legs is False
    assert declare("resources={train: {cpus: 2}}", "search.early_stopping=strong").recipe.resources.in_legs
