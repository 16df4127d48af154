"""One real trial on a tiny model: real training, a real mix, a real attack; caches, resume and failure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robusweep.assignment import Assignment, PointPlan, single_assignment
from robusweep.cache import OutcomeLog
from robusweep.recipe import load_recipe
from robusweep.record import AttackOutcome, TrialRecord
from robusweep.trial import run_trial, work

RECIPE = """\
# A trial for tests.
version: 1
name: tiny
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 8, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 8}
resources: {precision: fp32}
"""
WEIGHTS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT, its texts, and a recipe."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
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


@pytest.fixture(scope="module")
def first(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialRecord]:
    root = tmp_path_factory.mktemp("root")
    return root, run_trial(assigned(project, root))


def test_a_trial_trains_each_view_once_and_scores_every_weight(first: tuple[Path, TrialRecord]) -> None:
    root, record = first
    assert record.status == "complete"
    assert [a.view for a in record.adapters] == ["clean", "adversarial.0"]
    assert record.n_trained == 2
    assert [p.params["mix.weight"] for p in record.points] == list(WEIGHTS)
    assert len({p.model_digest for p in record.points}) == 3
    assert record.points[0].clean_accuracy.value == 1.0
    assert len(list((root / "cache/train").glob("*/manifest.json"))) == 2
    folder = root / "runs/tiny/trials/t000"
    assert {p.name for p in (folder / "adapters").iterdir()} == {"clean.safetensors", "adversarial.0.safetensors"}
    assert TrialRecord.model_validate_json((folder / "record.json").read_text()) == record


def test_rates_count_every_attacked_example(first: tuple[Path, TrialRecord]) -> None:
    root, record = first
    for point in record.points:
        rows = (root / f"runs/tiny/trials/t000/attacks/{point.id}.deepwordbug.jsonl").read_text().splitlines()
        outcomes = [AttackOutcome.model_validate_json(row) for row in rows]
        survived = sum(o.status == "survived" for o in outcomes)
        score = point.attacks["deepwordbug"]
        assert len(outcomes) == score.accuracy_under_attack.n == point.robust_accuracy.n == 8
        assert score.accuracy_under_attack.value == point.robust_accuracy.value == survived / 8
        assert score.success_rate.n == sum(o.status != "misclassified" for o in outcomes)
        assert point.robust_accuracy.value <= point.clean_accuracy.value or point.clean_accuracy.n != 8
    assert any(p.attacks["deepwordbug"].success_rate.value > 0 for p in record.points)


def test_the_same_trial_again_trains_and_attacks_nothing(
    project: Path, first: tuple[Path, TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, record = first

    def forbidden(self: OutcomeLog, outcome: AttackOutcome) -> None:
        raise AssertionError("an example was attacked again")

    monkeypatch.setattr(OutcomeLog, "append", forbidden)
    again = run_trial(assigned(project, root))
    assert again.n_trained == 0
    assert [p.model_dump(exclude={"seconds"}) for p in again.points] == [
        p.model_dump(exclude={"seconds"}) for p in record.points
    ]


def test_the_same_recipe_elsewhere_gives_the_same_record_but_for_seconds(
    project: Path, first: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    _, record = first
    again = run_trial(assigned(project, tmp_path))
    assert again.n_trained == 2
    assert [p.model_dump(exclude={"seconds"}) for p in again.points] == [
        p.model_dump(exclude={"seconds"}) for p in record.points
    ]
    assert again.protocol_hash == record.protocol_hash


def test_a_trial_with_another_radius_shares_the_clean_adapter(project: Path, first: tuple[Path, TrialRecord]) -> None:
    root, record = first
    other = run_trial(assigned(project, root, "adversarial.0.radius=0.2", number=1))
    assert [(a.view, a.cached) for a in other.adapters] == [("clean", True), ("adversarial.0", False)]
    assert other.adapters[0].cache_key == record.adapters[0].cache_key
    assert other.points[0].model_digest == record.points[0].model_digest  # weight 0 is the clean adapter
    assert other.points[1].model_digest != record.points[1].model_digest


def test_radius_zero_trains_the_very_same_adapter_as_plain_training(project: Path, tmp_path: Path) -> None:
    same = "{kind: pgd, radius: 0, n_steps: 1, n_epochs: 8, learning_rate: 2.0e-2, batch_size: 8}"
    record = run_trial(assigned(project, tmp_path, f"adversarial=[{same}]"))
    assert len({p.model_digest for p in record.points}) == 1


def test_an_attack_that_was_cut_off_goes_on_where_it_was(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[tuple[Path, str]] = []
    append = OutcomeLog.append

    def cut_off(self: OutcomeLog, outcome: AttackOutcome) -> None:
        if len(appended) == 3:
            raise KeyboardInterrupt
        append(self, outcome)
        appended.append((self.path, outcome.example_id))

    monkeypatch.setattr(OutcomeLog, "append", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_trial(assigned(project, tmp_path))
    after: list[tuple[Path, str]] = []

    def counted(self: OutcomeLog, outcome: AttackOutcome) -> None:
        append(self, outcome)
        after.append((self.path, outcome.example_id))

    monkeypatch.setattr(OutcomeLog, "append", counted)
    record = run_trial(assigned(project, tmp_path))
    assert record.n_trained == 0
    assert len(appended) == 3
    attacked = appended + after
    assert len(set(attacked)) == len(attacked), "nothing is attacked twice"
    suite = {path for path, _ in attacked if len({key for other, key in attacked if other == path}) == 8}
    assert len(suite) >= 3  # one log for each point; flags may have attacked some examples in other ways, too


def test_what_goes_wrong_is_recorded_with_its_stage_and_raised(project: Path, tmp_path: Path) -> None:
    broken = assigned(project, tmp_path, "train.learning_rate=1.0", "train.max_grad_norm=1.0e9", "model.max_tokens=32")
    spec = broken.recipe.model_copy(update={"adapter": broken.recipe.adapter.model_copy(update={"targets": ["key"]})})
    model = spec.model.model_copy(update={"base": str(tmp_path / "gone")})
    gone = broken.model_copy(update={"recipe": spec.model_copy(update={"model": model})})
    with pytest.raises(Exception, match="gone"):
        run_trial(gone)
    path = gone.trial_dir / "record.json"
    record = TrialRecord.model_validate_json(path.read_text())
    assert record.status == "failed"
    assert "in stage: model" in str(record.error)
    assert record.points == []
    handed_back = json.loads(work(gone.model_dump_json()))
    assert handed_back["status"] == "failed"
