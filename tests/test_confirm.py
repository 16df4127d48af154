"""``robusweep confirm``: the same system on other texts, how much its rates shrink, and training's own luck."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robusweep import cli
from robusweep.assignment import PointPlan, single_assignment
from robusweep.confirm import confirm
from robusweep.errors import MissingError, StageError, UsageError
from robusweep.front import Objective, assess
from robusweep.recipe import load_recipe
from robusweep.record import Stopped, read_outcomes, read_trial, write_json, write_text
from robusweep.scores import Gap, Rate
from robusweep.trial import run_trial

RECIPE = """\
# A trial for tests.
version: 1
name: tiny
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 32, n_validation: 12, n_calibration: 8, n_test: 10}
model: {base: ./model, max_tokens: 32}
adapter: {kind: lora, rank: 2, alpha: 7}
train: {kind: standard, n_epochs: 4, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], held_out: [pruthi], n_examples: 6}
resources: {precision: fp32}
"""


def silent(_text: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one trial with a fixed weight and one with a weight for each text."""
    root = tmp_path_factory.mktemp("confirm")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    (root / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(root / "recipe.yaml").recipe
    assert recipe.mix is not None
    changes = [{"weight": 0.5}, {"weighting": "entropy_ratio"}]
    points = [
        PointPlan(
            id=f"t000.{i:02d}", params={f"mix.{k}": v for k, v in one.items()}, mix=recipe.mix.model_copy(update=one)
        )
        for i, one in enumerate(changes)
    ]
    assignment = single_assignment(recipe, name="run", root=root, stand_ins=[])
    record = run_trial(assignment.model_copy(update={"points": points}))
    objectives = [Objective(metric=name) for name in ("clean_accuracy", "robust_accuracy")]
    write_json(root / "runs/run/front.json", [p.model_dump(mode="json") for p in assess([record], objectives)])
    return root


@pytest.mark.parametrize("point", ["t000.00", "t000.01"])
def test_the_same_system_meets_every_attack_on_the_test_split(project: Path, point: str) -> None:
    (found,) = confirm(project, "run", [point], say=silent)
    trial = read_trial(project / "runs/run/trials/t000/record.json")
    scored = next(one for one in trial.points if one.id == point)
    assert found.chosen == scored
    assert found.test.model_digest == scored.model_digest
    assert found.test.params == scored.params
    assert (found.test.clean_accuracy.n, found.test.robust_accuracy.n) == (10, 10)
    assert found.test.attacks.keys() == {"deepwordbug"}
    assert found.test.held_out.keys() == {"pruthi"}
    assert found.protocol_hash != trial.protocol_hash
    assert found.seed != 0
    assert found.n_points == 2
    ids = {
        outcome.example_id
        for outcome in read_outcomes(project / f"runs/run/confirm/{point}/attacks/{point}.pruthi.jsonl")
    }
    validated = {o.example_id for o in read_outcomes(project / f"runs/run/trials/t000/attacks/{point}.pruthi.jsonl")}
    assert len(ids) == 10
    assert not ids & validated
    gap = found.shrinkage["clean_accuracy"]
    assert gap.difference == scored.clean_accuracy.value - found.test.clean_accuracy.value
    assert gap.low <= gap.difference <= gap.high


def test_a_second_confirmation_asks_nothing_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = confirm(project, "run", ["t000.00"], n=4, say=silent)
    monkeypatch.setattr("robusweep.attacks.evaluation.run_attack", _attacks_nothing_new)
    (second,) = confirm(project, "run", ["t000.00"], n=4, say=silent)
    assert second.test.robust_accuracy == first.test.robust_accuracy
    assert second.test.robust_accuracy.n == 4


def _attacks_nothing_new(_attack: object, *, examples: list, done: dict, **_rest: object) -> list:  # type: ignore[type-arg]
    return [done[example.id] for example in examples]


def test_retraining_takes_other_seeds_on_the_same_data(project: Path) -> None:
    (found,) = confirm(project, "run", ["t000.00"], n=3, n_retrained=2, say=silent)
    digests = {found.test.model_digest, *(point.model_digest for point in found.retrained)}
    assert len(digests) == 3
    assert [point.robust_accuracy.n for point in found.retrained] == [3, 3]
    shown = found.shown()["again"]
    assert [again["clean_accuracy"] for again in shown] == [p.clean_accuracy.value for p in found.retrained]


def test_the_front_is_what_is_confirmed_when_nothing_is_picked(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    front = [p["id"] for p in json.loads((project / "runs/run/front.json").read_text()) if p["pareto"]]
    monkeypatch.setattr("sys.argv", ["robusweep", "confirm", "run", "--n", "3", "--root", str(project), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert [one["point"] for one in json.loads(capsys.readouterr().out)] == front
    monkeypatch.setattr("sys.argv", ["robusweep", "confirm", "run", "--n", "3", "--root", str(project)])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert "shrinkage" in shown
    assert "chosen among 2 points" in shown


def test_other_data_other_weights_and_stopped_points_are_refused(project: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project, tmp_path / "copy"))
    path = root / "runs/run/trials/t000/record.json"
    trial = read_trial(path)
    write_text(path, trial.model_copy(update={"data": trial.data | {"digest": "another"}}).model_dump_json())
    with pytest.raises(MissingError, match="not what they were"):
        confirm(root, "run", ["t000.00"], say=silent)
    point = trial.points[0]
    spoilt = point.model_copy(update={"model_digest": "another"})
    write_text(path, trial.model_copy(update={"points": [spoilt, trial.points[1]]}).model_dump_json())
    with pytest.raises(StageError, match="not those that were scored"):
        confirm(root, "run", ["t000.00"], say=silent)
    stopped = point.model_copy(update={"stopped": Stopped(by="t000.01", n_examples=3, p_value=0.01, error=0.05)})
    write_text(path, trial.model_copy(update={"points": [stopped, trial.points[1]]}).model_dump_json())
    with pytest.raises(UsageError, match="stopped by a race"):
        confirm(root, "run", ["t000.00"], say=silent)


def test_the_gap_of_two_independent_rates_is_newcombes() -> None:
    gap = Gap.of(Rate.of(56, 70), Rate.of(48, 80))  # the worked example of Newcombe 1998, table II (a), method 10
    assert (round(gap.difference, 4), round(gap.low, 4), round(gap.high, 4)) == (0.2, 0.0524, 0.3339)
