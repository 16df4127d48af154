"""Sentence vectors from MiniLM-L6 (mean pooling, unit length), on the CPU, cached by text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robusweep.attacks.resources import ENCODER

TOKENS_PER_BATCH = 4096  # a forward pass is full
MAX_TOKENS = 256  # what the encoder was trained with
MAX_TOKENS_OF_A_WINDOW = 32  # about; what a batch is sized by
CACHED = 2**16  # vectors of 1.5 kB


class SentenceEncoder:
    """Texts to unit vectors, so that the cosine of two texts is a dot product."""

    width = 384

    def __init__(self, folder: Path, *, device: str = "cpu", bf16: bool = False) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        dtype = torch.bfloat16 if bf16 else torch.float32
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device, dtype)
        self._device = device
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n_texts, 384], each row of length 1."""
        known = self._vectors
        new = sorted({text for text in texts if text not in known}, key=lambda text: (len(text), text))
        per_batch = max(1, TOKENS_PER_BATCH // MAX_TOKENS_OF_A_WINDOW)
        for start in range(0, len(new), per_batch):
            batch = new[start : start + per_batch]
            known.update(zip(batch, self._encode(batch), strict=True))
        found = np.stack([known[text] for text in texts]) if texts else np.zeros((0, self.width), dtype=np.float32)
        if len(known) > CACHED:
            known.clear()
        return found

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        tokens = tokens.to(self._device)
        hidden = self._model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1)
        vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        found: NDArray[np.float32] = vectors.cpu().numpy()
        return found


@cache
def sentence_encoder(device: str, bf16: bool) -> SentenceEncoder:
    """The one sentence encoder of this process for a device and precision."""
    return SentenceEncoder(ENCODER.path("model/config.json").parent, device=device, bf16=bf16)
