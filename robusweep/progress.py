"""A trial's log, and the seconds that its stages take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Progress:
    """Says into ``log.txt`` of the trial's folder what happens, and adds up wall-clock seconds by stage."""

    def __init__(self, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._log = folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    @contextmanager
    def stage(self, name: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
        """Time what happens inside, into ``seconds`` or else the trial's own; an exception is told where it was."""
        began = time.perf_counter()
        try:
            yield
        except Exception as e:
            e.add_note(f"in stage: {name}")
            raise
        finally:
            into = self.seconds if seconds is None else seconds
            into[name] = into.get(name, 0.0) + time.perf_counter() - began
