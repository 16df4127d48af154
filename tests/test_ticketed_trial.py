"""A trial on a ticket: one search for all densities, units really removed, everything else as without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robusweep.assignment import single_assignment
from robusweep.recipe import load_recipe
from robusweep.record import TrialRecord
from robusweep.trial import run_trial

RECIPE = """\
# A ticket.
version: 1
name: ticket
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
ticket: {kind: early_bird, n_steps: 2, batch_size: 8, learning_rate: 1.0e-2, threshold: 0.5, min_neurons: 4}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 6, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup, weighting: entropy_ratio}
attacks: {known: [deepwordbug], n_examples: 6}
resources: {precision: fp32}
"""


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ticket")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def ran(project: Path, name: str, *overrides: str) -> TrialRecord:
    recipe = load_recipe(project / "recipe.yaml", list(overrides)).recipe
    return run_trial(single_assignment(recipe, name=name, root=project, stand_ins=[]))


def test_densities_share_one_search_and_train_adapters_of_their_own(project: Path) -> None:
    records = [ran(project, f"d{i}", f"ticket.head_density={d}") for i, d in enumerate((0.5, 0.75))]
    first, second = (record.ticket for record in records)
    assert first is not None
    assert second is not None
    assert (first.head_density, second.head_density) == (0.5, 0.75)
    assert first.n_removed > second.n_removed > 0
    assert (first.cached, second.cached) == (False, True)
    assert len(list((project / "cache/ticket").glob("*/manifest.json"))) == 1
    assert first.search["n_steps"] > 0
    assert records[0].train_seconds > sum(adapter.train_seconds for adapter in records[0].adapters)
    assert [record.n_trained for record in records] == [2, 2], "adapters of another network are not taken for the same"
    masks = json.loads((project / "runs/d0/trials/t000/ticket/masks.json").read_text())
    assert sum(row.count("1") for row in masks["heads"]) == 4
    assert records[0].points[0].model_digest != records[1].points[0].model_digest
    assert records[0].points[0].per_text


@pytest.mark.parametrize("kind", ["random", "magnitude"])
def test_controls_of_the_same_size_need_no_search(project: Path, kind: str) -> None:
    record = ran(project, kind, f"ticket={{kind: {kind}, head_density: 0.5, min_neurons: 4}}", "mix.weighting=fixed")
    assert record.ticket is not None
    assert record.ticket.head_density == 0.5
    assert record.ticket.search == {}
    assert record.status == "complete"
