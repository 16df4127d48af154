"""Every random draw takes a seed made here, from the recipe's seed and the name of what is drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**63) that depends on the recipe's seed and on the names, and on nothing else."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator of its own for the named draw."""
    return np.random.default_rng(derive(seed, *names))
