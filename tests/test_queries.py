"""Answers of a victim in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robusweep.queries import QueryMemory

KEYS = [bytes([i]) * 16 for i in range(6)]
LOGITS = np.arange(12, dtype=np.float32).reshape(6, 2)


def filled(path: Path | None) -> QueryMemory:
    memory = QueryMemory(path)
    memory.remember(KEYS[:2], LOGITS[:2])
    memory.remember(KEYS[2:], LOGITS[2:])
    return memory


def test_only_what_was_remembered_is_known() -> None:
    memory = filled(None)
    known = memory.recall([KEYS[4], b"?" * 16])
    assert list(known) == [KEYS[4]]
    np.testing.assert_array_equal(known[KEYS[4]], LOGITS[4])


def test_another_process_knows_the_same(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "q.bin")
    known = QueryMemory(tmp_path / "a" / "q.bin").recall(KEYS)
    np.testing.assert_array_equal(np.stack([known[key] for key in KEYS]), LOGITS)


@pytest.mark.parametrize("cut", [1, 20, 60, 100])
def test_a_torn_tail_is_dropped_and_the_file_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "q.bin"
    filled(path)
    path.write_bytes(path.read_bytes()[:-cut])
    memory = QueryMemory(path)
    assert len(memory) == 2
    memory.remember(KEYS[2:3], LOGITS[2:3])
    assert len(QueryMemory(path)) == 3


def test_a_damaged_frame_is_never_believed(tmp_path: Path) -> None:
    path = tmp_path / "q.bin"
    filled(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    assert len(QueryMemory(path)) == 2
    path.write_bytes(b"not ours at all, but long enough to hold a header")
    assert len(QueryMemory(path)) == 0


def test_a_full_memory_starts_anew_and_the_file_keeps_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robusweep.queries.CAPACITY", 5)
    memory = filled(tmp_path / "q.bin")
    assert len(memory) == 4
    monkeypatch.setattr("robusweep.queries.CAPACITY", 50)
    assert len(QueryMemory(tmp_path / "q.bin")) == 6
