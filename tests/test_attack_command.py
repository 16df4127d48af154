"""``robusweep attack`` on a plain Hugging Face folder, as a person and as a script use it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robusweep import cli, evaluate
from robusweep.record import FLAGS

Run = Callable[..., tuple[object, str, str]]
ATTACK_KEYS = {"accuracy_under_attack", "success_rate", "n_queries_median", "n_queries_p90", "words_changed_mean"}
LINE_KEYS = {"text", "label", "attack", "result", "adversarial_text", "n_queries", "words_changed"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run ``robusweep attack``: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[object, str, str]:
        root = [] if "--root" in arguments else ["--root", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["robusweep", "attack", *map(str, arguments), *root])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def data(tiny: Path) -> Path:
    return tiny / "data.csv"


def attacked(classifier: Path, data: Path, *more: object) -> list[object]:
    return [classifier, "--data", data, "--attack", "deepwordbug", "--n", 20, "--precision", "fp32", *more]


def test_a_folder_that_robusweep_did_not_make_is_attacked(
    run: Run, classifier: Path, data: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "outcomes.jsonl", tmp_path / "page.html"
    code, stdout, stderr = run(
        *attacked(classifier, data, "--attack", "pruthi", "--json", "--out", out, "--html", page)
    )
    assert code == 0, stderr
    assert len(stdout.splitlines()) == 1, "one JSON value and nothing else"
    answer = json.loads(stdout)
    assert {"protocol", "n", "clean_accuracy", "robust_accuracy", "attacks", "flags"} <= set(answer)
    assert answer["n"] == 20
    assert set(answer["protocol"]) == {"name", "hash"}
    assert set(answer["attacks"]) == {"deepwordbug", "pruthi"}
    assert all(set(score) >= ATTACK_KEYS for score in answer["attacks"].values())
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 40
    assert all(set(line) >= LINE_KEYS for line in lines)
    by_attack = {name: [line for line in lines if line["attack"] == name] for name in answer["attacks"]}
    for name, score in answer["attacks"].items():
        results = [line["result"] for line in by_attack[name]]
        assert set(results) <= {"failed", "success", "skipped"}
        assert score["accuracy_under_attack"]["value"] == results.count("failed") / 20
        assert score["success_rate"]["n"] == 20 - results.count("skipped")
    stood = [all(row["result"] == "failed" for row in rows) for rows in zip(*by_attack.values(), strict=True)]
    assert answer["robust_accuracy"]["value"] == sum(stood) / 20
    assert any(line["result"] == "success" for line in lines)
    assert all((line["adversarial_text"] is None) == (line["result"] != "success") for line in lines)
    assert all(line["label"] in {"good", "bad"} for line in lines)
    html = page.read_text(encoding="utf-8")
    assert "deepwordbug" in html
    assert "<mark" in html


def test_the_table_shows_intervals_and_the_protocol_hash(run: Run, classifier: Path, data: Path) -> None:
    code, stdout, stderr = run(*attacked(classifier, data))
    assert code == 0
    answer = json.loads(run(*attacked(classifier, data, "--json"))[1])
    assert answer["protocol"]["hash"] in stdout
    rate = answer["attacks"]["deepwordbug"]["accuracy_under_attack"]
    assert f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]" in stdout
    assert "deepwordbug: 20/20" in stderr
    assert "queries/s" in stderr


def test_a_changed_protocol_or_seed_is_another_hash(run: Run, classifier: Path, data: Path) -> None:
    def hash_of(*more: object) -> str:
        code, stdout, stderr = run(*attacked(classifier, data, "--json", *more))
        assert code == 0, stderr
        return str(json.loads(stdout)["protocol"]["hash"])

    plain = hash_of()
    assert hash_of() == plain
    others = [hash_of("--set", "max_words_changed=0.5"), hash_of("--seed", 1), hash_of("--no-calibrate")]
    assert len({plain, *others}) == 4


def test_labels_may_be_written_as_numbers_and_in_any_case(
    run: Run, classifier: Path, data: Path, tmp_path: Path
) -> None:
    lines = data.read_text().splitlines()[:21]
    answers = []
    for number, names in enumerate(({"good": "good", "bad": "bad"}, {"good": "1", "bad": "0"}, {"good": "GOOD"})):
        file = tmp_path / f"{number}.csv"
        rows = [line.rsplit(",", 1) for line in lines[1:]]
        file.write_text("\n".join(["text,label", *(f"{t},{names.get(name, name)}" for t, name in rows)]) + "\n")
        answer = json.loads(run(*attacked(classifier, file, "--json", "--no-calibrate"))[1])
        answers.append({key: answer[key] for key in ("clean_accuracy", "robust_accuracy", "attacks")})
    assert answers[0] == answers[1] == answers[2]


def test_a_jsonl_file_and_columns_of_other_names_are_read(run: Run, classifier: Path, tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    texts = ["the film was truly splendid and the plot", "the film was truly dreadful and the plot"]
    rows = [{"review": text, "verdict": "good" if "splendid" in text else "bad"} for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, stdout, stderr = run(
        classifier, "--data", file, "--attack", "deepwordbug", "--text-column", "review", "--label-column", "verdict",
        "--json",
    )  # fmt: skip
    assert code == 0, stderr
    assert json.loads(stdout)["n"] == 2
    assert "no temperature" in stderr


def test_an_attack_that_keeps_labels_is_no_part_of_robust_accuracy(run: Run, classifier: Path, data: Path) -> None:
    plain = json.loads(run(*attacked(classifier, data, "--json"))[1])
    more = attacked(classifier, data, "--attack", "input_reduction")
    answer = json.loads(run(*more, "--json")[1])
    assert answer["robust_accuracy"] == plain["robust_accuracy"]
    assert answer["attacks"]["input_reduction"]["goal"] == "keep_label"
    assert "not broken by input_reduction" in run(*more)[1]
    only = [classifier, "--data", data, "--attack", "input_reduction", "--n", 20, "--json"]
    assert json.loads(run(*only)[1])["robust_accuracy"] is None


# --------------------------------------------------------------------------------------- what goes wrong
def refused(result: tuple[object, str, str], code: int) -> str:
    """The one line on stderr; a hint may follow, indented."""
    assert result[0] == code, result
    assert result[1] == ""
    assert "Traceback" not in result[2]
    lines = [line for line in result[2].splitlines() if line and not line.startswith((" ", "hint"))]
    assert len(lines) == 1, result[2]
    return result[2]


def test_a_wrong_column_is_named_with_those_that_are_there(run: Run, classifier: Path, data: Path) -> None:
    for option in ("--text-column", "--label-column"):
        said = refused(run(*attacked(classifier, data, option, "review")), 3)
        assert "review" in said
        assert "'text', 'label'" in said
        assert "--text-column" in said


def test_an_empty_file_and_one_without_rows_are_refused(run: Run, classifier: Path, tmp_path: Path) -> None:
    for text in ("", "text,label\n", "text,label\n  ,good\n"):
        file = tmp_path / "empty.csv"
        file.write_text(text)
        assert "empty.csv" in refused(run(*attacked(classifier, file)), 3)


def test_a_label_that_the_model_does_not_know_is_refused(run: Run, classifier: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("text,label\nthe film was splendid,goood\n")
    said = refused(run(*attacked(classifier, file)), 2)
    assert "'goood' is none of the model's: bad, good" in said
    assert "did you mean 'good'" in said


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(run: Run, classifier: Path, tmp_path: Path) -> None:
    assert "none.csv" in refused(run(*attacked(classifier, tmp_path / "none.csv")), 3)
    other = tmp_path / "data.xlsx"
    other.write_bytes(b"PK")
    assert ".csv, .tsv, .jsonl, .parquet" in refused(run(*attacked(classifier, other)), 2)


def test_a_model_that_cannot_be_read_is_refused(run: Run, data: Path, classifier: Path, tmp_path: Path) -> None:
    assert "no-such-model" in refused(run(*attacked(tmp_path / "no-such-model", data)), 3)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(run(*attacked(tmp_path / "empty", data)), 3)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in classifier.iterdir():
        content = path.read_bytes()
        (broken / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".safetensors" else content)
    assert "broken" in refused(run(*attacked(broken, data)), 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attack", "pwsw"], "did you mean 'pwws'"),
        (["--attack", "{kind: pwws, speed: 9}"], "speed"),
        (["--attack", "deepwordbug"], "asked for twice"),
        (["--protocol", "standard_v2"], "did you mean 'standard_v1'"),
        (["--set", "max_words=0.1"], "max_words_changed"),
        (["--set", "max_words_changed=2"], "max_words_changed"),
        (["--device", "tpu"], "auto, cpu, cuda"),
        (["--precision", "fp8"], "auto, fp32, bf16"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(
    run: Run, classifier: Path, data: Path, arguments: list[str], said: str
) -> None:
    assert said in refused(run(*attacked(classifier, data, *arguments)), 2)


# ------------------------------------------------------------------------------------------------- flags
def test_logits_a_thousand_times_as_large_are_flagged_and_can_fail_the_command(
    run: Run, classifier: Path, data: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "sharp"
    folder.mkdir()
    for path in classifier.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = (weights[name] * 1000).to(torch.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, stdout, stderr = run(*attacked(folder, data, "--json", "--fail-on-flags"))
    assert code == 6, stderr
    flags = json.loads(stdout)["flags"]
    assert "saturated" in {flag["name"] for flag in flags}
    assert {flag["name"] for flag in flags} <= set(FLAGS)
    assert "saturated" in run(*attacked(folder, data))[1]


# ------------------------------------------------------------------------------------------- kill and resume
KILLED = """
import os, signal, sys
from robusweep import cache, cli
append, done = cache.OutcomeLog.append, []
def counted(self, outcome):
    append(self, outcome)
    done.append(outcome)
    if len(done) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
