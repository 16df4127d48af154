"""A real trial on the tiny model in two legs: nothing is trained twice, and the record is that of a trial in one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from robusweep.assignment import Assignment, TrainedLeg, single_assignment
from robusweep.progress import leg_in
from robusweep.recipe import load_recipe
from robusweep.record import TrialRecord
from robusweep.trial import work

RECIPE = """\
# A trial in legs, on a ticket that is searched for.
version: 1
name: legs
data: {kind: csv, path: data.csv, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
ticket: {kind: early_bird, n_steps: 2, batch_size: 8, learning_rate: 1.0e-2, threshold: 0.5, min_neurons: 4}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 4, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 6}
resources: {precision: fp32, cpus: 1, score: {cpus: 0.5}}
"""


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("legs")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def assigned(project: Path, root: Path, *overrides: str) -> Assignment:
    recipe = load_recipe(project / "recipe.yaml", list(overrides)).recipe
    return single_assignment(recipe, name="legs", root=root, stand_ins=[])


def trained(assignment: Assignment) -> TrainedLeg:
    told = work(assignment.model_copy(update={"leg": "train"}).model_dump_json())
    return TrainedLeg.model_validate_json(told)


def scored(assignment: Assignment, before: TrainedLeg) -> TrialRecord:
    second = assignment.model_copy(update={"leg": "score", "trained": before})
    return TrialRecord.model_validate_json(work(second.model_dump_json()))


def comparable(record: TrialRecord) -> dict[str, object]:
    """Without what two runs of the same may differ in."""
    found = record.model_dump(mode="json", exclude={"seconds": True, "ticket": {"search"}})
    for adapter in found["adapters"]:
        del adapter["train_seconds"], adapter["peak_memory_bytes"]
    for point in found["points"]:
        del point["seconds"]
    return found


def entries(root: Path) -> dict[str, int]:
    """Each entry of the cache of trainings and searches, and when it was made."""
    return {str(path): path.stat().st_mtime_ns for path in root.glob("cache/*/*/manifest.json")}


def test_two_legs_train_once_and_end_in_the_record_of_one(project: Path, tmp_path: Path) -> None:
    whole = TrialRecord.model_validate_json(work(assigned(project, tmp_path / "whole").model_dump_json()))
    assignment = assigned(project, tmp_path / "legs")
    before = trained(assignment)
    log = assignment.trial_dir / "log.txt"
    assert before.made == ["ticket", "clean", "adversarial.0"]
    assert not (assignment.trial_dir / "attacks").exists()
    assert not (assignment.trial_dir / "record.json").exists()
    assert log.read_text().splitlines()[-1].endswith("leg score: waits for 0.5 CPUs, 0 GPUs")
    made = entries(tmp_path / "legs")
    assert len(made) == 3
    record = scored(assignment, before)
    assert entries(tmp_path / "legs") == made, "nothing is trained twice"
    assert comparable(record) == comparable(whole)
    assert record.n_trained == 2
    assert record.ticket is not None
    assert not record.ticket.cached
    assert record.seconds.keys() == whole.seconds.keys()
    assert all(record.seconds[stage] > seconds for stage, seconds in before.seconds.items())
    assert leg_in(log.read_text().splitlines()) == "score"


def test_what_another_trial_has_trained_stays_marked_as_found(project: Path, tmp_path: Path) -> None:
    work(assigned(project, tmp_path).model_dump_json())
    other = assigned(project, tmp_path, "adversarial.0.radius=0.2").model_copy(update={"number": 1})
    before = trained(other)
    assert before.made == ["adversarial.0"]
    record = scored(other, before)
    assert [(adapter.view, adapter.cached) for adapter in record.adapters] == [
        ("clean", True),
        ("adversarial.0", False),
    ]
    assert record.ticket is not None
    assert record.ticket.cached


def test_a_second_leg_that_finds_no_adapters_trains_them(project: Path, tmp_path: Path) -> None:
    assignment = assigned(project, tmp_path)
    before = trained(assignment)
    shutil.rmtree(tmp_path / "cache")
    record = scored(assignment, before.model_copy(update={"made": []}))
    assert record.status == "complete"
    assert record.n_trained == 2


def test_a_training_leg_that_fails_hands_back_the_failed_record(project: Path, tmp_path: Path) -> None:
    assignment = assigned(project, tmp_path)
    model = assignment.recipe.model.model_copy(update={"base": str(tmp_path / "gone")})
    recipe = assignment.recipe.model_copy(update={"model": model})
    gone = assignment.model_copy(update={"recipe": recipe, "leg": "train"})
    record = TrialRecord.model_validate_json(work(gone.model_dump_json()))
    assert record.status == "failed"
    assert "in stage: model" in str(record.error)
    assert TrialRecord.model_validate_json((gone.trial_dir / "record.json").read_text()) == record


def test_a_leg_has_the_threads_and_the_share_of_memory_of_its_own_resources(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, threads = [], []
    monkeypatch.setattr("robusweep.trial.keep_to_share", lambda _device, share: shares.append(share))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assignment = assigned(project, tmp_path, "resources={gpus: 0.25, cpus: 3, train: {gpus: 0.75, cpus: 2.5}}")
    scored(assignment, trained(assignment))
    assert shares == [0.75, 0.25]
    assert threads == [2, 3]
