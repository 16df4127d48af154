"""One real trial with two known attacks and every way to mix: what is trained, attacked, replayed and recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_process import ASK
from pydantic import TypeAdapter

from robusweep import data, defended
from robusweep import model as model_stage
from robusweep.assignment import PointPlan, single_assignment
from robusweep.errors import StageError, UsageError
from robusweep.evaluate import attack_model, question_of
from robusweep.export import export
from robusweep.mixing import AnyMixer
from robusweep.predict import load_classifier
from robusweep.recipe import load_recipe
from robusweep.record import PointRecord, TrialRecord, read_outcomes, write_json
from robusweep.shipped import Shipped
from robusweep.shipping import read_system
from robusweep.tracking.store import opened
from robusweep.trial import run_trial

OPTIMISER = "n_epochs: 6, learning_rate: 2.0e-2, batch_size: 8"
RECIPE = f"""\
# Two known attacks.
version: 1
name: mixed
data:
  {{kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}}
model: {{base: ./model, max_tokens: 32}}
adapter: {{kind: lora, rank: 2}}
train: {{kind: standard, {OPTIMISER}}}
adversarial:
  - {{kind: augment, source: attack, attack: deepwordbug, only_changed: true, {OPTIMISER}}}
  - {{kind: pgd, radius: 0.1, n_steps: 1, {OPTIMISER}}}
