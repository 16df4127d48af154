"""A real pilot on a tiny model: what it tries, the sweep finds done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from robusweep.cache import OutcomeLog
from robusweep.pilot import assignments, pilot
from robusweep.plan import predict
from robusweep.recipe import load_recipe
from robusweep.record import AttackOutcome, read_outcomes
from robusweep.trial import run_trial

RECIPE = """\
# A sweep for tests.
version: 1
name: tiny
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 24, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}
attacks: {known: [deepwordbug], n_examples: 6}
search: {space: space.yaml, budget: {n_trials: 3}}
resources: {precision: fp32, executor: local, max_concurrent: 1}
"""


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "space.yaml").write_text("# For tests.\ntrain.learning_rate: {log_uniform: [1.0e-3, 1.0e-1]}\n")
    return tmp_path / "recipe.yaml"


def test_the_sweep_finds_what_each_trial_of_a_pilot_has_done(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, root = load_recipe(recipe), tmp_path / "root"
    told = predict(plan, root, n_pilot=4, n_pilot_trials=2)
    assert "trials t000, t002 on the same 4 examples" in told["measured"]
    low, high = told["attack_queries_interval"]
    assert low <= told["attack_queries"] <= high
    trials = assignments(plan, plan.recipe, [])
    asked: list[str] = []
    append = OutcomeLog.append

    def heard(log: OutcomeLog, outcome: AttackOutcome) -> None:
        asked.append(outcome.example_id)
        append(log, outcome)

    monkeypatch.setattr(OutcomeLog, "append", heard)
    for number, n_new in ((0, 2), (2, 2), (1, 6)):  # of 6 examples
        asked.clear()
        record = run_trial(trials[number].model_copy(update={"root": str(root), "name": "tiny"}))
        assert [adapter.cached for adapter in record.adapters] == [n_new == 2]
        folder = root / f"runs/tiny/trials/t{number:03d}/attacks"
        own = {o.example_id for o in read_outcomes(folder / f"t{number:03d}.00.deepwordbug.jsonl")}
        assert len(own & set(asked)) == n_new


def test_a_pilot_that_was_made_is_read_again(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robusweep import data
    from robusweep import pilot as piloting

    plan, root = load_recipe(recipe), tmp_path / "root"
    trials = assignments(plan, plan.recipe, [])[:1]
    examples = list(data.load(plan.recipe.data, plan.recipe.seed).validation)
    made = pilot(trials, examples, root, n_examples=4)
    monkeypatch.setattr(piloting, "run_trial", None)
    assert pilot(trials, examples, root, n_examples=4).n_queries == made.n_queries > 0
