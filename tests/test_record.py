"""Records are written whole or not at all, and read back as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robusweep.errors import MissingError
from robusweep.record import AdapterRecord, StandIn, TrialRecord, read_trials, write_json, write_text


def record(number: int = 0, **fields: Any) -> TrialRecord:
    plain = {"name": "small", "number": number, "status": "complete", "params": {}, "recipe": {}, "recipe_digest": "d"}
    return TrialRecord.model_validate(plain | fields)


def adapter(*, cached: bool, seconds: float) -> AdapterRecord:
    return AdapterRecord(
        view="clean", method="standard", cache_key="k", cached=cached, train_seconds=seconds, final_loss=0.1,
        n_steps=3, token_efficiency=0.9, precision="fp32",
    )  # fmt: skip


def test_text_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "é\u2028\n")
    assert path.read_bytes() == "é\u2028\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom robusweep.record import write_text\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nwrite_text(Path(sys.argv[1]), 'new')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_values_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf"), {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_records_are_read_back_by_number(tmp_path: Path) -> None:
    written = [record(10, params={"mix.weight": 0.5}), record(2, status="failed", error="é"), record(1)]
    for one in written:
        write_json(tmp_path / "trials" / f"t{one.number:03d}" / "record.json", one.model_dump(mode="json"))
    (tmp_path / "trials" / "t011").mkdir()  # a trial that has no record yet
    assert read_trials(tmp_path) == sorted(written, key=lambda r: r.number)
    assert read_trials(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "small"}', b'"\xff"'])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trials" / "t000" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(MissingError) as e:
        read_trials(tmp_path)
    assert str(path) in e.value.message
    assert "run the recipe again" in str(e.value)


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    later = record().model_dump(mode="json") | {"schema_version": 2}
    write_json(tmp_path / "trials" / "t000" / "record.json", later)
    with pytest.raises(MissingError, match="of this version"):
        read_trials(tmp_path)


def test_training_costs_the_same_wherever_the_adapter_came_from() -> None:
    one = record(adapters=[adapter(cached=True, seconds=3.0), adapter(cached=False, seconds=4.0)])
    assert one.train_seconds == 7.0
    assert one.n_trained == 1


def test_a_stand_in_says_what_replaces_what_and_why() -> None:
    said = StandIn(what="model", asked="bert", used="minilm_l6", reason="offline").notice()
    assert [word for word in ("model", "bert", "minilm_l6", "offline") if word not in said] == []


def test_a_record_is_json_without_loss() -> None:
    one = record(points=[], environment={"python": "3.11"}, seconds={"data": 0.5})
    assert TrialRecord.model_validate_json(json.dumps(one.model_dump(mode="json"))) == one
