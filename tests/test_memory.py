"""What a process does with memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from robusweep.memory import keep_to_share

GROWTH = """
import sys
import torch
from robusweep.memory import keep_few_kernels

def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

torch.set_num_threads(1)
keep_few_kernels()
layer = torch.nn.Linear(384, 1536).to(torch.bfloat16)
before = resident()
with torch.inference_mode():
    for n_tokens in range(200, 500):
        layer(torch.zeros(n_tokens, 384, dtype=torch.bfloat16))
print(resident() - before)
"""
KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def growth(**env: str) -> float:
    """MiB that passes over 300 different numbers of tokens leave behind, in a fresh process."""
    own = {name: value for name, value in os.environ.items() if name not in KERNELS}
    ended = subprocess.run([sys.executable, "-c", GROWTH], env=own | env, capture_output=True, text=True, check=True)
    return float(ended.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_passes_of_many_lengths_leave_few_kernels_behind() -> None:
    kept = growth(**dict.fromkeys(KERNELS, "1024"))
    if kept < 200:
        pytest.skip(f"nothing to save here: {kept:.0f} MiB, on a processor for which nothing is compiled")
    assert growth() < kept / 2


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
