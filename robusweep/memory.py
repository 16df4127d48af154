"""What a process does with memory: what it has freed, compiled kernels, a share of a GPU."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
KERNELS_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}  # oneDNN's, and PyTorch's own
KEPT, LARGEST = 2**28, 2**25  # bytes: at the end of the heap; of a block on the heap, which is the most it takes


def keep_freed_memory() -> None:
    """Let the C library use freed memory again instead of handing it back; nothing where it isn't glibc.

    By default each activation of some 100 kB and more is a mapping of its own that the kernel fills with zeros anew,
    which costs a tenth of a forward pass of a small encoder on a CPU (``bench/mixing.py``).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, KEPT)
        libc.mallopt(MMAP_THRESHOLD, LARGEST)


def keep_few_kernels() -> None:
    """Let oneDNN keep few compiled kernels; to be called before the first forward pass. What the user has set stays.

    It keeps 1024, one for each shape, each with buffers of its own. A packed pass has another number of tokens nearly
    every time, so they are never met again: 0.56 GB after 60 attacks, and no seconds gained (MiniLM, bfloat16).
    """
    for name, number in KERNELS_KEPT.items():
        os.environ.setdefault(name, number)


def keep_to_share(device: str, share: float) -> None:
    """A trial that has a fraction of a GPU gets no more than that fraction of its memory; Ray only counts.

    What asks for more fails with an error of its own, instead of taking the trials beside it along.
    """
    if device.startswith("cuda") and 0 < share < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(share)
