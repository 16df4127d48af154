"""A trial's log, the seconds that its stages take, and how much of the current one is done."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SHARE_SECONDS = 0.5  # between two writes of a share
STALE_SECONDS = 60.0  # a share this old is of a trial that has gone on to something else, or is no more
LEG = re.compile(r"\S+ leg (\w+): ")  # the beginning of a line that says which leg a trial is at


class Progress:
    """Says into ``log.txt`` of the trial's folder what happens, and adds up wall-clock seconds by stage.

    ``seconds``: of the trial's stages so far, in an earlier leg.
    """

    def __init__(self, folder: Path, *, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})
        self._log, self._share = folder / "log.txt", folder / "share.json"
        self._shared = -SHARE_SECONDS
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def leg(self, name: str, what: str) -> None:
        """Say which leg of the trial is at hand, and what it does."""
        self.say(f"leg {name}: {what}")

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


def leg_in(lines: Sequence[str]) -> str:
    """The leg that a trial with this log is at; empty when it has none."""
    found = [line[1] for line in map(LEG.match, lines) if line]
    return found[-1] if found else ""
