"""``robusweep export``: the folder answers as the trained point did, says what it is, and is whole or not there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusweep import cli
from robusweep import model as model_stage
from robusweep.assignment import Assignment, PointPlan, single_assignment
from robusweep.errors import EmptyFrontError, MissingError, StageError, UsageError
from robusweep.export import _largest, export
from robusweep.front import Objective, Point, assess
from robusweep.mixing import Fixed, TrainedSet
from robusweep.pick import pick
from robusweep.recipe import Recipe, load_recipe
from robusweep.record import Flag, Stopped, TrialRecord, read_trial, write_json, write_text
from robusweep.report.sentences import percent
from robusweep.scores import Rate
from robusweep.seeds import derive
from robusweep.shipped import Shipped
from robusweep.trial import run_trial

RECIPE = """\
# A trial for tests.
version: 1
name: tiny
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 32, n_validation: 12, n_calibration: 8, n_test: 8}
model: {base: ./model, max_tokens: 32}
adapter: {kind: lora, rank: 2, alpha: 7}
train: {kind: standard, n_epochs: 4, learning_rate: 2.0e-2, batch_size: 8}
adversarial: [{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], held_out: [pruthi], n_examples: 6}
resources: {precision: fp32}
"""
ADAPTERS = {
    "lora": "{kind: lora, rank: 2, alpha: 7}",
    "oft": "{kind: oft, block_size: 8}",
    "full": "{kind: full}",
}
WEIGHTS = (0.0, 0.5, 1.0)
OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
TEXTS = ["the film was truly splendid", "dreadful", "the plot was dreadful and the music was truly splendid " * 6, ""]
PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

texts, found = json.loads(sys.argv[1]), []
for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits
    found.append({"logits": logits.tolist(), "names": model.config.id2label, "ids": model.config.label2id})
assert not [name for name in sys.modules if name.startswith("robusweep")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT, its texts and a recipe; one run for each adapter kind, as a sweep leaves it."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    (root / "recipe.yaml").write_text(RECIPE)
    for name, adapter in ADAPTERS.items():
        record = run_trial(assigned(root, name, f"adapter={adapter}"))
        write_front(root / "runs" / name, [record])
    return root


def assigned(root: Path, name: str, *overrides: str) -> Assignment:
    recipe = load_recipe(root / "recipe.yaml", list(overrides)).recipe
    assert recipe.mix is not None
    points = [
        PointPlan(id=f"t000.{i:02d}", params={"mix.weight": w}, mix=recipe.mix.model_copy(update={"weight": w}))
        for i, w in enumerate(WEIGHTS)
    ]
    one = single_assignment(recipe, name=name, root=root, stand_ins=[])
    return one.model_copy(update={"points": points})


def write_front(run_dir: Path, records: list[TrialRecord]) -> list[Point]:
    points = assess(records, OBJECTIVES)
    write_json(run_dir / "front.json", [point.model_dump(mode="json") for point in points])
    return points


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Path:
    """A copy of the LoRA run, to be spoilt."""
    return Path(shutil.copytree(project / "runs/lora", tmp_path / "runs/lora"))


def changed(run: Path, **update: Any) -> None:
    """The run with another record of its trial, and the front that follows."""
    path = run / "trials/t000/record.json"
    record = read_trial(path).model_copy(update=update)
    write_text(path, record.model_dump_json())
    write_front(run, [record])


def trained_logits(root: Path, name: str, i: int) -> np.ndarray[Any, Any]:
    """What the point's victim answered in the trial, made as the trial made it."""
    from safetensors.torch import load_file

    record = read_trial(root / f"runs/{name}/trials/t000/record.json")
    recipe = Recipe.model_validate_json(json.dumps(record.recipe))
    base = model_stage.load(recipe.model, ["bad", "good"], seed=derive(recipe.seed, "head"), device="cpu")
    frozen = dict(base.network.named_parameters())
    folder = root / f"runs/{name}/trials/t000/adapters"
    members = [
        recipe.adapter.fold(frozen, load_file(folder / f"{view}.safetensors")) for view in ("clean", "adversarial.0")
    ]
    assert recipe.mix is not None
    adapters = TrainedSet(["clean", "adversarial.0"], frozen, members, [], [(0.0, 1.0)] * 2)
    mixed = recipe.mix.model_copy(update={"weight": WEIGHTS[i]}).mix(adapters)
    assert isinstance(mixed, Fixed)
    return model_stage.victim(base, mixed.parameters, precision="fp32")(TEXTS)