mix: {{kind: adpmixup}}
attacks: {{known: [deepwordbug], held_out: [pruthi], n_examples: 8, static: true}}
resources: {{precision: fp32}}
"""
WEIGHTINGS = ("entropy_ratio", "entropy_minmax", "entropy_softmax", "emea")
MIXES = {
    "clean": {"weight": 0.0},
    "half": {"weight": 0.5},
    **{rule: {"weighting": rule} for rule in WEIGHTINGS},
    "without": {"weighting": "entropy_ratio", "leave_out": 0},
    "chosen": {"weighting": "grid_validation", "clean_share": 1.0},
    "factors": {"weighting": "entropy_ratio", "space": "factors"},
    "uniform": {"kind": "uniform"},
    "logits": {"kind": "logits"},
    "ties": {"kind": "ties"},
    "dare": {"kind": "dare"},
}


@pytest.fixture(scope="module")
def trial(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialRecord]:
    """(the trial's folder, its record)."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(folder / "recipe.yaml").recipe
    mixers = {name: TypeAdapter(AnyMixer).validate_python({"kind": "adpmixup"} | keys) for name, keys in MIXES.items()}
    points = [PointPlan(id=name, params={"mix": name}, mix=mixer) for name, mixer in mixers.items()]
    assignment = single_assignment(recipe, name="mixed", root=folder, stand_ins=[])
    record = run_trial(assignment.model_copy(update={"points": points}))
    space = {"mix": {"grid": {name: {"kind": "adpmixup"} | keys for name, keys in MIXES.items()}, "after": "training"}}
    write_json(assignment.trial_dir.parents[1] / "sweep.json", {"space": space})
    return assignment.trial_dir, record


def points(record: TrialRecord) -> dict[str, PointRecord]:
    return {point.id: point for point in record.points}


def test_every_rule_is_scored_on_one_set_of_trained_adapters(trial: tuple[Path, TrialRecord]) -> None:
    folder, record = trial
    assert record.status == "complete"
    assert record.n_trained == 3 == len(list((folder.parents[3] / "cache/train").glob("*/manifest.json")))
    assert record.adapters[1].reference_seconds == 0.0, "the texts come from the clean adapter itself"
    assert points(record).keys() == MIXES.keys()
    digests = {name: point.model_digest for name, point in points(record).items() if name != "chosen"}
    assert len(set(digests.values())) == len(MIXES) - 1


def test_weights_that_depend_on_the_text_are_told_and_left_for_every_text(trial: tuple[Path, TrialRecord]) -> None:
    folder, record = trial
    for name, point in points(record).items():
        assert point.per_text is (name in WEIGHTINGS or name in ("without", "factors"))
        path = folder / f"attacks/{name}.weights.jsonl"
        assert path.is_file() is bool(point.profiles) is point.per_text
        if not point.per_text:
            continue
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for source, profile in point.profiles.items():
            mine = [line["weights"] for line in lines if line["of"] == source]
            assert len(mine) == profile.n == sum(profile.adversarial) == sum(profile.largest)
            assert all(min(row) >= 0 and abs(sum(row) - 1) < 1e-6 for row in mine)
            assert sum(profile.mean) == pytest.approx(1.0, abs=1e-6)
        assert point.profiles["clean"].n == 12
    assert points(record)["without"].profiles["clean"].names == ["clean", "adversarial.1"]


def test_the_adaptive_attack_only_takes_away(trial: tuple[Path, TrialRecord]) -> None:
    folder, record = trial
    for name, point in points(record).items():
        scores = point.attacks | point.held_out
        assert point.unaided.keys() == (scores.keys() if point.per_text else set())
        for kind, alone in point.unaided.items():
            assert scores[kind].accuracy_under_attack.value <= alone.value
            replayed = [o for o in read_outcomes(folder / f"attacks/{name}.{kind}.jsonl") if o.replayed]
            assert alone.value - scores[kind].accuracy_under_attack.value == pytest.approx(len(replayed) / alone.n)


def test_static_texts_are_those_that_broke_the_clean_adapter_and_stay_apart(trial: tuple[Path, TrialRecord]) -> None:
    folder, record = trial
    for kind in ("deepwordbug", "pruthi"):
        broken = [o for o in read_outcomes(folder / f"attacks/clean.{kind}.jsonl") if o.status == "broken"]
        for point in record.points:
            rate = point.static.get(kind)
            assert (rate.n if rate else 0) == len(broken)
        assert not broken or points(record)["clean"].static[kind].value == 0.0


def test_the_weight_that_validation_chose_is_recorded(trial: tuple[Path, TrialRecord]) -> None:
    chosen = points(trial[1])["chosen"]
    assert chosen.chosen_weight is not None
    assert chosen.chosen_weight == 0.0, "clean accuracy alone counts, and the clean adapter makes no mistake here"
    assert chosen.model_digest == points(trial[1])["clean"].model_digest
    assert all(point.chosen_weight is None for name, point in points(trial[1]).items() if name != "chosen")


# ------------------------------------------------------------------------------------------------------- shipped
TEXTS = ["the film was truly splendid", "dreadful", "the plot was dreadful and the music was splendid " * 6, ""]
SYSTEMS = ["entropy_ratio", "entropy_minmax", "emea", "factors", "without", "logits"]


def answers(*folders: Path) -> list[list[Any]]:
    """[logits, weights, labels, probabilities] of each folder, from a fresh process that can't import robusweep."""
    asked = [sys.executable, "-c", ASK, json.dumps(TEXTS), *map(str, folders)]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: list[list[Any]] = json.loads(ended.stdout)
    assert len(found) == len(folders)
    return found


@dataclass(frozen=True)
class Exported:
    """A folder, what is said of it, and what a fresh process answers that can't import robusweep."""

    folder: Path
    shipped: Shipped
    answer: list[Any]


@pytest.fixture(scope="module")
def exported(trial: tuple[Path, TrialRecord], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Every system as a folder; not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    shipped = {name: export(trial[0].parents[3], "mixed", name, out=folder / name) for name in SYSTEMS}
    found = answers(*(folder / name for name in SYSTEMS))
    return {name: Exported(folder / name, shipped[name], answer) for name, answer in zip(SYSTEMS, found, strict=True)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_of_several_adapters_leaves_with_code_of_its_own_and_answers_the_same(
    trial: tuple[Path, TrialRecord], exported: dict[str, Exported], name: str
) -> None:
    found = exported[name]
    assert found.shipped.largest_difference <= 1e-5
    card = (found.folder / "README.md").read_text()
    assert "from robusweep_model import load" in card
    assert "folded into the weights" not in card
    assert ("without texts that break single adapters" in card) is (name != "logits")
    logits, weights, labels, probabilities = found.answer
    base, system = read_system(found.folder, device="cpu")
    _, victim = defended.victims(system, base, "as exported", bf16=False)
    np.testing.assert_allclose(victim(TEXTS), logits, atol=1e-5)
    assert labels == [("bad", "good")[i] for i in np.argmax(logits, axis=1)]
    tempered = np.array(logits) / points(trial[1])[name].temperature
    np.testing.assert_allclose(np.exp(tempered) / np.exp(tempered).sum(1, keepdims=True), probabilities, atol=1e-5)
    mine = victim.weights(TEXTS)
    assert (weights is None) is (mine is None) is (name == "logits")
    if mine is not None:
        np.testing.assert_allclose(mine, weights, atol=1e-5)


def test_predict_and_attack_take_an_exported_system(exported: dict[str, Exported], tmp_path: Path) -> None:
    folder = exported["entropy_ratio"].folder
    classifier = load_classifier(str(folder), device="cpu", precision="fp32")
    assert classifier.member_names == ("clean", "adversarial.0", "adversarial.1")
    (found,) = classifier(TEXTS)
    assert all(p.weights is not None and abs(sum(p.weights) - 1) < 1e-6 for p in found)
    base, system = read_system(folder, device="cpu")
    _, victim = defended.victims(system, base, "as exported", bf16=False)
    assert [p.label for p in found] == [("bad", "good")[i] for i in victim(TEXTS).argmax(axis=1)]

    (tmp_path / "some.csv").write_text("text,label\nthe film was truly splendid,good\nthe plot was dreadful,bad\n")
    asked = {"root": tmp_path, "device": "cpu", "precision": "fp32", "calibrate": False}
    heard: list[str] = []
    question = question_of(str(folder), tmp_path / "some.csv", ["deepwordbug"], "standard_v1", [], **asked)
    answer = attack_model(question, say=heard.append)
    assert answer.clean_accuracy.n == 2
    assert len(answer.outcomes["deepwordbug"]) == 2
    assert answer.unaided.keys() == {"deepwordbug"}
    assert any("single adapters or their even mean are tried, too" in text for text in heard)


def test_mlflow_takes_an_exported_system_with_its_weights_and_onnx_does_not(
    trial: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    root, texts = trial[0].parents[3], ["the film was truly splendid", "dreadful"]
    export(root, "mixed", "entropy_ratio", out=tmp_path / "mlflow", form="mlflow")
    (inner,) = (path.parent for path in (tmp_path / "mlflow").rglob("robusweep.json"))
    (right,) = load_classifier(str(inner), precision="fp32")(texts)
    with opened(f"sqlite:///{tmp_path / 'mlflow.db'}"):
        from mlflow import pyfunc

        table = pyfunc.load_model(str(tmp_path / "mlflow")).predict([{"text": text} for text in texts])
    assert list(table["label"]) == [p.label for p in right]
    for name, attribute in (("probability_good", "probabilities"), ("weight_clean", "weights")):
        place = 1 if name == "probability_good" else 0
        assert np.abs(table[name] - [getattr(p, attribute)[place] for p in right]).max() < 1e-5
    with pytest.raises(UsageError, match="one plain network"):
        export(root, "mixed", "entropy_ratio", out=tmp_path / "onnx", form="onnx")
    assert not (tmp_path / "onnx").exists()


def test_adapters_that_do_not_fold_leave_with_their_modules(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    folders: list[Path] = []
    for adapter in ("{kind: pfeiffer, reduction: 4}", "{kind: prefix, length: 3}", "{kind: prompt}"):
        overrides = [f"adapter={adapter}", f"adversarial=[{{kind: pgd, radius: 0.1, n_steps: 1, {OPTIMISER}}}]"]
        recipe = load_recipe(tmp_path / "recipe.yaml", overrides).recipe
        assert recipe.mix is not None
        points = [
            PointPlan(id=rule, params={"mix.weighting": rule}, mix=recipe.mix.model_copy(update={"weighting": rule}))
            for rule in ("fixed", "entropy_ratio")
        ]
        assignment = single_assignment(recipe, name=recipe.adapter.kind, root=tmp_path, stand_ins=[])
        record = run_trial(assignment.model_copy(update={"points": points}))
        for point in record.points:
            folders.append(tmp_path / f"{recipe.adapter.kind} {point.id}")
            shipped = export(tmp_path, recipe.adapter.kind, point.id, out=folders[-1])
            assert shipped.largest_difference <= 1e-5
            assert not (folders[-1] / "config.json").exists(), "no plain model can answer like this"
    assert len(folders) == 6
    for folder, (logits, *_) in zip(folders, answers(*folders), strict=True):
        base, system = read_system(folder, device="cpu")
        _, victim = defended.victims(system, base, "as exported", bf16=False)
        np.testing.assert_allclose(victim(TEXTS), logits, atol=1e-5)


@pytest.mark.parametrize(("layers", "shared"), [("1", True), ("null", False)])
def test_weights_of_adapters_in_the_top_layer_share_what_is_below(
    tiny: Path, tmp_path: Path, layers: str, shared: bool
) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    method = f"adversarial=[{{kind: pgd, radius: 0.1, n_steps: 1, {OPTIMISER}}}]"
    overrides = [f"adapter={{kind: lora, rank: 2, layers: {layers}}}", method]
    recipe = load_recipe(tmp_path / "recipe.yaml", overrides).recipe
    assert recipe.mix is not None
    points = [
        PointPlan(id=f"t000.{i:02d}", params={"mix.weight": w}, mix=recipe.mix.model_copy(update={"weight": w}))
        for i, w in enumerate((0.0, 0.5, 1.0))
    ]
    assignment = single_assignment(recipe, name="top", root=tmp_path, stand_ins=[])
    record = run_trial(assignment.model_copy(update={"points": points}))
    assert ("clean of all weights" in record.seconds) is shared
    validation = data.load(recipe.data, recipe.seed).validation
    for point in record.points:
        export(tmp_path, "top", point.id, out=tmp_path / point.id)
        plain = model_stage.victim(
            model_stage.load_classifier(str(tmp_path / point.id), device="cpu"), {}, precision="fp32"
        )
        predicted = plain([example.text for example in validation]).argmax(axis=1)
        right = sum(int(p) == e.label for p, e in zip(predicted, validation, strict=True))
        assert point.clean_accuracy.value == right / len(validation)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_model_that_cannot_be_mixed_for_each_text_is_refused_before_anything_is_trained(
    tiny: Path, tmp_path: Path
) -> None:
    """DeBERTa's attention counts distances of tokens in maps that all texts share."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model/model.safetensors").unlink()
    DebertaV2ForSequenceClassification(
        DebertaV2Config(
            vocab_size=16,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            max_position_embeddings=64,
        )
    ).save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml", ["mix.weighting=entropy_ratio", "adapter={kind: full}"]).recipe
    with pytest.raises(StageError, match=r"mix: .*can't be mixed for each text"):
        run_trial(single_assignment(recipe, name="mixed", root=tmp_path, stand_ins=[]))
    assert not (tmp_path / "cache/train").exists()
