"""A trial on a robust ticket: two densities share one search, and each trains on its own smaller network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from robusweep.assignment import single_assignment
from robusweep.recipe import load_recipe
from robusweep.record import TrialRecord
from robusweep.trial import run_trial

RECIPE = """\
# A robust ticket.
version: 1
name: robust_ticket
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
ticket:
  {kind: robust_ticket, n_steps: 2, batch_size: 8, n_epochs: 1, tuning_epochs: 2, tuning_rate: 1.0e-2, min_neurons: 4}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 6, learning_rate: 2.0e-2, batch_size: 8}
attacks: {known: [deepwordbug], n_examples: 6}
resources: {precision: fp32}
"""


def test_densities_share_one_search(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def ran(name: str, *overrides: str) -> TrialRecord:
        recipe = load_recipe(tmp_path / "recipe.yaml", list(overrides)).recipe
        return run_trial(single_assignment(recipe, name=name, root=tmp_path, stand_ins=[]))

    half, more = (
        ran("half", "ticket.head_density=0.5"),
        ran("more", "ticket.head_density=0.75", "ticket.draw_epoch=0.5"),
    )
    assert half.ticket is not None
    assert more.ticket is not None
    assert (half.ticket.kind, half.ticket.head_density, more.ticket.head_density) == ("robust_ticket", 0.5, 0.75)
    assert (half.ticket.cached, more.ticket.cached) == (False, True)
    assert (half.ticket.step, more.ticket.step) == (6, 3)
    assert half.ticket.search["n_forward"] == 12 + 12
    assert len(list((tmp_path / "cache/ticket").glob("*/manifest.json"))) == 1
    assert half.n_trained == more.n_trained == 1
    assert half.points[0].model_digest != more.points[0].model_digest
    masks = json.loads((tmp_path / "runs/half/trials/t000/ticket/masks.json").read_text())
    assert sum(row.count("1") for row in masks["heads"]) == 4