EXPORTED = [("lora", 0), ("lora", 1), ("lora", 2), ("oft", 1), ("full", 1)]
Plain = dict[tuple[str, int], tuple[Shipped, dict[str, Any]]]


@pytest.fixture(scope="module")
def plain(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """What is said of each exported point, and what a fresh process answers that knows ``transformers`` only."""
    root = tmp_path_factory.mktemp("plain")
    folders = [root / f"{name} {i}" for name, i in EXPORTED]
    shipped = [export(project, name, f"t000.{i:02d}", out=folder)
               for (name, i), folder in zip(EXPORTED, folders, strict=True)]  # fmt: skip
    asked = [sys.executable, "-c", PLAIN, json.dumps(TEXTS), *map(str, folders)]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=root)
    assert ended.returncode == 0, ended.stderr
    return dict(zip(EXPORTED, zip(shipped, json.loads(ended.stdout), strict=True), strict=True))


@pytest.mark.parametrize(("name", "i"), EXPORTED)
def test_the_folder_answers_in_a_fresh_process_as_the_trained_point_did(
    project: Path, plain: Plain, name: str, i: int
) -> None:
    shipped, found = plain[name, i]
    assert np.abs(np.array(found["logits"]) - trained_logits(project, name, i)).max() <= 1e-5
    assert found["names"] == {"0": "bad", "1": "good"}
    assert found["ids"] == {"bad": 0, "good": 1}
    assert shipped.largest_difference <= 1e-5
    assert shipped.n_compared == 12
    assert shipped.mix is not None
    assert shipped.mix["weight"] == WEIGHTS[i]


def test_the_adapters_of_every_kind_and_weight_give_other_answers(project: Path) -> None:
    answers = [trained_logits(project, name, i) for name in ADAPTERS for i in range(3)]
    differences = [np.abs(a - b).max() for k, a in enumerate(answers) for b in answers[:k]]
    assert min(differences) > 1e-3


