"""``robusweep export`` of pruned points: the very weights that were scored, and units that nothing reads taken out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from robusweep.assignment import PointPlan, single_assignment
from robusweep.confirm import confirm
from robusweep.export import export
from robusweep.recipe import load_recipe
from robusweep.record import read_trial, write_json, write_text
from robusweep.trial import run_trial

RECIPE = """\
# A pruned point.
version: 1
name: pruned
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 6, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup}
prune: {kind: akr, sparsity: 0.5, n_texts: 32}
attacks: {known: [deepwordbug], n_examples: 4}
resources: {precision: fp32, device: cpu}
"""
SPACE: dict[str, Any] = {"prune.units": {"grid": ["weights", "structured"], "after": "training"}}


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial with a point for each kind of unit."""
    root = tmp_path_factory.mktemp("pruned")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    (root / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(root / "recipe.yaml").recipe
    assert recipe.prune is not None
    points = [
        PointPlan(
            id=f"t000.{i:02d}",
            params={"prune.units": units},
            mix=recipe.mix,
            prune=recipe.prune.model_copy(update={"units": units}),
        )
        for i, units in enumerate(SPACE["prune.units"]["grid"])
    ]
    assignment = single_assignment(recipe, name="run", root=root, stand_ins=[])
    assert run_trial(assignment.model_copy(update={"points": points})).status == "complete"
    write_json(root / "runs/run/sweep.json", {"space": SPACE})
    return root


def test_single_weights_stay_zero_in_a_plain_folder(project: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    shipped = export(project, "run", "t000.00", out=tmp_path / "model")
    assert shipped.form == "plain"
    assert shipped.largest_difference <= 1e-5
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    weights = [p for name, p in network.named_parameters() if ".layer." in name and p.ndim == 2]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    record = shipped.scores.pruning
    assert record is not None
    assert zeros == pytest.approx(record.zeros)
    assert "of the weights of the encoder's linear maps are 0" in (tmp_path / "model/README.md").read_text()


def test_units_that_nothing_reads_are_taken_out(project: Path, tmp_path: Path) -> None:
    whole = export(project, "run", "t000.00", out=tmp_path / "whole")
    small = export(project, "run", "t000.01", out=tmp_path / "small")
    assert (whole.form, small.form) == ("plain", "merged")
    assert small.largest_difference <= 1e-5
    sizes = [(tmp_path / f).stat().st_size for f in ("whole/model.safetensors", "small/base/model.safetensors")]
    assert sizes[1] < sizes[0]
    assert (tmp_path / "small/base/ticket.json").is_file()


def test_a_pruned_point_is_confirmed_as_it_was_scored(project: Path) -> None:
    (found,) = confirm(project, "run", ["t000.01"], n=3, say=lambda _text: None)
    assert found.test.model_digest == found.chosen.model_digest


def test_other_calibration_texts_are_other_weights(project: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project, tmp_path / "copy"))
    path = root / "runs/run/trials/t000/record.json"
    trial = read_trial(path)
    recipe = trial.recipe | {"prune": trial.recipe["prune"] | {"n_texts": 16}}
    write_text(path, trial.model_copy(update={"recipe": recipe}).model_dump_json())
    with pytest.raises(Exception, match="not those that were scored"):
        export(root, "run", "t000.00", out=tmp_path / "model")
