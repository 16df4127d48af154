"""Whether exports answer as the trained points did: logits and labels, before and after, in a process of their own.

    python bench/parity.py                                 # ten minutes; results below cache/bench/parity
    python bench/parity.py --texts 50 --mlflow lora.half   # fewer texts, MLflow for one point only

A sweep trains MiniLM on film reviews with LoRA and with Houlsby's bottlenecks: a clean adapter, and one for each of two
attacks. Each set becomes three points: a fixed weight, weights for each text, mixed answers. ``before`` are the logits
that the trial itself got for its validation texts and left on disk; ``after`` are those of the exported folder, loaded
anew where robusweep can't be imported: by plain transformers, or by the folder's own code. For the points of
``--mlflow``, ``mlflow models predict`` labels the same texts. Ends with 1 where a logit is off by more than 1e-5, or
1e-5 of its own size where that is above 1, or where a label is another.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.cache import Cache
from robusweep.export import export
from robusweep.ground import Ground
from robusweep.progress import Progress
from robusweep.restored import restored
from robusweep.shipping import form_of
from robusweep.sweep.status import read_points

FOLDER = Path("cache") / "bench" / "parity"
LARGEST = 1e-5
MLFLOW = ["lora.half", "lora.ratio"]
RECIPE = """\
# Six small points of different kinds.
version: 1
name: parity
data: {kind: rotten_tomatoes, n_train: 640, n_validation: 200, n_calibration: 40, n_test: 40, max_words: 20}
model: {base: minilm_l6, max_tokens: 64, dropout: 0.0}
adapter: {kind: lora, rank: 8, alpha: 16}
train: {kind: standard, n_epochs: 3, learning_rate: 2.0e-3}
adversarial:
  - {kind: augment, source: attack, attack: textfooler_wordnet, share: 0.05, n_queries: 50,
     n_epochs: 3, learning_rate: 2.0e-3}
  - {kind: augment, source: attack, attack: deepwordbug, share: 0.05, n_queries: 50, n_epochs: 3, learning_rate: 2.0e-3}
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 8}
search: {space: space.yaml, budget: {n_trials: 2}}
resources: {executor: local, max_concurrent: 1, precision: fp32, device: cpu}
"""
SPACE = """\
# robusweep run recipe.yaml
adapter:
  grid:
    lora: {kind: lora, rank: 8, alpha: 16}
    houlsby: {kind: houlsby}
mix:
  grid:
    half: {kind: adpmixup, weight: 0.5}
    ratio: {kind: adpmixup, weighting: entropy_ratio}
    logits: {kind: logits}
  after: training
"""
KINDS = {"half": "fixed weight", "ratio": "weights for each text", "logits": "mixed answers"}
ADAPTERS = {"lora": "LoRA", "houlsby": "bottlenecks"}
ASK = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

try:
    import robusweep
    raise SystemExit("robusweep can be imported here")
except ImportError:
    pass
folder, texts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
if (folder / "system.json").is_file():
    sys.path.insert(0, str(folder))
    from robusweep_model import load
    model = load(folder)
    logits, labels = model.logits(texts)[0], model(texts)[0]
else:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    parts = [texts[i : i + 16] for i in range(0, len(texts), 16)]
    with torch.inference_mode():
        inputs = [tokenizer(part, truncation=True, padding=True, return_tensors="pt") for part in parts]
        logits = torch.cat([model(**batch).logits for batch in inputs])
    labels = [model.config.id2label[i] for i in logits.argmax(1).tolist()]
print(json.dumps({"logits": logits.tolist(), "labels": labels}))
"""


@dataclass(frozen=True)
class Trained:
    """A point as its trial left it: logits [texts, classes] and labels for its texts, ``n_right`` of them right."""

    name: str
    id: str
    kind: str
    texts: list[str]
    logits: NDArray[np.float32]
    labels: list[str]
    n_right: int


@dataclass(frozen=True)
class Compared:
    """Largest difference of a logit, the same over max(1, |logit|), equal labels, and those of MLflow where asked."""

    form: str
    difference: float
    relative: float
    n_equal: int
    n_equal_mlflow: int | None


