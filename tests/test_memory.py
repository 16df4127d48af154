"""What a process does with memory."""

from __future__ import annotations

import pytest
import torch

from robusweep.memory import keep_to_share


@pytest.mark.parametrize(
    ("device", "share", "asked"),
    [("cuda", 0.25, [0.25]), ("cuda:1", 0.5, [0.5]), ("cuda", 1.0, []), ("cuda", 0.0, []), ("cpu", 0.25, [])],
)
def test_a_trial_with_a_fraction_of_a_gpu_keeps_to_its_memory(
    device: str, share: float, asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    keep_to_share(device, share)
    assert limits == asked
