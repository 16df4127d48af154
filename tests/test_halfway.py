"""Rungs of epochs, in real trials on a tiny model: what is trained, what is left in the cache, who goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from robusweep import data as data_stage
from robusweep.assignment import Assignment, PointPlan, single_assignment
from robusweep.compare import compare
from robusweep.errors import RecipeError, UsageError
from robusweep.front import Objective, assess, n_epochs_saved
from robusweep.halving import Halving, Verdict
from robusweep.progress import Progress
from robusweep.recipe import load_recipe
from robusweep.record import PointRecord, TrialRecord, read_outcomes
from robusweep.report.sentences import stopped_text, summary_sentence
from robusweep.restored import restored
from robusweep.sweep.status import read_status
from robusweep.tracking.entries import point_entry
from robusweep.trial import protocol_hash, run_trial

N_EPOCHS, N_STEPS = 3, 3 * 6  # of 48 texts in batches of 8
RECIPE = f"""\
# A trial for tests.
version: 1
name: tiny
data: {{kind: csv, path: data.csv, text: text, label: label,
       n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}}
model: {{base: ./model, max_tokens: 32}}
adapter: {{kind: lora, rank: 2}}
train: {{kind: standard, n_epochs: {N_EPOCHS}, learning_rate: 2.0e-2, batch_size: 8}}
adversarial: [{{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: {N_EPOCHS}, learning_rate: 2.0e-2, batch_size: 8}}]
mix: {{kind: adpmixup}}
attacks: {{known: [deepwordbug], n_examples: 8, calibrate: false}}
resources: {{precision: fp32}}
"""
SEARCH = "search={space: space.yaml, early_stopping: {epochs: [1], epoch_examples: 4, rungs: [], min_points: 1}}"
WEIGHTS = (0.0, 0.5, 1.0)
UNBEATEN = [1.1, 1.1]


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "space.yaml").write_text("mix.weight: {grid: [0.0, 0.5, 1.0], after: training}\n")
    return folder


def assigned(project: Path, root: Path, *overrides: str, number: int = 0) -> Assignment:
    recipe = load_recipe(project / "recipe.yaml", list(overrides)).recipe
    assert recipe.mix is not None
    points = [
        PointPlan(
            id=f"t{number:03d}.{i:02d}", params={"mix.weight": w}, mix=recipe.mix.model_copy(update={"weight": w})
        )
        for i, w in enumerate(WEIGHTS)
    ]
    one = single_assignment(recipe, name="tiny", root=root, stand_ins=[])
    return one.model_copy(update={"points": points, "number": number})


def run(project: Path, root: Path, *overrides: str, number: int = 0) -> TrialRecord:
    return run_trial(assigned(project, root, *overrides, number=number))


def leave(root: Path, assignment: Assignment, lines: Sequence[Mapping[str, Any]], trial: str = "t900") -> None:
    """Lines at the run's rungs, as some trial has left them."""
    dataset = data_stage.load(assignment.recipe.data, assignment.recipe.seed)
    protocol = {"protocol_hash": protocol_hash(assignment.recipe, dataset)}
    path = root / "runs/tiny/rungs" / f"{trial}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [line if "goes_on" in line else {**line, **protocol} for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in whole))


def leave_better(root: Path, assignment: Assignment, epochs: float = 1.0, n: int = 4) -> None:
    leave(root, assignment, [{"point": f"t900.0{i}", "n_examples": n, "values": UNBEATEN, "epochs": epochs}
                             for i in range(3)])  # fmt: skip


def verdicts(going: Mapping[str, bool]) -> list[dict[str, Any]]:
    same: dict[str, Any] = {"n_examples": 4, "rank": 2, "n_before": 3, "n_points": 6, "epochs": 1.0}
    return [Verdict(point=id_, goes_on=goes_on, **same).model_dump() for id_, goes_on in going.items()]


def entries(root: Path, stage: str) -> set[str]:
    return {path.parent.name for path in (root / "cache" / stage).glob("*/manifest.json")}


def log_of(root: Path, trial: str = "t000") -> str:
    return (root / "runs/tiny/trials" / trial / "log.txt").read_text()


def points_of(record: TrialRecord) -> list[dict[str, Any]]:
    return [point.model_dump(exclude={"seconds"}) for point in record.points]


def adapters_of(record: TrialRecord) -> list[dict[str, Any]]:
    return [a.model_dump(exclude={"train_seconds", "peak_memory_bytes"}) for a in record.adapters]


def weights_of(root: Path, record: TrialRecord, view: str, stage: str = "train") -> dict[str, Any]:
    from safetensors.torch import load_file

    (adapter,) = (a for a in record.adapters if a.view == view)
    tensors: dict[str, Any] = load_file(root / "cache" / stage / adapter.cache_key / "adapter.safetensors")
    return tensors


