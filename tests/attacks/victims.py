"""Victims that answer at once: a bag of seven words, and random weights on the word pieces of real text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusweep.examples import Gradient, Row

WEIGHTS = {"good": 2.0, "great": 2.5, "happy": 1.5, "movie": 0.1, "bad": -2.0, "awful": -2.5, "sad": -1.5}


class BagOfWords:
    """Class 1 when the known words of a text add up to more than ``threshold``."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.extend(texts)
        sums = [sum(WEIGHTS.get(w, 0.0) for w in re.findall(r"\w+", text.lower())) for text in texts]
        score = np.asarray(sums, dtype=np.float32) - self.threshold
        return np.stack([-score, score], axis=1)


class WordPieces:
    """A ``TokenVictim``: three logits linear in the mean of random vectors of MiniLM's word pieces.

    Each row is computed by itself, so its logits depend on nothing else.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int = 64, sharpness: float = 40.0) -> None:
        rng = np.random.default_rng(0)
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.table = rng.normal(size=(30522, 8)).astype(np.float32)
        self.head = (sharpness * rng.normal(size=(8, 3))).astype(np.float32)
        self.n_asked = 0
        self.n_computed = 0

    def tempered(self, _temperature: float | None) -> WordPieces:
        return self

    def forgetful(self) -> WordPieces:
        return self

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.logits(self.rows(texts))

    def rows(self, texts: Sequence[str]) -> list[Row]:
        found = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return [np.asarray(row, dtype=np.int64) for row in found]

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        self.n_asked += len(rows)
        return np.stack([self.table[row].mean(axis=0) @ self.head for row in rows])

    def pieces(self, parts: Sequence[str]) -> list[Row]:
        found = self.tokenizer(list(parts), add_special_tokens=False)["input_ids"] if parts else []
        return [np.asarray(row, dtype=np.int64) for row in found]

    def row(self, ids: Sequence[Row]) -> Row:
        joined = np.concatenate([[101], *ids, [102]]).astype(np.int64)
        return joined if len(joined) <= self.max_tokens else np.concatenate([joined[: self.max_tokens - 1], [102]])

    def embeddings(self, ids: Row) -> NDArray[np.float32]:
        return self.table[ids]

    def gradients(self, texts: Sequence[str]) -> list[Gradient]:
        found = []
        for row in self.rows(texts):
            logits = self.table[row].mean(axis=0) @ self.head
            p = np.exp(logits - logits.max())
            p /= p.sum()
            p[int(logits.argmax())] -= 1.0
            values = np.tile(self.head @ p / len(row), (len(row), 1)).astype(np.float32)
            found.append(Gradient(row, tuple(self.tokenizer.convert_ids_to_tokens(row.tolist())), values))
        return found


class HashedWords:
    """Stands for the sentence encoder: cosines of counts of words and of their first letters, in 64 places."""

    width = 64

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        for i, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                for part in (word, word[:3]):
                    found[i, sum(part.encode()) % self.width] += 1.0
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        vectors = self.encode([text for pair in pairs for text in pair]).astype(np.float64)
        found: NDArray[np.float64] = vectors.reshape(len(pairs), 2, self.width).prod(axis=1).sum(axis=1)
        return found