cache.OutcomeLog.append = counted
sys.argv = ["robusweep", *{arguments!r}]
cli.main()
"""


def test_a_killed_attack_goes_on_without_repeating_a_query(
    run: Run, classifier: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_computed: list[int] = []
    answered = evaluate.attack_model

    def noting(*arguments: Any, **named: Any) -> evaluate.Answer:
        answer = answered(*arguments, **named)
        n_computed.append(answer.n_computed)
        return answer

    def answer_in(root: str) -> Any:
        code, stdout, stderr = run(*attacked(classifier, data, "--json", "--root", tmp_path / root))
        assert code == 0, stderr
        return json.loads(stdout)

    monkeypatch.setattr(evaluate, "attack_model", noting)
    arguments = ["attack", *map(str, attacked(classifier, data, "--json", "--root", tmp_path / "killed"))]
    killed = subprocess.run([sys.executable, "-c", KILLED.format(arguments=arguments, at=9)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    memories = list((tmp_path / "killed/cache/queries").glob("*.bin"))
    known = sum(path.stat().st_size for path in memories)
    assert known > 0
    assert answer_in("killed") == answer_in("whole")
    n_resumed, n_whole = n_computed
    assert 0 < n_resumed < n_whole
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / root / "cache/queries").glob("*.bin"))
        for root in ("whole", "killed")
    ]
    assert sizes[0] == sizes[1], "the same answers, each once"
    answer_in("killed")
    assert n_computed[2:] == [0]