def test_the_folder_says_where_it_is_from_and_its_card_what_it_scored(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    shipped = export(project, "lora", "t000.01", out=out, command="robusweep export lora --pick t000.01")
    record = read_trial(project / "runs/lora/trials/t000/record.json")
    assert Shipped.model_validate_json((out / "robusweep.json").read_text()) == shipped
    assert shipped.scores == record.points[1]
    assert shipped.temperature == record.points[1].temperature is not None
    assert (shipped.protocol_hash, shipped.recipe_digest) == (record.protocol_hash, record.recipe_digest)
    card = (out / "README.md").read_text()
    scores = record.points[1]
    rates = [scores.clean_accuracy, scores.robust_accuracy]
    rates += [s.accuracy_under_attack for s in (*scores.attacks.values(), *scores.held_out.values())]
    assert len(rates) == 4
    assert [rate for rate in rates if f"| {percent(rate)} | {rate.n} |" not in card] == []
    said = ["(known)", "pruthi (held out)", record.protocol_hash, record.recipe_digest, "**not** divided", "bad, good"]
    said += ["robusweep export lora --pick t000.01", "torch ", "truncation=True"]
    assert [text for text in said if text not in card] == []
    assert [flag.name for flag in scores.flags if f"`{flag.name}`" not in card] == []


def test_nothing_is_left_but_the_folder_and_no_path_of_this_machine_is_in_the_configuration(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()  # empty: it may be taken
    export(project, "lora", out=tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pkl", ".pt"))]
    for name in ("config.json", "tokenizer_config.json"):
        assert str(project) not in (tmp_path / "model" / name).read_text()
    assert json.loads((tmp_path / "model/tokenizer_config.json").read_text())["model_max_length"] == 32


def test_flags_and_a_stop_by_a_race_are_told_and_stand_in_the_card(run: Path, tmp_path: Path) -> None:
    record = read_trial(run / "trials/t000/record.json")
    flag = Flag(name="saturated", detail="a | b, measured")
    stop = Stopped(by="t009.01", n_examples=6, p_value=0.0123, error=0.05)
    points = [p.model_copy(update={"flags": [flag], "stopped": stop}) for p in record.points[:1]]
    changed(run, points=[*points, *record.points[1:]])
    heard: list[str] = []
    export(tmp_path, "lora", "t000.00", out=tmp_path / "model", say=heard.append)
    card = (tmp_path / "model/README.md").read_text()
    assert "`saturated`: probabilities are so close" in card
    assert "(a | b, measured)" in card
    assert "stopped this point after 6 examples, because t009.01 was better (p = 0.0123)" in card
    assert sum("NOTICE" in line for line in heard) == 2


def test_a_trial_by_itself_is_exported_though_it_leaves_no_front(project: Path, run: Path, tmp_path: Path) -> None:
    (run / "front.json").unlink()
    assert export(tmp_path, "lora", out=tmp_path / "model").run == "lora"


def test_a_mixer_that_a_point_names_is_found_in_the_space_of_its_sweep(run: Path, tmp_path: Path) -> None:
    grid = {"half": {"kind": "adpmixup", "weight": 0.5}, "none": {"kind": "adpmixup", "weight": 0.0}}
    write_json(run / "sweep.json", {"space": {"mix": {"grid": grid, "after": "training", "when": {}}}})
    record = read_trial(run / "trials/t000/record.json")
    changed(run, points=[record.points[1].model_copy(update={"params": {"mix": "half"}})])
    shipped = export(tmp_path, "lora", "t000.01", out=tmp_path / "model")
    assert shipped.mix is not None
    assert shipped.mix.items() >= {"kind": "adpmixup", "weighting": "fixed", "weight": 0.5}.items()


def test_adapters_come_from_the_cache_when_the_trials_are_gone(project: Path, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "trials/t000/adapters")
    with pytest.raises(MissingError, match=r"adapter 'clean' is gone.*clean\.safetensors.*cache"):
        export(tmp_path, "lora", out=tmp_path / "model")
    shutil.copytree(project / "cache/train", tmp_path / "cache/train")
    export(tmp_path, "lora", out=tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").is_file()


def test_weights_that_are_not_those_that_were_scored_are_refused_and_leave_nothing(run: Path, tmp_path: Path) -> None:
    adapters = run / "trials/t000/adapters"
    shutil.copyfile(adapters / "adversarial.0.safetensors", adapters / "clean.safetensors")
    with pytest.raises(StageError, match="not those that were scored"):
        export(tmp_path, "lora", "t000.00", out=tmp_path / "model")
    (adapters / "clean.safetensors").write_bytes(b"torn")
    with pytest.raises(MissingError, match=r"clean\.safetensors can't be read"):
        export(tmp_path, "lora", "t000.00", out=tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("reach", "difference", "is_same"),
    [(0.5, 0.9e-5, True), (0.5, 2e-5, False), (4.0, 2e-5, True), (4.0, 5e-5, False), (4.0, float("nan"), False)],
)
def test_logits_may_differ_by_what_float32_rounds(reach: float, difference: float, is_same: bool) -> None:
    expected = np.array([[reach, -0.1], [0.2, 0.3]])
    found = expected + np.array([[0.0, difference], [0.0, 0.0]])
    if is_same:
        assert _largest(found, expected) == pytest.approx(difference, rel=1e-6)
    else:
        with pytest.raises(StageError, match="answers otherwise"):
            _largest(found, expected)


def test_a_folder_that_answers_otherwise_is_refused_and_leaves_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    save = transformers.BertForSequenceClassification.save_pretrained

    def spoilt(self: Any, folder: Path, **options: Any) -> None:
        bias = self.classifier.bias.data
        bias[0] += 2e-5
        save(self, folder, **options)
        bias[0] -= 2e-5

    monkeypatch.setattr(transformers.BertForSequenceClassification, "save_pretrained", spoilt)
    with pytest.raises(StageError, match="answers otherwise"):
        export(project, "lora", out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_trial_has_nothing_to_export(run: Path, tmp_path: Path) -> None:
    record = read_trial(run / "trials/t000/record.json")
    failed = record.model_copy(update={"number": 3, "status": "failed", "points": [], "error_kind": "StageError"})
    write_text(run / "trials/t003/record.json", failed.model_dump_json())
    for rule in ("t003", "t003.00"):
        with pytest.raises(UsageError, match="trial t003 failed"):
            export(tmp_path, "lora", rule, out=tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": "full"}, "exists and is not empty"),
        ({"out": "file"}, "exists and is no folder"),
        ({"out": "file/model"}, "can't be made"),
        ({"form": "onyx"}, "did you mean 'onnx'"),
        ({"form": "mlfow"}, "did you mean 'mlflow'"),
        ({"register": "name"}, "--format mlflow"),
        ({"rule": "t000.03"}, "did you mean 't000.0"),
        ({"rule": "kneee"}, "did you mean 'knee'"),
        ({"rule": "max_robust@clean>=90"}, "'90' is no fraction"),
        ({"run": "lroa"}, "did you mean 'lora'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    project: Path, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    write_text(tmp_path / "full/file", "mine")
    (tmp_path / "file").write_text("mine")
    asked: dict[str, Any] = {"run": "lora", **options}
    asked["out"] = tmp_path / asked.get("out", "model")
    with pytest.raises(UsageError, match=re.escape(said)):
        export(project, **asked)
    assert (tmp_path / "full/file").read_text() == "mine"
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------------------- picks
def point(name: str, clean: int, robust: int, *, knee: bool = False, stopped: bool = False) -> Point:
    return Point(
        id=name,
        trial=0,
        params={},
        clean_accuracy=Rate.of(clean, 100),
        robust_accuracy=Rate.of(robust, 100),
        attacks={},
        train_seconds=1.0,
        pareto=True,
        pareto_rank=1,
        knee=knee,
        stopped=Stopped(by="a", n_examples=5, p_value=0.01, error=0.05) if stopped else None,
        protocol_hash="p",
    )


POINTS = [point("a", 95, 20), point("b", 90, 50, knee=True), point("c", 90, 50), point("d", 80, 70),
          point("e", 99, 99, stopped=True)]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("knee", "b"),
        ("c", "c"),
        ("e", "e"),
        ("max_robust@clean>=0.9", "b"),
        ("max_robust@clean>=0.91", "a"),
        ("max_robust@clean>=0", "d"),
        ("max_clean@robust>=0.5", "b"),
        ("max_clean@robust>=.51", "d"),
    ],
)
def test_a_rule_picks_one_point(rule: str, chosen: str) -> None:
    assert pick(POINTS, rule).id == chosen


def test_a_rule_that_no_point_meets_is_an_empty_front() -> None:
    with pytest.raises(EmptyFrontError, match=r"no point has clean_accuracy >= 0\.99") as raised:
        pick(POINTS, "max_robust@clean>=0.99")
    assert raised.value.exit_code == 5
    assert "0.95" in str(raised.value.hint)


# ------------------------------------------------------------------------------------------------ command line
def test_the_command_exports_names_itself_in_the_card_and_refuses_a_full_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["robusweep", "export", "lora", "--pick", "max_robust@clean>=0", "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--root", str(project)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (0, f"{tmp_path / 'm'}\n"), said.err
    assert "export lora --pick 'max_robust@clean>=0' --out" in (tmp_path / "m/README.md").read_text()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow  # in test_ticket_export it is loaded where it was made
def test_a_model_of_mlflow_gives_the_same_labels_and_is_registered(
    project: Path, plain: Plain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Loaded by a process of its own, as ``mlflow models predict`` does, without robusweep; the folder has moved."""
    heard: list[str] = []
    export(project, "lora", "t000.01", out=tmp_path / "mlflow", form="mlflow", register="news", say=heard.append)
    assert "artifacts" not in capfd.readouterr().err  # no bars
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow"]
    assert not list((tmp_path / "mlflow").rglob("*.pkl"))
    assert heard[-1] == "registered as models:/news/1, with a copy of the files"
    assert list((project / "mlruns/robusweep.registered").rglob("MLmodel"))
    (tmp_path / "mlflow").rename(tmp_path / "moved")
    code = (
        "import json, sys, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri('sqlite:///{project / 'mlflow.db'}')\n"
        "table = mlflow.pyfunc.load_model('models:/news/1').predict(pd.DataFrame({'text': json.loads(sys.argv[1])}))\n"
        "assert not [name for name in sys.modules if name.startswith('robusweep')]\n"
        "print(table.to_json(orient='records'))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(TEXTS)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)
    (inner,) = (path.parent for path in (tmp_path / "moved").rglob("robusweep.json"))
    found = plain["lora", 1][1]
    logits = np.array(found["logits"]) / json.loads((inner / "robusweep.json").read_text())["temperature"]
    assert [row["label"] for row in rows] == [found["names"][str(i)] for i in logits.argmax(1)]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(shares[:, 1] - [row["probability_good"] for row in rows]).max() < 1e-5


# --------------------------------------------------------------------------------------------------------- onnx
def test_a_folder_for_onnx_answers_as_the_trained_point_did_for_any_number_and_length_of_texts(
    project: Path, tmp_path: Path
) -> None:
    """Run as the model card says, without torch."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "onnx"
    shipped = export(project, "lora", "t000.01", out=out, form="onnx")
    assert shipped.largest_difference <= 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    files = {path.name for path in out.iterdir()}
    assert {"model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json", "robusweep.json"} <= files
    assert not [name for name in files if name.endswith((".safetensors", ".bin", ".data"))]
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    code = code.replace("FOLDER", str(out)).replace('["a text"]', "texts")
    run = (
        "import json, sys\nsys.modules['torch'] = None\nfound = []\nfor texts in json.loads(sys.argv[1]):\n"
        + textwrap.indent(code + "\nfound.append(logits.tolist())\n", "    ")
        + "print(json.dumps(found))\n"
    )
    expected = trained_logits(project, "lora", 1)
    asked = [TEXTS, *([text] for text in TEXTS)]
    ended = subprocess.run([sys.executable, "-c", run, json.dumps(asked)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for i, found in enumerate(map(np.array, json.loads(ended.stdout))):
        assert np.abs(found - (expected if i == 0 else expected[i - 1 : i])).max() <= 1e-5


def test_a_folder_for_onnx_that_answers_otherwise_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robusweep import export as stage

    pytest.importorskip("onnxscript")
    monkeypatch.setattr(stage, "onnx_logits", lambda _folder, texts: np.zeros((len(texts), 2), dtype=np.float32))
    with pytest.raises(StageError, match="answers otherwise"):
        export(project, "lora", out=tmp_path / "onnx", form="onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_is_refused_with_the_command_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robusweep import onnx_folder

    monkeypatch.setattr(onnx_folder, "PACKAGES", ("no_such_package",))
    with pytest.raises(MissingError, match=r"needs no_such_package") as raised:
        export(tmp_path, "none", out=tmp_path / "onnx", form="onnx")
    assert "pip install" in str(raised.value.hint)