def swept(root: Path) -> Path:
    """The folder of the sweep, which is run, or gone on with, where it is not finished."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "robusweep", "run", root / "recipe.yaml", "--root", root], check=True)
    return root / "runs" / "parity"


def trained(run_dir: Path, root: Path, point_id: str, n: int) -> Trained:
    """What the trial's own victim answered, read from the memory that it left; nothing is computed here."""
    point = restored(run_dir, point_id, say=lambda _text: None)
    dataset = data_stage.load(point.recipe.data, point.recipe.seed)
    scratch = root / "scratch"
    ground = Ground(
        point.recipe, dataset, point.base, point.identity, False, Cache(root / "cache"), Progress(scratch), scratch
    )
    texts = [example.text for example in dataset.validation[:n]]
    keys = [model_stage.key_of(np.asarray(row, dtype=np.int64)) for row in point.base.tokens(texts)]
    known = ground.memory(point.scored.model_digest, "fp32").recall(keys)
    logits = np.stack([known[key] for key in keys])
    adapter, mix = point.scored.params.get("adapter", point.trial.params.get("adapter")), point.scored.params["mix"]
    labels = [dataset.label_names[i] for i in logits.argmax(axis=1)]
    right = n_equal(labels, [dataset.label_names[example.label] for example in dataset.validation[:n]])
    return Trained(f"{adapter}.{mix}", point_id, f"{ADAPTERS[adapter]}, {KINDS[mix]}", texts, logits, labels, right)


def without_robusweep(root: Path) -> dict[str, str]:
    """The environment of a process in which importing robusweep fails."""
    shadow = root / "shadow"
    shadow.mkdir(exist_ok=True)
    (shadow / "robusweep.py").write_text('raise ImportError("robusweep is not here")\n', encoding="utf-8")
    quiet = {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    return os.environ | quiet | {"PYTHONPATH": str(shadow.resolve())}


def compared(point: Trained, run_dir: Path, root: Path, *, with_mlflow: bool) -> Compared:
    """The point exported, loaded in a process of its own, and held against what it was."""
    folder = fresh(root / "exports" / point.name)
    export(root, str(run_dir), point.id, out=folder)
    texts = root / "texts.json"
    texts.write_text(json.dumps(point.texts), encoding="utf-8")
    asked = [sys.executable, "-c", ASK, folder.resolve(), texts.resolve()]
    ended = subprocess.run(asked, check=True, stdout=subprocess.PIPE, env=without_robusweep(root), cwd=root)
    found = json.loads(ended.stdout)
    off = np.abs(np.array(found["logits"]) - point.logits)
    return Compared(
        form=form_of(folder),
        difference=float(off.max()),
        relative=float((off / np.maximum(1.0, np.abs(point.logits))).max()),
        n_equal=n_equal(found["labels"], point.labels),
        n_equal_mlflow=n_equal(labels_of_mlflow(point, run_dir, root), point.labels) if with_mlflow else None,
    )


def labels_of_mlflow(point: Trained, run_dir: Path, root: Path) -> list[str]:
    """What ``mlflow models predict`` says of the texts."""
    folder = fresh(root / "exports" / f"{point.name}.mlflow")
    export(root, str(run_dir), point.id, out=folder, form="mlflow")
    given, answer = root / "inputs.json", root / "answer.json"
    given.write_text(json.dumps({"inputs": point.texts}), encoding="utf-8")
    command = [Path(sys.executable).with_name("mlflow"), "models", "predict", "-m", folder.resolve()]
    command += ["-i", given.resolve(), "-t", "json", "-o", answer.resolve(), "--env-manager", "local"]
    subprocess.run(command, check=True, env=without_robusweep(root), cwd=root)
    return [row["label"] for row in json.loads(answer.read_text(encoding="utf-8"))["predictions"]]


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def n_equal(found: Sequence[str], wanted: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(found, wanted, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200, help="validation texts, at most 200")
    parser.add_argument("--mlflow", nargs="*", default=MLFLOW, metavar="POINT", help="points that MLflow labels, too")
    parser.add_argument("--root", type=Path, default=FOLDER)
    asked = parser.parse_args()
    root: Path = asked.root.resolve()
    run_dir = swept(root)
    points = [trained(run_dir, root, one.id, asked.texts) for one in sorted(read_points(run_dir), key=lambda p: p.id)]
    form = "{:15} {:34} {:7} {:>8} {:>10} {:>9} {:>9} {:>8} {:>8}"
    rows = [form.format("point", "kind", "folder", "right", "logits to", "largest", "relative", "labels", "mlflow")]
    failed = []
    for point in points:
        found = compared(point, run_dir, root, with_mlflow=point.name in asked.mlflow)
        n = len(point.texts)
        mlflow = "" if found.n_equal_mlflow is None else f"{found.n_equal_mlflow}/{n}"
        numbers = [f"{point.n_right}/{n}", f"{np.abs(point.logits).max():.2f}"]
        numbers += [f"{found.difference:.1e}", f"{found.relative:.1e}", f"{found.n_equal}/{n}", mlflow]
        rows.append(form.format(point.name, point.kind, found.form, *numbers))
        if not found.relative <= LARGEST or {found.n_equal, found.n_equal_mlflow} - {n, None}:
            failed.append(point.name)
    print("\n".join(rows), flush=True)
    if failed:
        raise SystemExit(f"other answers: {', '.join(failed)}")


if __name__ == "__main__":
    main()
