"""What a victim has answered: logits by token ids, in memory and, with a file, across kills.

The file is a sequence of frames, appended whole: a magic number, counts, a checksum, keys, logits. A frame that a kill
tore, or a disk damaged, ends what is read; what follows it is asked again.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC = b"RSQ1"
HEADER = struct.Struct("<4sIII")  # magic, number of rows, number of classes, CRC-32 of the rest
KEY_BYTES = 16
ANSWERS = 1  # raise it when the same network would answer otherwise: old answers are then not used
CAPACITY = 2**19  # answers kept in memory: about 200 bytes each


class QueryMemory:
    """Logits [n_classes] by key, a digest of token ids. One victim, one precision, one kind of machine.

    ``capacity``: answers kept in memory; when there would be more, all are forgotten.
    """

    def __init__(self, path: Path | None = None, *, capacity: int | None = None) -> None:
        self._path, self._capacity = path, capacity or CAPACITY
        self._known: dict[bytes, NDArray[np.float32]] = {}
        if path is not None:
            with suppress(FileNotFoundError):  # it may also be taken out of the cache just now
                self._read(path)

    def __len__(self) -> int:
        return len(self._known)

    def recall(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """What is known of these keys."""
        known = self._known
        return {key: known[key] for key in keys if key in known}

    def remember(self, keys: Sequence[bytes], logits: NDArray[np.float32]) -> None:
        """Keep [n_keys, n_classes]; in the file, too, when this returns."""
        if len(self._known) + len(keys) > self._capacity:
            self._known.clear()
        self._known.update(zip(keys, logits, strict=True))
        if self._path is not None:
            body = b"".join(keys) + np.ascontiguousarray(logits, dtype="<f4").tobytes()
            frame = HEADER.pack(MAGIC, *logits.shape, zlib.crc32(body)) + body
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:  # one write: frames of two processes don't mix
                file.write(frame)

    def _read(self, path: Path) -> None:
        os.utime(path)  # tells when it was last of use
        data, at = path.read_bytes(), 0
        while at + HEADER.size <= len(data):
            magic, n_rows, n_classes, checksum = HEADER.unpack_from(data, at)
            end = at + HEADER.size + n_rows * (KEY_BYTES + 4 * n_classes)
            body = data[at + HEADER.size : end]
            if magic != MAGIC or end > len(data) or zlib.crc32(body) != checksum:
                break
            keys = [body[i : i + KEY_BYTES] for i in range(0, n_rows * KEY_BYTES, KEY_BYTES)]
            logits = np.frombuffer(body, dtype="<f4", offset=n_rows * KEY_BYTES).reshape(n_rows, n_classes)
            self._known.update(zip(keys, logits, strict=True))
            at = end
        if at < len(data):  # what follows a torn frame could never be read
            with path.open("r+b") as file:
                file.truncate(at)