@pytest.fixture(scope="module")
def plain(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialRecord]:
    """The trial without rungs."""
    root = tmp_path_factory.mktemp("plain")
    return root, run(project, root)


@pytest.fixture(scope="module")
def ended(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialRecord]:
    """The trial whose points all fall behind after one epoch."""
    root = tmp_path_factory.mktemp("ended")
    leave_better(root, assigned(project, root, SEARCH))
    return root, run(project, root, SEARCH)


# ---------------------------------------------------------------------------------------------- one trial
def test_a_trial_that_falls_behind_trains_no_further_and_says_what_is_known(
    ended: tuple[Path, TrialRecord], plain: tuple[Path, TrialRecord]
) -> None:
    root, record = ended
    assert record.status == "complete"
    assert [(a.epochs, a.n_steps) for a in record.adapters] == [(1, N_STEPS // N_EPOCHS)] * 2
    assert log_of(root).count(": epoch ") == 2
    assert entries(root, "train") == set(), "a half-trained adapter is none of the whole ones"
    assert entries(root, "halted") == {a.cache_key for a in record.adapters}
    for point, other in zip(record.points, plain[1].points, strict=True):
        assert point.stopped is not None
        assert (point.stopped.epochs, point.stopped.n_examples, point.robust_accuracy.n) == (1, 4, 4)
        assert (point.stopped.n_points, point.stopped.rung, point.stopped.n_epochs_saved) == (6, 1, 4)
        rows = read_outcomes(root / f"runs/tiny/trials/t000/attacks/{point.id}.deepwordbug.jsonl")
        assert point.stopped.n_queries_saved == sum(o.n_queries for o in rows), "four of eight examples"
        assert point.flags == []
        assert point.model_digest != other.model_digest


def test_a_trial_that_goes_on_is_the_one_without_rungs(
    project: Path, plain: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    record = run(project, tmp_path, SEARCH.replace("min_points: 1", "min_points: 9"))
    assert points_of(record) == points_of(plain[1])
    assert adapters_of(record) == adapters_of(plain[1])
    for view in ("clean", "adversarial.0"):
        there, here = weights_of(plain[0], plain[1], view), weights_of(tmp_path, record, view)
        assert all(there[name].equal(here[name]) for name in there)
    assert log_of(tmp_path).count(": epoch ") == 2 * N_EPOCHS, "no epoch twice"
    assert not list((tmp_path / "runs/tiny/trials/t000/checkpoints").iterdir())
    assert record.seconds["points in training"] > 0
    assert len((tmp_path / "runs/tiny/rungs/t000.jsonl").read_text().splitlines()) == 6


def test_an_adapter_that_no_point_depends_on_is_not_trained_further(
    project: Path, plain: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    going = {"t000.00": True, "t000.01": False, "t000.02": False}
    leave(tmp_path, assigned(project, tmp_path, SEARCH), verdicts(going), "t000")
    record = run(project, tmp_path, SEARCH)
    assert [a.epochs for a in record.adapters] == [None, 1]
    assert entries(tmp_path, "train") == {record.adapters[0].cache_key}
    assert points_of(record)[0] == points_of(plain[1])[0], "the clean adapter is what it is without rungs"
    assert [p.stopped.n_epochs_saved for p in record.points if p.stopped] == [2, 2]


def test_a_trial_of_the_same_inputs_goes_on_from_where_another_has_halted(
    project: Path, ended: tuple[Path, TrialRecord], plain: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    shutil.copytree(ended[0] / "cache", tmp_path / "cache")
    record = run(project, tmp_path, SEARCH.replace("min_points: 1", "min_points: 9"), number=1)
    assert log_of(tmp_path, "t001").count(": epoch ") == 2 * (N_EPOCHS - 1)
    assert [p.model_digest for p in record.points] == [p.model_digest for p in plain[1].points]


def test_a_rung_is_passed_by_where_nothing_is_left_to_train(
    project: Path, plain: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    shutil.copytree(plain[0] / "cache", tmp_path / "cache")
    leave_better(tmp_path, assigned(project, tmp_path, SEARCH))
    record = run(project, tmp_path, SEARCH, number=1)
    assert [p.stopped for p in record.points] == [None] * 3
    assert not (tmp_path / "runs/tiny/rungs/t001.jsonl").exists(), "no value is left there"
    assert entries(tmp_path, "halted") == set()


def test_half_trained_is_compared_with_half_trained_where_the_cache_has_a_view_whole(
    project: Path, plain: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    shutil.copytree(plain[0] / "cache", tmp_path / "cache")
    other = "adversarial.0.radius=0.2"
    leave_better(tmp_path, assigned(project, tmp_path, SEARCH, other))
    record = run(project, tmp_path, SEARCH, other)
    assert [(a.epochs, a.cached) for a in record.adapters] == [(1, False)] * 2
    stopped = [p.stopped for p in record.points]
    assert [s and s.n_epochs_saved for s in stopped] == [2] * 3, "the clean one's were spent long ago"
    whole = weights_of(plain[0], plain[1], "clean")
    half = weights_of(tmp_path, record, "clean", "halted")
    assert any(not whole[name].equal(half[name]) for name in whole)


def test_a_trial_killed_after_a_rung_repeats_its_verdicts_and_goes_on_with_its_training(
    project: Path, plain: tuple[Path, TrialRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robusweep.training.checkpoint import Checkpoint

    told = Progress.share

    def cut_off(self: Progress, what: str, done: float) -> None:
        if what == "train adversarial.0" and 0.8 < done < 1:
            raise KeyboardInterrupt
        told(self, what, done)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "is_due", lambda _self: True)
        patch.setattr(Progress, "share", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(project, tmp_path, SEARCH.replace("min_points: 1", "min_points: 3"))
    left = (tmp_path / "runs/tiny/rungs/t000.jsonl").read_text()
    leave_better(tmp_path, assigned(project, tmp_path, SEARCH))  # anew, all would stop
    record = run(project, tmp_path, SEARCH)
    assert (tmp_path / "runs/tiny/rungs/t000.jsonl").read_text() == left
    assert log_of(tmp_path).count("epoch 1/3, loss") == 2
    assert log_of(tmp_path).count("adversarial.0: epoch 2/3, loss") == 1
    going = {p.id for p in record.points if p.stopped is None}
    assert going
    whole = {p["id"]: p for p in points_of(plain[1])}
    assert all(p == whole[p["id"]] for p in points_of(record) if p["id"] in going)


def test_what_was_judged_in_training_stays_judged_when_the_cache_is_whole_by_then(
    project: Path, plain: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    shutil.copytree(plain[0] / "cache", tmp_path / "cache")
    value = {"n_examples": 4, "values": [0.5, 0.0], "epochs": 1.0}
    going = {"t000.00": True, "t000.01": True, "t000.02": False}
    lines = [{"point": id_, **value} for id_ in going] + verdicts(going)
    leave(tmp_path, assigned(project, tmp_path, SEARCH), lines, "t000")
    record = run(project, tmp_path, SEARCH)
    assert [p.stopped is None for p in record.points] == list(going.values())


@pytest.mark.parametrize(
    "change",
    [
        "prune={kind: magnitude, sparsity: 0.3, n_texts: 24}",
        "mix.weighting=grid_validation",
        "mix.weighting=entropy_ratio",
        "ticket={kind: magnitude, head_density: 0.5}",
    ],
)
def test_what_comes_before_and_after_training_has_its_part_at_rungs_too(
    project: Path, tmp_path: Path, change: str
) -> None:
    one = assigned(project, tmp_path, SEARCH, change)
    points = [p.model_copy(update={"prune": one.recipe.prune}) for p in one.points]
    leave_better(tmp_path, one)
    record = run_trial(one.model_copy(update={"points": points[1:2]}))
    (point,) = record.points
    assert point.stopped is not None
    assert (point.stopped.epochs, point.stopped.n_epochs_saved) == (1, 4)
    assert (point.pruning is not None) == change.startswith("prune")
    assert (point.chosen_weight is not None) == change.endswith("grid_validation")
    assert point.per_text == change.endswith("ratio")
    assert (record.ticket is not None) == change.startswith("ticket")


def test_seconds_are_compared_as_whole_trainings_would_take(project: Path, tmp_path: Path) -> None:
    objectives = "search.objectives=[{metric: clean_accuracy}, {metric: train_seconds}]"
    one = assigned(project, tmp_path, SEARCH, objectives)
    better = [{"point": f"t900.0{i}", "n_examples": 4, "values": [1.1, 0.0], "epochs": 1.0} for i in range(3)]
    leave(tmp_path, one, better)
    record = run_trial(one)
    left = [json.loads(line) for line in (tmp_path / "runs/tiny/rungs/t000.jsonl").read_text().splitlines()]
    seconds = {line["values"][1] for line in left if "values" in line}
    assert list(seconds) == [pytest.approx(N_EPOCHS * record.train_seconds)]


# --------------------------------------------------------------------------------------------- its readers
def test_no_reader_takes_a_half_trained_point_for_a_model(ended: tuple[Path, TrialRecord]) -> None:
    root, record = ended
    with pytest.raises(UsageError, match=r"t000\.00 was stopped after 1 epoch of training, on 4 examples"):
        compare(root, "tiny/t000.00", "tiny/t000.01")
    objectives = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
    points = assess([record], objectives)
    assert all(point.half_trained and not point.pareto for point in points)
    lines = ",".join(point.model_dump_json() for point in points)
    (root / "runs/tiny/front.json").write_text(f"[{lines}]")
    with pytest.raises(UsageError, match="there is no trained model of it"):
        restored(root / "runs/tiny", "t000.01", say=lambda _text: None)


def test_epochs_saved_count_once_a_trial_and_are_told(ended: tuple[Path, TrialRecord]) -> None:
    root, record = ended
    objectives = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
    records = [record, record.model_copy(update={"number": 1})]
    points = assess(records, objectives)
    assert n_epochs_saved(points) == 8
    said = summary_sentence(points, records, objectives)
    assert "trained 4 adapters (4 of them not to the end)" in said
    assert "6 of them stopped early as they fell behind other trials' points, 6 before their training was over" in said
    assert "queries of known attacks and 8 epochs of training" in said
    tags = point_entry(points[0], sweep_id="s", parent="p", notices=[]).tags
    assert tags["robusweep.stopped"].startswith("after 1 epoch of training, on 4 examples by early stopping: rung 1")
    assert tags["robusweep.n_epochs_saved"] == "4"
    (root / "runs/tiny/front.json").write_text(f"[{','.join(point.model_dump_json() for point in points)}]")
    assert read_status(root / "runs/tiny").n_epochs_saved == 8
    assert stopped_text(points[0]) == (
        "stopped after 1 epoch of training, on 4 examples: rung 1, rank 2, 3 of 6 points before it"
    )


# ---------------------------------------------------------------------------------------------- the ladder
def test_values_of_rungs_of_epochs_and_of_examples_do_not_meet(tmp_path: Path) -> None:
    from test_halving import going, ladder, point

    halving = Halving(epochs=[1, 2], epoch_examples=10, rungs=[10, 30], min_points=1)
    better: list[PointRecord] = [point("a", 90, 8), point("b", 91, 8)]
    ladder(tmp_path, "t000", halving).decide(10, better, epochs=1)
    late: Callable[..., dict[str, Any]] = ladder(tmp_path, "t001", halving).decide
    weak = [point("c", 10, 1)]
    assert going(late(10, weak)) == {"c": True}
    assert going(late(10, weak, epochs=2)) == {"c": True}
    assert going(late(10, weak, epochs=1)) == {"c": False}
    assert late(10, weak)["c"].n_points == late(10, weak, epochs=2)["c"].n_points == 1
    own = ladder(tmp_path, "t001", halving)
    assert [own.has_been_at(epochs) for epochs in (1, 2)] == [True, True]
    assert not ladder(tmp_path, "t000", halving).has_been_at(2)
    assert [own.number(10, 1), own.number(10, 2), own.number(10), own.number(30)] == [1, 2, 3, 4]


def test_a_rung_of_epochs_is_a_number_or_a_fraction_of_each_methods() -> None:
    assert [Halving.finished(2, n) for n in (1, 2, 5)] == [1, 2, 2]
    assert [Halving.finished(0.5, n) for n in (1, 3, 4)] == [1, 2, 2]


# ---------------------------------------------------------------------------------------------- the recipe
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{epochs: [2, 1]}", "search.early_stopping.epochs: rungs must increase: 2, 1"),
        ("{epochs: [1.5]}", "a rung is a whole number of epochs, or a fraction of them between 0 and 1, not 1.5"),
        ("{epochs: [0.5, 2]}", "rungs are numbers of epochs or fractions of them, not both: 0.5, 2"),
        ("{epochs: [], rungs: []}", "search.early_stopping: rungs and epochs are both empty"),
        ("{epochs: [1, 3], rungs: []}",
         "search.early_stopping.epochs: no training is longer than 3 epochs: nothing is left to save at 3"),
        ("{epochs: [1], epoch_examples: 0}", "early_stopping.epoch_examples: must be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named(project: Path, given: str, says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(project / "recipe.yaml", [f"search={{space: space.yaml, early_stopping: {given}}}"])
    assert says in refused.value.message.splitlines()[0]


def test_a_rung_that_some_trial_of_the_space_trains_past_is_one(project: Path) -> None:
    longer = "search={space: longer.yaml, early_stopping: {epochs: [3], rungs: []}}"
    (project / "longer.yaml").write_text("train.n_epochs: {choice: [1, 5]}\n")
    search = load_recipe(project / "recipe.yaml", [longer]).recipe.search
    assert search is not None
    assert search.early_stopping == Halving(epochs=[3], rungs=[])


def test_rungs_of_epochs_make_no_other_sweep_and_no_other_trial(project: Path) -> None:
    off, on = (load_recipe(project / "recipe.yaml", [text])
               for text in ("search={space: space.yaml}", SEARCH))  # fmt: skip
    assert off.sweep_digest() == on.sweep_digest()
    assert off.recipe.trial_digest() == on.recipe.trial_digest()
