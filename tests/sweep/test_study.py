"""The study: what is asked for, what is told, and what a restart finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robusweep.errors import MissingError, UsageError
from robusweep.recipe import SweepPlan
from robusweep.sweep.study import Asked, Study

Declare = Callable[..., SweepPlan]
WEIGHTS = (0.0, 0.5, 1.0)


def told(study: Study, asked: Asked) -> None:
    """Tell a trial with the three points of the fixture's space."""
    points = []
    for i, weight in enumerate(WEIGHTS):
        params = {"mix.weight": weight, **asked.params}
        points.append((f"t{asked.number:03d}.{i:02d}", params, [0.9 - 0.1 * weight, 0.3 + 0.4 * weight]))
    study.complete(asked, points)


def test_each_after_training_value_is_a_completed_trial_with_all_its_parameters(
    declare: Declare, project: Path
) -> None:
    study = Study(project / "s.journal", declare())
    told(study, study.ask())
    told(study, study.ask())
    trials = study._study.get_trials()
    assert study.n_points() == len(trials) == 6
    assert {t.params["mix.weight"] for t in trials} == set(WEIGHTS)
    assert all(set(t.params) == {"mix.weight", "adversarial.0.radius", "adapter.rank"} for t in trials)
    assert study.counts() == {"complete": 2, "failed": 0, "running": 0}


def test_telling_a_trial_twice_changes_nothing(declare: Declare, project: Path) -> None:
    study = Study(project / "s.journal", declare())
    asked = study.ask()
    told(study, asked)
    told(study, asked)
    assert study.n_points() == 3


def test_a_curve_that_was_told_in_part_is_completed(declare: Declare, project: Path) -> None:
    study = Study(project / "s.journal", declare())
    asked = study.ask()
    params = {"mix.weight": 0.0, **asked.params}
    study.complete(asked, [("t000.00", params, [0.9, 0.3])])
    again = Study(project / "s.journal", declare())
    told(again, again.finished()[0])
    assert again.n_points() == 3


def test_parameters_do_not_depend_on_restarts(declare: Declare, project: Path) -> None:
    going = Study(project / "a.journal", declare())
    whole = []
    for _ in range(5):
        asked = going.ask()
        told(going, asked)
        whole.append(asked.params)
    pieces = []
    for _ in range(5):
        fresh = Study(project / "b.journal", declare())
        asked = fresh.ask()
        told(fresh, asked)
        pieces.append(asked.params)
    assert pieces == whole
    assert len({str(p) for p in whole}) == 5


def test_another_seed_asks_for_other_parameters(declare: Declare, project: Path) -> None:
    one = Study(project / "a.journal", declare()).ask()
    other = Study(project / "b.journal", declare("seed=1")).ask()
    assert one.params != other.params


def test_orphans_come_back_under_their_number_with_their_parameters(declare: Declare, project: Path) -> None:
    before = Study(project / "s.journal", declare())
    told(before, before.ask())
    lost = [before.ask(), before.ask()]
    after = Study(project / "s.journal", declare())
    assert after.orphans() == lost
    assert after.ask().number == 3


def test_a_trial_keeps_its_attempts_and_a_told_one_is_not_written_on(declare: Declare, project: Path) -> None:
    study = Study(project / "s.journal", declare())
    asked = study.ask()
    assert study.attempt(asked) == 1
    study.start_again(asked, 2)
    assert Study(project / "s.journal", declare()).attempt(asked) == 2
    told(study, asked)
    study.start_again(asked, 3)
    assert study.attempt(asked) == 2


@pytest.mark.parametrize("torn", [b'{"op_code":4,"worker_id":"a', b"\0" * 40, b'{"op_code":4}'])
def test_a_last_line_that_was_torn_is_cut(torn: bytes, declare: Declare, project: Path) -> None:
    path = project / "s.journal"
    before = Study(path, declare())
    told(before, before.ask())
    lost = before.ask()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    study = Study(path, declare())
    assert path.read_bytes().startswith(whole)
    assert study.orphans() == [lost]
    told(study, lost)
    again = Study(path, declare())  # what was written behind the torn line is there
    assert again.counts() == {"complete": 2, "failed": 0, "running": 0}
    assert again.ask().number == 2


def test_a_journal_that_is_damaged_before_its_end_is_refused_with_the_line(declare: Declare, project: Path) -> None:
    path = project / "s.journal"
    study = Study(path, declare())
    told(study, study.ask())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5][:9] + lines[6], *lines[7:]]))
    with pytest.raises(MissingError, match="damaged at line 6") as refused:
        Study(path, declare())
    assert f"head -n 5 {path}" in str(refused.value)


def test_a_kill_while_a_trial_is_asked_for_leaves_no_trial_with_half_its_parameters(
    declare: Declare, project: Path
) -> None:
    """The journal ends behind any of the lines that asking writes; the next driver asks for the same."""
    path = project / "s.journal"
    first = Study(path, declare())
    begun = len(path.read_bytes().splitlines())
    asked = [first.ask(), first.ask()]
    lines = path.read_bytes().splitlines(keepends=True)
    needed = (len(lines) - begun) // 2
    assert needed >= 6  # put in the queue, taken, three parameters, the number
    for n_lines in range(begun, begun + needed):
        path.write_bytes(b"".join(lines[:n_lines]))
        study = Study(path, declare())
        assert study.orphans() == []
        assert [study.ask().params for _ in range(2)] == [a.params for a in asked], lines[n_lines - 1]
    path.write_bytes(b"".join(lines[: begun + needed]))
    assert Study(path, declare()).orphans() == asked[:1]


def test_a_failed_trial_has_no_values_and_is_no_point(declare: Declare, project: Path) -> None:
    study = Study(project / "s.journal", declare())
    study.fail(study.ask())
    assert study.n_points() == 0
    assert study.counts() == {"complete": 0, "failed": 1, "running": 0}


