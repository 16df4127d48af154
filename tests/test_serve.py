"""``robusweep serve``: MLflow's model server on this machine, within limits, with refusals that a person can read."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from robusweep import cli
from robusweep.predict import load_classifier
from robusweep.tracking import save_model

TEXTS = ["the film was truly splendid", "dreadful"]
LIMITS = ["--max-texts", "3", "--max-characters", "100"]
SECONDS = 120.0  # at most, until a server answers or has ended
Command = Callable[..., tuple[object, str, str]]


@pytest.fixture(scope="module")
def exported(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier as ``robusweep export`` leaves it, as far as serving goes."""
    folder = Path(shutil.copytree(classifier, tmp_path_factory.mktemp("exported") / "model"))
    (folder / "robusweep.json").write_text('{"temperature": 2.5, "label_names": ["bad", "good"]}')
    return folder


@pytest.fixture(scope="module")
def packed(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for MLflow."""
    return save_model(tmp_path_factory.mktemp("packed") / "model", exported, TEXTS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(model: Path, temporary: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """(process, port, first line of stdout) of a server that answers; it leads a group of processes."""
    port = free_port()
    command = [sys.executable, "-m", "robusweep", "serve", str(model), "--port", str(port), *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        yield process, port, line
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ask(
    port: int, body: str | bytes, kind: str | None = "application/json", path: str = "/invocations"
) -> tuple[int, str]:
    """(status, body) of a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("POST", path, body, {} if kind is None else {"Content-Type": kind})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def processes_of(group: int) -> list[str]:
    """The processes of a group that run."""
    found = subprocess.run(["ps", "-eo", "pgid=,pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.split()[0] == str(group) and "Z" not in line.split()[2]]


def ended(process: subprocess.Popen[str], sent: signal.Signals) -> tuple[int, str]:
    """(exit code, stderr) of a server, and what it started, behind a signal to it alone."""
    process.send_signal(sent)
    code = process.wait(timeout=SECONDS)
    limit = time.monotonic() + 10
    while processes_of(process.pid) and time.monotonic() < limit:
        time.sleep(0.1)
    assert processes_of(process.pid) == []
    assert process.stderr is not None
    return code, process.stderr.read()


def expected(model: Path, texts: list[str]) -> list[Any]:
    return [p for chunk in load_classifier(str(model), precision="fp32")(texts) for p in chunk]


def test_a_served_export_answers_as_predict_does_refuses_in_words_and_ends_without_a_trace(
    exported: Path, tmp_path: Path
) -> None:
    with serving(exported, tmp_path, *LIMITS) as (process, port, line):
        assert f"http://127.0.0.1:{port}/invocations -H 'Content-Type: application/json'" in line
        for asked in ({"inputs": TEXTS}, {"dataframe_records": [{"text": text} for text in TEXTS]}):
            status, body = ask(port, json.dumps(asked))
            assert status == 200, body
            rows = json.loads(body)["predictions"]
            for row, right in zip(rows, expected(exported, TEXTS), strict=True):
                assert row["label"] == right.label
                assert [row["probability_bad"], row["probability_good"]] == pytest.approx(right.probabilities, abs=1e-5)
        refusals: list[tuple[int, str, str | bytes, str | None]] = [
            (400, "4 texts; a request may hold 3", json.dumps({"inputs": ["a"] * 4}), "application/json"),
            (400, "text 2 has 101 characters; a text may have 100", json.dumps({"inputs": ["a", "b" * 101]}),
             "application/json"),
            (413, "it may have", json.dumps({"inputs": ["a" * 80_000]}), "application/json"),
            (400, "JSON", "{", "application/json"),
            (400, "exactly one of the input fields", "{}", "application/json"),
            (400, "text", json.dumps({"dataframe_records": [{"txt": "a"}]}), "application/json"),
            (400, "text 2 is no text but int", json.dumps({"dataframe_split": {"columns": ["text"],
             "data": [["a"], [3]]}}), "application/json"),
            (400, "text 1 is no text but ", json.dumps({"inputs": [["a", "b"]]}), "application/json"),
            (400, "Failed to enforce schema", json.dumps({"inputs": "a"}), "application/json"),
            (415, "Content-Type", "{}", None),
            (415, "content types", "<a/>", "text/xml"),
        ]  # fmt: skip
        for status, said, request, kind in refusals:
            found, body = ask(port, request, kind)
            answer = json.loads(body)
            assert (found, set(answer)) == (status, {"error_code", "message"}), body
            assert said in answer["message"]
            assert "Traceback" not in body
            assert "bbbb" not in body
        assert ask(port, "{}", path="/none")[0] == 404
        assert ask(port, json.dumps({"inputs": ["b" * 100] * 3}))[0] == 200
        code, stderr = ended(process, signal.SIGINT)
    assert code == 0
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_for_mlflow_is_served_by_several_processes_and_a_plain_kill_ends_all(
    packed: Path, tmp_path: Path
) -> None:
    with serving(packed, tmp_path, *LIMITS, "--workers", "2") as (process, port, _line):
        assert len(processes_of(process.pid)) >= 3
        for _ in range(4):
            status, body = ask(port, json.dumps({"inputs": TEXTS}))
            assert status == 200, body
        assert [row["label"] for row in json.loads(body)["predictions"]] == [p.label for p in expected(
            next(packed.rglob("robusweep.json")).parent, TEXTS)]  # fmt: skip
        assert ask(port, json.dumps({"inputs": ["a"] * 4}))[0] == 400
        code, _ = ended(process, signal.SIGTERM)
    assert code in (0, 143)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``robusweep serve``: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["robusweep", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code, said.out, said.err

    return call


def test_what_cannot_be_served_is_said_in_a_line(
    command: Command, classifier: Path, exported: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.sklearn}}")
    for model, said in (
        (tmp_path / "none", "there is no folder"),
        (classifier, "is no export of robusweep: it holds no robusweep.json"),
        (other, "is no export of robusweep"),
    ):
        code, out, err = command(model)
        assert (code, out) == (3, "")
        assert said in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = command(exported, "--port", port)
        assert (code, out) == (2, "")
        assert f"port {port} of 127.0.0.1 can't be used: Address already in use" in err
        assert f"--port {port + 1}" in err
    assert command(exported, "--host", "no.such.host.invalid")[0] == 2
    assert command(exported, "--max-texts", "0")[0] == 2


def test_a_damaged_folder_is_said_in_a_line_and_the_environment_is_as_before(
    command: Command, packed: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(packed, tmp_path / "damaged"))
    next(damaged.rglob("model.safetensors")).write_bytes(b"torn")
    before = dict(os.environ)
    code, out, err = command(damaged, "--port", free_port())
    assert (code, out) == (3, "")
    assert "can't be loaded" in err
    assert "Traceback" not in err
    assert dict(os.environ) == before
