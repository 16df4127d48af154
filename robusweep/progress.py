"""A trial's log, the seconds that its stages take, and how much of the current one is done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARE_SECONDS = 0.5  # between two writes of a share
STALE_SECONDS = 60.0  # a share this old is of a trial that has gone on to something else, or is no more


class Progress:
    """Says into ``log.txt`` of the trial's folder what happens, and adds up wall-clock seconds by stage."""

    def __init__(self, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._log, self._share = folder / "log.txt", folder / "share.json"
        self._shared = -SHARE_SECONDS
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def share(self, what: str, done: float) -> None:
        """Say for onlookers how much is done of what, in [0, 1]; at most twice a second, and nothing at the end."""
        now = time.monotonic()
        if done >= 1:
            self._share.unlink(missing_ok=True)
        elif now - self._shared >= SHARE_SECONDS:
            self._shared = now
            partial = self._share.with_suffix(".partial")
            partial.write_text(json.dumps([what, done]), encoding="utf-8")
            partial.replace(self._share)

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

    def add(self, name: str, seconds: float) -> None:
        """Seconds of a stage of the trial that were timed elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def read_share(folder: Path) -> tuple[str, float] | None:
    """What a trial in this folder is at, and how much of it is done; None when it has not said so of late."""
    path = folder / "share.json"
    try:
        what, done = json.loads(path.read_text(encoding="utf-8"))
        return (str(what), float(done)) if time.time() - path.stat().st_mtime < STALE_SECONDS else None
    except (OSError, ValueError, TypeError):
        return None
