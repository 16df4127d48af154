"""Labelled texts, and the four disjoint splits of one data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# A victim is the system that an attack queries: texts in, float32 logits [n_texts, n_classes] out.
Victim = Callable[[Sequence[str]], NDArray[np.float32]]
Row = NDArray[np.int64]  # the token ids of one text, special tokens included, not padded


@runtime_checkable
class TokenVictim(Protocol):
    """A victim that can also be asked about token ids, and for gradients: what a model on this machine offers."""

    @property
    def n_asked(self) -> int:
        """How many texts were asked about, remembered ones included."""

    @property
    def n_computed(self) -> int:
        """How many texts went through the network."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def tempered(self, temperature: float | None) -> TokenVictim:
        """The same predictions with logits divided by the temperature."""

    def forgetful(self) -> TokenVictim:
        """The same victim without its memory of earlier answers."""

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """[n_rows, n_classes], one row of logits for each row of token ids."""

    def pieces(self, parts: Sequence[str]) -> list[Row]:
        """The token ids of each part of a text, without special tokens."""

    def row(self, ids: Sequence[Row]) -> Row:
        """The ids of a text's parts, joined, cut to the model's length, with special tokens around."""

    def rows(self, texts: Sequence[str]) -> list[Row]:
        """The token ids of each text, cut to the model's length, with special tokens around."""

    def embeddings(self, ids: Row) -> NDArray[np.float32]:
        """[n_ids, width]: the word embeddings of these token ids."""

    def gradients(self, texts: Sequence[str]) -> list[Gradient]:
        """The gradient of the cross-entropy of each text's own prediction, at its word embeddings."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient at the word embeddings of one text: ``values`` is [n_tokens, width], for the tokens ``ids``."""

    ids: Row
    tokens: tuple[str, ...]
    values: NDArray[np.float32]


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
