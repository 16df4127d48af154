"""Labelled texts, and the four disjoint splits of one data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A victim is the system that an attack queries: texts in, float32 logits [n_texts, n_classes] out.
Victim = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text. ``label`` indexes the data set's ``label_names``."""

    text: str
    label: int

    @property
    def id(self) -> str:
        """A name that depends on the text alone, so the same text has the same id in every run."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Four disjoint splits. Selection reads ``validation``; ``test`` is left for confirmation."""

    name: str
    label_names: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    calibration: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()  # what loading dropped or changed, in words, with counts

    def digest(self) -> str:
        """SHA-256 over names, splits, texts and labels."""
        sha = hashlib.sha256("\x1f".join(self.label_names).encode())
        for split in (self.train, self.validation, self.calibration, self.test):
            sha.update(b"\x1e")
            for example in split:
                sha.update(f"{example.label}\x1f{example.text}\x1f".encode())
        return sha.hexdigest()