def test_a_lock_left_by_a_kill_does_not_block_the_journal(declare: Declare, project: Path) -> None:
    Study(project / "s.journal", declare()).ask()
    (project / "s.journal.lock").symlink_to(project / "s.journal")
    assert Study(project / "s.journal", declare()).ask().number == 1


def test_training_grids_are_walked_in_turn(declare: Declare, project: Path) -> None:
    space = "mix.weight: {grid: [0.0, 1.0], after: training}\nadapter.rank: {grid: [2, 4, 8]}\n"
    study = Study(project / "s.journal", declare(space=space))
    assert [study.ask().params["adapter.rank"] for _ in range(4)] == [2, 4, 8, 2]


def test_a_conditional_dimension_is_asked_for_only_where_it_exists(declare: Declare, project: Path) -> None:
    space = (
        "adapter.rank: {choice: [4, 8]}\n"
        "adapter.alpha: {uniform: [8.0, 32.0], when: {adapter.rank: 8}}\n"
        "mix.weight: {grid: [0.5], after: training}\n"
    )
    study = Study(project / "s.journal", declare(space=space))
    asked = [study.ask().params for _ in range(12)]
    assert {p["adapter.rank"] for p in asked} == {4, 8}
    assert all(("adapter.alpha" in p) == (p["adapter.rank"] == 8) for p in asked)


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "nsga3", "random", "qmc", "gp"])
def test_every_sampler_asks_within_the_space_and_learns_from_points(kind: str, declare: Declare, project: Path) -> None:
    study = Study(project / "s.journal", declare(f"search.sampler={{kind: {kind}}}"))
    asked = []
    for _ in range(6):
        asked.append(study.ask())
        told(study, asked[-1])
    assert study.n_points() == 18
    assert all(0.1 <= a.params["adversarial.0.radius"] <= 0.6 and a.params["adapter.rank"] in (4, 8) for a in asked)
    assert len({a.params["adversarial.0.radius"] for a in asked}) >= 4  # a model may ask for a bound twice


def test_a_genetic_sampler_sees_every_point_of_a_trial_in_its_generation(declare: Declare, project: Path) -> None:
    study = Study(project / "s.journal", declare("search.sampler={kind: nsga2, population_size: 4}"))
    for _ in range(3):
        told(study, study.ask())
    marks = [{k for k in t.system_attrs if "generation" in k} for t in study._study.get_trials()]
    assert all(marks)


def test_a_study_of_other_objectives_is_refused(
    declare: Declare, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SweepPlan, "sweep_digest", lambda _plan: "the same study name")
    Study(project / "s.journal", declare())
    turned = "search.objectives=[{metric: clean_accuracy, goal: min}, {metric: robust_accuracy}]"
    with pytest.raises(UsageError, match="directions"):
        Study(project / "s.journal", declare(turned))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "random", "qmc", "gp"])
def test_points_that_a_race_has_stopped_are_told_as_pruned_and_every_sampler_goes_on(
    declare: Declare, project: Path, sampler: str
) -> None:
    plan = declare(f"search.sampler={{kind: {sampler}}}")
    study = Study(project / "s.journal", plan)
    for _ in range(12):
        asked = study.ask()
        points: list[tuple[str, dict[str, object], list[float] | None]] = []
        for i, weight in enumerate(WEIGHTS):
            params = {"mix.weight": weight, **asked.params}
            values = None if (asked.number + i) % 3 == 0 else [0.9 - 0.1 * weight, 0.3 + 0.4 * weight]
            points.append((f"t{asked.number:03d}.{i:02d}", params, values))
        study.complete(asked, points)
        study.complete(asked, points)  # twice is as good as once
    states = [trial.state.name for trial in study._study.get_trials()]
    assert (states.count("COMPLETE"), states.count("PRUNED")) == (24, 12)
    assert study.counts() == {"complete": 12, "failed": 0, "running": 0}
    again = Study(project / "s.journal", plan)
    assert [asked.number for asked in again.finished()] == list(range(12)), "also those whose first point was stopped"
    assert again.orphans() == []


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc", "gp"])
def test_named_blocks_are_sampled_by_name_with_the_keys_inside_them(
    declare: Declare, project: Path, sampler: str
) -> None:
    space = (
        "mix: {grid: {half: {kind: adpmixup, weight: 0.5}, fixed: {kind: adpmixup}}, after: training}\n"
        "mix.weight: {grid: [0.0, 1.0], after: training, when: {mix: fixed}}\n"
        "train: {choice: {vanilla: {kind: standard}, pgd: {kind: pgd, radius: 0.3}}}\n"
        "train.radius: {log_uniform: [0.1, 1.0], when: {train: pgd}}\n"
    )
    plan = declare(f"search.sampler={{kind: {sampler}}}", space=space)
    study = Study(project / "s.journal", plan)
    met = set()
    for _ in range(12):
        asked = study.ask()
        met.add(asked.params["train"])
        assert ("train.radius" in asked.params) == (asked.params["train"] == "pgd")
        made = plan.with_params(asked.params).model_dump()["train"]
        assert made["kind"] == {"vanilla": "standard", "pgd": "pgd"}[asked.params["train"]]
        assert asked.params["train"] == "vanilla" or made["radius"]["value"] == asked.params["train.radius"]
        points = plan.space.grid_points(asked.params)
        study.complete(
            asked, [(f"t{asked.number:03d}.{i:02d}", p | asked.params, [0.9, 0.1 * i]) for i, p in enumerate(points)]
        )
    assert met == {"vanilla", "pgd"}
    assert study.n_points() == 36
    assert [a.params["train"] for a in Study(project / "s.journal", plan).finished()[:2]]
