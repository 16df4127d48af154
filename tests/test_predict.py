"""``robusweep predict``: labels in the order of the texts, read in chunks, with the exported temperature."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusweep import cli, memory
from robusweep import predict as stage
from robusweep.errors import MissingError, UsageError
from robusweep.predict import TextFile, load_classifier, temperature_of

Run = Callable[..., tuple[object, str, str]]
TEXTS = ["the film was truly splendid", "dreadful", 'the "plot", and\nthe music', "", "splendid splendid story"] * 3


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``robusweep predict``: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["robusweep", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def shipped(classifier: Path, tmp_path: Path) -> Path:
    """A classifier that was exported with a temperature."""
    folder = Path(shutil.copytree(classifier, tmp_path / "shipped"))
    (folder / "robusweep.json").write_text('{"temperature": 2.5}')
    return folder


def logits(classifier: Path) -> np.ndarray[Any, Any]:
    """[n_texts, 2], text by text, by ``transformers`` alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in TEXTS]
    return np.stack(rows)


def softmax(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(values)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def write_texts(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(["id", "review"])
            writer.writerows(enumerate(TEXTS))
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps({"id": i, "review": text or None}) + "\n" for i, text in enumerate(TEXTS))
        else:
            file.writelines(text.replace("\n", " ") + "\n" for text in TEXTS)
    return path


@pytest.mark.parametrize("source", ["in.csv", "in.jsonl", "in.txt"])
@pytest.mark.parametrize("target", ["out.csv", "out.jsonl"])
def test_a_file_is_labelled_in_its_order(run: Run, classifier: Path, tmp_path: Path, source: str, target: str) -> None:
    path, out = write_texts(tmp_path / source), tmp_path / target
    code, stdout, stderr = run(
        classifier, "--file", path, "--text-column", "review", "--out", out, "--precision", "fp32"
    )
    assert (code, stdout) == (0, f"{out}\n"), stderr
    assert "no temperature, fp32" in stderr
    with out.open(newline="", encoding="utf-8") as file:
        if target == "out.csv":
            rows = [
                (r["text"], r["label"], [float(r["probability_bad"]), float(r["probability_good"])])
                for r in csv.DictReader(file)
            ]
        else:
            lines = map(json.loads, file)
            rows = [(r["text"], r["label"], [r["probabilities"][n] for n in ("bad", "good")]) for r in lines]
    texts = [text.replace("\n", " ") if source == "in.txt" else text for text in TEXTS]
    assert [text for text, _, _ in rows] == texts
    expected = softmax(logits(classifier))
    assert np.abs(np.array([shares for _, _, shares in rows]) - expected).max() < 1e-5
    assert [label for _, label, _ in rows] == [("bad", "good")[i] for i in expected.argmax(1)]
    assert {path.name for path in tmp_path.iterdir()} == {source, target}


def test_texts_of_the_command_line_and_the_temperature(run: Run, shipped: Path) -> None:
    asked = [shipped, "--precision", "fp32", *(part for text in TEXTS for part in ("--text", text))]
    code, stdout, stderr = run(*asked, "--json")
    assert code == 0, stderr
    assert "temperature 2.5, fp32" in stderr
    found = json.loads(stdout)
    assert (found["temperature"], found["labels"]) == (2.5, ["bad", "good"])
    assert [row["text"] for row in found["predictions"]] == TEXTS
    shares = np.array([list(row["probabilities"].values()) for row in found["predictions"]])
    assert np.abs(shares - softmax(logits(shipped) / 2.5)).max() < 1e-5
    code, stdout, stderr = run(*asked, "--json", "--no-temperature")
    assert "no temperature" in stderr
    plain = json.loads(stdout)
    assert plain["temperature"] is None
    assert [row["label"] for row in plain["predictions"]] == [row["label"] for row in found["predictions"]]
    shares = np.array([list(row["probabilities"].values()) for row in plain["predictions"]])
    assert np.abs(shares - softmax(logits(shipped))).max() < 1e-5
    code, stdout, _ = run(*asked)
    assert code == 0
    assert stdout.splitlines()[0].split("  ")[0] == found["predictions"][0]["label"]


def test_the_summary_counts_labels(run: Run, classifier: Path, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "in.csv")
    code, stdout, _ = run(classifier, "--file", path, "--text-column", "review", "--out", tmp_path / "o.csv", "--json")
    assert code == 0
    found = json.loads(stdout)
    assert len(stdout.splitlines()) == 1
    assert found["n"] == sum(found["counts"].values()) == len(TEXTS)


def test_no_more_texts_are_read_than_a_chunk_holds(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHUNK", 4)
    read: list[str] = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    sizes = []
    for chunk in load_classifier(str(classifier), precision="fp32")(texts()):
        sizes.append(len(chunk))
        assert len(read) == sum(sizes)
    assert sizes == [4, 4, 4, 3]


def test_what_was_asked_is_forgotten_with_its_chunk(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHUNK", 4)
    found = load_classifier(str(classifier), precision="fp32")
    assert sum(map(len, found(f"film {i}" for i in range(20)))) == 20
    assert len(found._victim._asked._memory) == 0


def test_memory_is_given_back_with_every_chunk(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    monkeypatch.setattr(stage, "CHUNK", 4)
    monkeypatch.setattr(stage, "_give_memory_back", lambda: times.append(1))
    chunks = load_classifier(str(classifier), precision="fp32")(TEXTS)
    assert [(len(chunk), len(times)) for chunk in chunks] == [(4, 1), (4, 2), (4, 3), (3, 4)]


def test_kernels_stay_few_and_the_users_own_numbers_stand(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory.KERNELS_KEPT:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    load_classifier(str(classifier), precision="bf16", device="cpu")
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"


GROWTH = """
import json, sys
from pathlib import Path
from robusweep import memory, predict

predict.CHUNK, memory.KERNELS_KEPT = 8, json.loads(sys.argv[2])
found = predict.load_classifier(sys.argv[1], precision="bf16", device="cpu")
resident = []
for _ in found(" ".join(["film"] * (40 + i // 8)) for i in range(8 * 64)):  # each chunk has shapes of its own
    resident.append(int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024)
print(json.dumps(resident))
"""


def growth(classifier: Path, kept: dict[str, str]) -> float:
    """MB from the 16th chunk to the 64th, in a process that keeps so many kernels."""
    ended = subprocess.run(
        [sys.executable, "-c", GROWTH, str(classifier), json.dumps(kept)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    memory: list[float] = json.loads(ended.stdout)
    assert len(memory) == 64
    return memory[-1] - memory[16]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's account of memory")
def test_memory_does_not_grow_with_the_shapes_that_were_seen_in_bfloat16(classifier: Path) -> None:
    assert growth(classifier, memory.KERNELS_KEPT) < 50  # MB; 109 where kernels are kept as by default


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl"])
def test_weights_of_adapters_are_written_where_there_are_any(tmp_path: Path, name: str) -> None:
    rows = [stage.Prediction("a", "bad", (0.75, 0.25), (0.5, 0.5)), stage.Prediction("b", "good", (0.25, 0.75), (1, 0))]
    with stage.written(tmp_path / name, ["bad", "good"], ["clean", "adversarial.0"]) as write:
        write(rows)
    lines = (tmp_path / name).read_text().splitlines()
    if name == "o.csv":
        assert lines[0] == "text,label,probability_bad,probability_good,weight_clean,weight_adversarial.0"
        assert lines[1] == "a,bad,0.75,0.25,0.5,0.5"
    else:
        assert json.loads(lines[1])["weights"] == {"clean": 1, "adversarial.0": 0}
    assert "weights" not in stage.as_json(stage.Prediction("a", "bad", (1.0, 0.0)), ["bad", "good"])


def test_a_file_is_read_while_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text number {i}\n" for i in range(100_000)))
    texts = TextFile(path)
    rest = iter(texts)
    assert next(rest) == "text number 0"
    assert texts.share < 0.1
    assert sum(1 for _ in rest) == 99_999
    assert texts.share == 1.0


def test_smaller_batches_give_the_same_answers(classifier: Path) -> None:
    whole = [p for chunk in load_classifier(str(classifier), precision="fp32")(TEXTS) for p in chunk]
    for n_tokens in (1, 16):
        parts = load_classifier(str(classifier), precision="fp32", n_tokens=n_tokens)(TEXTS)
        found = [p for chunk in parts for p in chunk]
        assert [p.label for p in found] == [p.label for p in whole]
        assert np.abs(np.array([p.probabilities for p in found]) - [p.probabilities for p in whole]).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "id,review\n1,x\n", "has no column 'text'; it has 'id', 'review'"),
        ("a.csv", "id,txt\n1,x\n", "did you mean 'txt'"),
        ("a.csv", "text,text\n1,x\n", "has 2 columns 'text'"),
        ("a.csv", "text,b\n1,x\n2\n", "a.csv:3: 1 fields, but the header names 2"),
        ("a.csv", 'text\n"x"y\n', "not valid CSV"),
        ("a.csv", "", "holds no text"),
        ("a.csv", "text\n", "holds no text"),
        ("a.txt", "", "holds no text"),
        ("a.jsonl", "\n", "holds no text"),
        ("a.jsonl", '{"text": "x"}\n{"txt": "x"}\n', "a.jsonl:2 has no column 'text'"),
        ("a.jsonl", '{"text": 3}\n', "a.jsonl:1: the text is 3 (int)"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: a list, not an object"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "half of a surrogate pair"),
        ("a.txt", b"good\nb\xe4d\n", "not UTF-8 behind text"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(MissingError) as raised:
        list(TextFile(path))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{model}"], 2, "either --text, once or more, or --file"),
        (["{model}", "--text", "a", "--file", "a.csv"], 2, "either --text"),
        (["{model}", "--file", "none.csv"], 3, "none.csv can't be read"),
        (["{model}", "--file", "in.pdf"], 2, "allowed: .csv, .tsv, .jsonl, .txt"),
        (["./none", "--text", "a"], 3, "there is no folder ./none"),
        (["{model}", "--text", "a", "--out", "none/o.csv"], 2, "none/o.csv can't be written"),
        (["{model}", "--text", "a", "--out", "o.xls"], 2, "allowed: .csv, .jsonl"),
        (["{model}", "--file", "in.csv", "--out", "in.csv"], 2, "is the file that is read"),
        (["{model}", "--text", "a", "--device", "tpu"], 2, "allowed: auto, cpu, cuda"),
        (["{model}", "--text", "a", "--precision", "fp8"], 2, "allowed: auto, fp32, bf16"),
        ([], 2, "MODEL"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    run: Run,
    classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("text\na\n")
    ended, stdout, stderr = run(*(argument.format(model=classifier) for argument in arguments))
    assert (ended, stdout) == (code, "")
    assert said in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_file_that_breaks_on_the_way_leaves_no_half_of_an_answer(run: Run, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,b\n" + "film,1\n" * 5000 + "film\n")
    code, _, stderr = run(classifier, "--file", tmp_path / "in.csv", "--out", tmp_path / "out.csv")
    assert code == 3
    assert "in.csv:5002" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"temperature": "2"}', '{"temperature": -1.0}', '{"temperature": NaN}']
)
def test_a_damaged_temperature_is_refused(shipped: Path, content: str) -> None:
    (shipped / "robusweep.json").write_text(content)
    with pytest.raises(MissingError, match="--no-temperature"):
        temperature_of(str(shipped))
    assert load_classifier(str(shipped), temperature=False).temperature is None


def test_a_wrong_device_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="allowed: auto, cpu, cuda"):
        load_classifier("none", device="tpu")
