"""Sentence vectors from MiniLM-L6 (mean pooling, unit length), on the CPU, cached by text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robusweep.attacks.resources import ENCODER

BATCH = 32  # texts, of like length
MAX_TOKENS = 256  # what the encoder was trained with
CACHED = 2**16  # vectors of 1.5 kB


class SentenceEncoder:
    """Texts to unit vectors, so that the cosine of two texts is a dot product."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n_texts, 384], each row of length 1."""
        known = self._vectors
        new = sorted({text for text in texts if text not in known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            known.update(zip(batch, self._encode(batch), strict=True))
        found = np.stack([known[text] for text in texts])
        if len(known) > CACHED:
            known.clear()
        return found

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        found: NDArray[np.float32] = vectors.numpy()
        return found


@cache
def sentence_encoder() -> SentenceEncoder:
    """The one sentence encoder of this process."""
    return SentenceEncoder(ENCODER.path("model/config.json").parent)
