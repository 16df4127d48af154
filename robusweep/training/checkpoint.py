"""Where a training run saves itself: tensors as safetensors and the rest as JSON, in one file, renamed into place."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

SECONDS = 20.0  # between two writes: a cut run loses at most so much


class Checkpoint:
    """A file that holds one run. ``key`` says which: a file of another run is not read.

    ``begun``: another file of the same run, which is only read.
    """

    def __init__(self, path: Path, key: str, *, seconds: float = SECONDS) -> None:
        self.path, self._key, self._seconds = path, key, seconds
        self.begun: Path | None = None
        self._written = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._written >= self._seconds

    def write(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Replace what is there. The old file stays whole until the new one is."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        try:
            save_file(whole, partial, metadata={"key": self._key, "rest": json.dumps(rest)})
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)
        self._written = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was written last, or what is begun where that goes further.

        None when there is nothing, or what is there is another run's or damaged.
        """
        found = [state for path in (self.path, self.begun) if path and (state := self._read(path))]
        return max(found, key=lambda state: state[1].get("n_steps", 0), default=None)

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                if about.get("key") != self._key:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(about["rest"])  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError):
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
