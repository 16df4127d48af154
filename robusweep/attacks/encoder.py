"""Sentence vectors from MiniLM-L6 (mean pooling, unit length), cached by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robusweep.attacks.resources import ENCODER
from robusweep.examples import Row
from robusweep.packed import pack

TOKENS_PER_BATCH = 2048  # a forward pass is full
MAX_TOKENS = 256  # what the encoder was trained with
MAX_VECTORS = 2**15  # kept, of 1.5 kB each
MAX_COSINES = 2**20  # kept: the same changes of the same texts are met again under every victim


class SentenceEncoder:
    """Texts to unit vectors, so that the cosine of two texts is a dot product."""

    width = 384

    def __init__(self, folder: Path, *, device: str = "cpu", bf16: bool = False) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        dtype = torch.bfloat16 if bf16 else torch.float32
        packed = pack(network, dtype) if device == "cpu" else None
        self._means: Callable[[Sequence[Row]], torch.Tensor] = (
            packed.mean if packed else _Padded(network.to(device, dtype), device)
        )
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._cosines: dict[bytes, float] = {}
        self.n_computed = 0  # texts that went through the network

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n_texts, 384], each row of length 1."""
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        known = self._vectors
        if new := list({text: None for text in texts if text not in known}):
            known.update(zip(new, self._encode(new), strict=True))
        found = np.stack([known[text] for text in texts])
        if len(known) > MAX_VECTORS:
            known.clear()
        return found

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """The cosine of the vectors of each pair of texts."""
        known = self._cosines
        keys = [blake2b(f"{len(a)} {a}{b}".encode(), digest_size=16).digest() for a, b in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        if new:
            texts = [text for pair in new.values() for text in pair]
            vectors = self.encode(texts).astype(np.float64).reshape(len(new), 2, self.width)
            known.update(zip(new, vectors.prod(axis=1).sum(axis=1).tolist(), strict=True))
        found = np.array([known[key] for key in keys])
        if len(known) > MAX_COSINES:
            known.clear()
        return found

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        ids = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        rows = [np.asarray(row, dtype=np.int64) for row in ids]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        out = np.zeros((len(rows), self.width), dtype=np.float32)
        begin = 0
        while begin < len(order):
            end = begin + max(1, TOKENS_PER_BATCH // len(rows[order[begin]]))
            batch = order[begin:end]
            means = self._means([rows[i] for i in batch]).float()
            out[batch] = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
            begin = end
        self.n_computed += len(rows)
        return out


class _Padded:
    """Mean hidden states where the packed pass does not run."""

    def __init__(self, network: torch.nn.Module, device: str) -> None:
        self._network, self._device = network, device

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
        mask = torch.arange(ids.shape[1], device=self._device) < lengths[:, None]
        hidden = self._network(input_ids=ids.to(self._device), attention_mask=mask.long()).last_hidden_state.float()
        means: torch.Tensor = (hidden * mask.unsqueeze(-1)).sum(1) / lengths[:, None]
        return means


@cache
def sentence_encoder(device: str, bf16: bool) -> SentenceEncoder:
    """The one sentence encoder of this process for a device and precision."""
    return SentenceEncoder(ENCODER.path("model/config.json").parent, device=device, bf16=bf16)
