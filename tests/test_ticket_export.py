"""``robusweep export`` of points on a ticket: a smaller folder that answers as the scored point did, or an error."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_process import ASK
from pydantic import TypeAdapter

from robusweep import defended
from robusweep import model as model_stage
from robusweep.assignment import PointPlan, single_assignment
from robusweep.errors import MissingError, StageError, UsageError
from robusweep.evaluate import attack_model, question_of
from robusweep.export import export
from robusweep.mixing import AnyMixer, TrainedSet
from robusweep.predict import load_classifier
from robusweep.recipe import Recipe, load_recipe
from robusweep.record import TrialRecord, read_trial, write_json
from robusweep.seeds import derive
from robusweep.shipped import Shipped
from robusweep.shipping import code_in
from robusweep.tickets.masks import Masks
from robusweep.tickets.removal import removed
from robusweep.tracking import save_model
from robusweep.tracking.store import opened
from robusweep.trial import run_trial

RECIPE = """\
# A point on a ticket.
version: 1
name: ticket
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
ticket: {kind: random, head_density: 0.625, neuron_density: 0.4, min_neurons: 4}
adapter: {kind: lora, rank: 2}
train: {kind: standard, n_epochs: 8, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 4}
resources: {precision: fp32, device: cpu}
"""
MIXES: dict[str, dict[str, Any]] = {
    "half": {"kind": "adpmixup", "weight": 0.5},
    "by_text": {"kind": "adpmixup", "weighting": "entropy_ratio"},
    "logits": {"kind": "logits"},
    "emulated": {"kind": "emulated", "large": "./large"},
}
TEXTS = ["the film was truly splendid", "dreadful", "the plot was dreadful and the music was truly splendid " * 6, ""]
POINTS = [*MIXES, "pfeiffer"]


@dataclass(frozen=True)
class Exported:
    """A folder, what is said of it, and what a fresh process answers that can't import robusweep."""

    folder: Path
    shipped: Shipped
    logits: np.ndarray[Any, Any]
    weights: list[list[float]] | None
    labels: list[str]
    probabilities: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def project(tiny: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials on tickets: ``lora`` with a point for each of ``MIXES``, and ``pfeiffer``, which does not fold."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    shutil.copytree(classifier, root / "large")
    (root / "recipe.yaml").write_text(RECIPE)
    mixes = MIXES | {"emulated": {"kind": "emulated", "large": str(root / "large")}}
    ran(root, "lora", mixes)
    ran(root, "pfeiffer", {"half": mixes["half"]}, "adapter={kind: pfeiffer, reduction: 4}")
    return root


def ran(root: Path, name: str, mixes: dict[str, dict[str, Any]], *overrides: str) -> TrialRecord:
    recipe = load_recipe(root / "recipe.yaml", list(overrides)).recipe
    mixers = {key: TypeAdapter(AnyMixer).validate_python(block) for key, block in mixes.items()}
    points = [PointPlan(id=key, params={"mix": key}, mix=mixer) for key, mixer in mixers.items()]
    assignment = single_assignment(recipe, name=name, root=root, stand_ins=[])
    record = run_trial(assignment.model_copy(update={"points": points}))
    write_json(root / "runs" / name / "sweep.json", {"space": {"mix": {"grid": mixes, "after": "training"}}})
    return record


def scored_logits(root: Path, point: str, *, run: str = "lora") -> np.ndarray[Any, Any]:
    """What the point's victim answered in the trial, made as the trial made it."""
    from safetensors.torch import load_file

    run, point = ("pfeiffer", "half") if point == "pfeiffer" else (run, point)
    trial = root / "runs" / run / "trials/t000"
    record = read_trial(trial / "record.json")
    recipe = Recipe.model_validate_json(json.dumps(record.recipe))
    whole = model_stage.load(recipe.model, ["bad", "good"], seed=derive(recipe.seed, "head"), device="cpu")
    network: Any = removed(whole.network, Masks.read(trial / "ticket/masks.json"))
    whole.network = recipe.adapter.host(network)
    frozen = dict(whole.network.named_parameters())
    trained = [load_file(trial / f"adapters/{view.view}.safetensors") for view in record.adapters]
    adapters = TrainedSet(
        [view.view for view in record.adapters],
        frozen,
        [recipe.adapter.fold(frozen, tensors) for tensors in trained],
        [recipe.adapter.member(frozen, tensors) for tensors in trained],
        [(view.entropy_range[0], view.entropy_range[1]) for view in record.adapters],
    )
    blocks = json.loads((root / "runs" / run / "sweep.json").read_text())["space"]["mix"]["grid"]
    mixer: Any = TypeAdapter(AnyMixer).validate_python(blocks[point])
    _, victim = defended.victims(mixer.mix(adapters), whole, "as scored", bf16=False)
    return victim(TEXTS)


def answers(*folders: Path) -> list[list[Any]]:
    """[logits, weights, labels, probabilities] of each folder, from a fresh process that can't import robusweep."""
    ended = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(TEXTS), *map(str, folders)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: list[list[Any]] = json.loads(ended.stdout)
    return found


@pytest.fixture(scope="module")
def exported(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Every point as a folder; not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    shipped = {point: export(project, "lora", point, out=folder / point) for point in MIXES}
    shipped["pfeiffer"] = export(project, "pfeiffer", "half", out=folder / "pfeiffer")
    found = answers(*(folder / point for point in shipped))
    return {
        point: Exported(folder / point, about, np.array(logits), weights, labels, np.array(probabilities))
        for (point, about), (logits, weights, labels, probabilities) in zip(shipped.items(), found, strict=True)
    }


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def n_weights(path: Path) -> int:
    """Numbers of four bytes in a file of safetensors: all behind its header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    return (path.stat().st_size - 8 - header) // 4


# ------------------------------------------------------------------------------------------------------- answers
@pytest.mark.parametrize("point", POINTS)
def test_the_folder_answers_without_robusweep_as_the_scored_point_did(
    project: Path, exported: dict[str, Exported], point: str
) -> None:
    found = exported[point]
    expected = scored_logits(project, point)
    n_passes = 3 if point == "emulated" else 1  # whose rounding adds up
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=n_passes * 2e-6 * np.abs(expected).max())
    assert found.shipped.largest_difference <= 1e-5
    assert (found.weights is not None) is (point == "by_text")
    assert found.labels == [("bad", "good")[i] for i in found.logits.argmax(axis=1)]
    np.testing.assert_allclose(found.probabilities, softmax(found.logits / found.shipped.temperature), atol=1e-5)


def test_the_points_answer_differently(exported: dict[str, Exported]) -> None:
    logits = [exported[point].logits for point in POINTS]
    assert min(np.abs(a - b).max() for k, a in enumerate(logits) for b in logits[:k]) > 1e-3


def test_fixed_weights_are_one_file_that_lacks_what_was_removed(project: Path, exported: dict[str, Exported]) -> None:
    folder, ticket = exported["half"].folder, exported["half"].shipped.ticket
    assert ticket is not None
    (weights,) = folder.rglob("*.safetensors")
    whole = project / "model/model.safetensors"
    assert n_weights(whole) - n_weights(weights) == ticket.n_removed > 8000
    saved = whole.stat().st_size - weights.stat().st_size
    assert abs(saved - 4 * ticket.n_removed) < 200, "headers differ by some digits"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}
    assert {"base/config.json", "base/ticket.json", "robusweep_model/units.py", "system.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt"))]
    assert json.loads((folder / "base/config.json").read_text())["num_attention_heads"] == 4


@pytest.mark.parametrize(
    ("point", "members"),
    [("half", []), ("by_text", ["adversarial.0", "clean"]), ("logits", ["adversarial.0", "clean"]),
     ("emulated", ["adversarial.0", "clean"]), ("pfeiffer", ["mixed"])],
)  # fmt: skip
def test_every_base_lacks_what_was_removed_and_has_the_adapters_that_it_needs_beside_it(
    project: Path, exported: dict[str, Exported], point: str, members: list[str]
) -> None:
    folder, shipped = exported[point].folder, exported[point].shipped
    assert shipped.ticket is not None
    whole, base = project / "model/model.safetensors", folder / "base/model.safetensors"
    assert n_weights(whole) - n_weights(base) == shipped.ticket.n_removed
    assert sorted(path.stem for path in folder.glob("members/*")) == members
    assert shipped.form == ("system" if members else "merged")


def test_plain_transformers_refuse_the_base_and_do_not_answer_otherwise(exported: dict[str, Exported]) -> None:
    from transformers import AutoModelForSequenceClassification

    with pytest.raises(RuntimeError, match="size mismatch"):
        AutoModelForSequenceClassification.from_pretrained(exported["half"].folder / "base")


# ---------------------------------------------------------------------------------------------------- what is said
def test_the_folder_and_its_card_say_what_the_ticket_is(project: Path, exported: dict[str, Exported]) -> None:
    folder, shipped = exported["half"].folder, exported["half"].shipped
    record = read_trial(project / "runs/lora/trials/t000/record.json")
    assert shipped.ticket == record.ticket is not None
    assert Shipped.model_validate_json((folder / "robusweep.json").read_text()) == shipped
    card = (folder / "README.md").read_text()
    assert (
        "| ticket | random: 62.5 % of the heads and 39.8 % of the feed-forward neurons of the base model are kept; "
        f"{shipped.ticket.n_removed:,} parameters are removed |"
    ) in card
    assert "one network, whose layers differ in size" in card
    assert "from robusweep_model import load" in card
    assert "AutoModelForSequenceClassification" not in card
    assert "| ticket | random: 62.5 % " in (exported["by_text"].folder / "README.md").read_text()


def test_files_of_earlier_versions_have_no_ticket_and_are_read(exported: dict[str, Exported]) -> None:
    said = exported["by_text"].shipped.model_dump(mode="json")
    assert said.pop("ticket") is not None
    assert Shipped.model_validate_json(json.dumps(said)).ticket is None
    about = json.loads((exported["by_text"].folder / "system.json").read_text())
    assert about.pop("ticket") is True


# ------------------------------------------------------------------------------------------------- other commands
@pytest.mark.parametrize("point", POINTS)
def test_predict_takes_the_folder(exported: dict[str, Exported], point: str) -> None:
    found = exported[point]
    (predicted,) = load_classifier(str(found.folder), device="cpu", precision="fp32")(TEXTS)
    assert [p.label for p in predicted] == found.labels
    np.testing.assert_allclose([p.probabilities for p in predicted], found.probabilities, atol=1e-5)


def test_attack_takes_the_folder(exported: dict[str, Exported], tmp_path: Path) -> None:
    data = tmp_path / "some.csv"
    data.write_text("text,label\nthe film was truly splendid,good\nthe plot was dreadful,bad\n")
    settings = {"root": tmp_path, "device": "cpu", "precision": "fp32", "calibrate": False}
    model = str(exported["half"].folder)
    answer = attack_model(question_of(model, data, ["deepwordbug"], "standard_v1", [], **settings))
    assert len(answer.outcomes["deepwordbug"]) == answer.clean_accuracy.n == 2


def test_a_base_that_has_lost_units_may_be_the_large_model_of_others(
    project: Path, exported: dict[str, Exported], tmp_path: Path
) -> None:
    large = str(exported["half"].folder / "base")
    ran(project, "on_ticket", {"emulated": {"kind": "emulated", "large": large}})
    export(project, "on_ticket", "emulated", out=tmp_path / "model")
    (predicted,) = load_classifier(str(tmp_path / "model"), device="cpu", precision="fp32", temperature=False)(TEXTS)
    right = softmax(scored_logits(project, "emulated", run="on_ticket"))
    np.testing.assert_allclose([p.probabilities for p in predicted], right, atol=1e-5)


def test_the_name_in_caches_of_a_base_takes_its_masks_in(exported: dict[str, Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported["half"].folder / "base", tmp_path / "base"))
    before = model_stage.identity(model_stage.BaseEncoder(base=str(folder)))
    masks = Masks.read(folder / "ticket.json")
    Masks(swapped(masks.heads), masks.neurons).write(folder / "ticket.json")
    assert model_stage.identity(model_stage.BaseEncoder(base=str(folder))) != before


def test_mlflow_takes_the_folder_and_registers_it(project: Path, exported: dict[str, Exported], tmp_path: Path) -> None:
    heard: list[str] = []
    export(project, "lora", "half", out=tmp_path / "mlflow", form="mlflow", register="small", say=heard.append)
    assert heard[-1] == "registered as models:/small/1, with a copy of the files"
    save_model(tmp_path / "weighted", exported["by_text"].folder, TEXTS[:2])  # as robusweep serve does
    with opened(f"sqlite:///{tmp_path / 'mlflow.db'}"):
        from mlflow import pyfunc

        rows = [{"text": text} for text in TEXTS]
        table = pyfunc.load_model(str(tmp_path / "mlflow")).predict(rows)
        weighted = pyfunc.load_model(str(tmp_path / "weighted")).predict(rows)
    assert list(table["label"]) == exported["half"].labels
    np.testing.assert_allclose(table["probability_good"], exported["half"].probabilities[:, 1], atol=1e-6)
    np.testing.assert_allclose(weighted["probability_good"], exported["by_text"].probabilities[:, 1], atol=1e-6)
    assert exported["by_text"].weights is not None
    np.testing.assert_allclose(weighted["weight_clean"], [row[0] for row in exported["by_text"].weights], atol=1e-6)


@pytest.mark.slow  # test_export runs such a network, test_shipped_ticket looks at its shapes
def test_a_network_for_onnx_has_the_smaller_shapes_and_answers_as_the_scored_point(
    project: Path, tmp_path: Path
) -> None:
    """Run as the model card says, without torch."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    import onnx

    out = tmp_path / "onnx"
    shipped = export(project, "lora", "half", out=out, form="onnx")
    assert (shipped.form, shipped.largest_difference <= 1e-5) == ("plain", True)
    assert not list(out.rglob("*.safetensors"))
    masks = Masks.read(project / "runs/lora/trials/t000/ticket/masks.json")
    shapes = {tuple(sorted(tensor.dims)) for tensor in onnx.load(out / "model.onnx").graph.initializer}
    widths = [*(8 * masks.heads.sum(axis=1)), *masks.neurons.sum(axis=1)]
    assert {tuple(sorted((32, int(width)))) for width in widths} <= shapes
    assert (32, 64) not in shapes, "no whole feed-forward map is left"
    card = (out / "README.md").read_text()
    assert "one network for ONNX Runtime" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = "import json, sys\nsys.modules['torch'] = None\n" + code.replace("FOLDER", str(out))
    code = code.replace('["a text"]', "json.loads(sys.argv[1])") + "print(json.dumps(logits.tolist()))\n"
    ended = subprocess.run([sys.executable, "-c", code, json.dumps(TEXTS)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_allclose(json.loads(ended.stdout), scored_logits(project, "half"), atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="one plain network"):
        export(project, "lora", "by_text", out=tmp_path / "by_text", form="onnx")


# -------------------------------------------------------------------------------------------------------- refused
@pytest.fixture
def trial(project: Path, tmp_path: Path) -> Path:
    """The trial's folder in a copy of the run, to be spoilt."""
    return Path(shutil.copytree(project / "runs/lora", tmp_path / "runs/lora")) / "trials/t000"


def swapped(flags: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same number of units of the first layer, another one among them."""
    found = flags.copy()
    found[0, [np.flatnonzero(flags[0])[0], np.flatnonzero(~flags[0])[0]]] = [False, True]
    return found


def test_masks_that_are_gone_or_torn_are_missing_and_the_error_says_what_to_do(trial: Path, tmp_path: Path) -> None:
    path = trial / "ticket/masks.json"
    path.write_text('{"heads": ["01')
    with pytest.raises(MissingError, match=r"masks\.json can't be read"):
        export(tmp_path, "lora", "half", out=tmp_path / "model")
    path.unlink()
    with pytest.raises(MissingError, match=r"masks\.json can't be read.*No such file") as raised:
        export(tmp_path, "lora", "half", out=tmp_path / "model")
    assert f"remove {trial} and give the run's command again" in str(raised.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_other_masks_are_refused_by_the_digest_or_by_the_shapes_of_the_adapters(trial: Path, tmp_path: Path) -> None:
    masks, path = Masks.read(trial / "ticket/masks.json"), trial / "ticket/masks.json"
    for wrong in (Masks(swapped(masks.heads), masks.neurons), Masks(masks.heads, swapped(masks.neurons))):
        wrong.write(path)
        with pytest.raises(StageError, match="not those that were scored"):
            export(tmp_path, "lora", "half", out=tmp_path / "model")
    Masks(np.ones_like(masks.heads), masks.neurons).write(path)
    with pytest.raises(StageError, match="not of the base that is there"):
        export(tmp_path, "lora", "half", out=tmp_path / "model")
    Masks(masks.heads[:, :3] | True, masks.neurons).write(path)
    with pytest.raises(MissingError, match=r"not what the ticket was drawn for.*shape \(2, 3, 64\)"):
        export(tmp_path, "lora", "half", out=tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_folder_whose_masks_are_gone_or_others_is_not_loaded(exported: dict[str, Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported["half"].folder, tmp_path / "model"))
    path = folder / "base/ticket.json"
    masks = Masks.read(path)
    Masks(np.ones_like(masks.heads), masks.neurons).write(path)
    with pytest.raises(MissingError, match="do not belong together") as raised:
        load_classifier(str(folder), device="cpu")
    assert "robusweep export" in str(raised.value.hint)
    path.unlink()
    with pytest.raises(MissingError, match=r"ticket\.json is gone") as raised:
        load_classifier(str(folder), device="cpu")
    assert "robusweep export" in str(raised.value.hint)
    with pytest.raises(FileNotFoundError, match=r"ticket\.json"):
        code_in(folder).load(folder)
