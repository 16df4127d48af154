"""Content-addressed results of stages: no work is done twice, by one process or by many.

An entry is a folder ``<root>/<stage>/<digest>``. It is made under a temporary name and renamed when whole; a manifest
holds the checksum of each file, verified when read. A lock file per entry lets one process compute while others wait;
the lock goes with its process, so a kill leaves nothing stale. A corrupt entry is set aside, reported and made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robusweep.record import AttackOutcome, write_json
from robusweep.spec import canonical_json, digest_of

MANIFEST = "manifest.json"


class Cache:
    """Stage results below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_or_make(self, stage: str, key: dict[str, Any], make: Callable[[Path], None]) -> tuple[Path, bool]:
        """(the entry's folder, whether it was there already). ``make`` fills an empty folder; it runs at most once.

        ``key`` is everything that the stage reads. When ``make`` raises, nothing is left behind.
        """
        entry = self.root / stage / digest_of(key)
        with _locked(entry.parent / f".{entry.name}.lock"):
            if self._intact(entry):
                return entry, True
            for left in entry.parent.glob(f".{entry.name}.*/"):  # by a process that was killed while it made this entry
                shutil.rmtree(left)
            temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}."))
            try:
                make(temporary)
                files = {p.name: _checksum(p) for p in sorted(temporary.iterdir())}
                write_json(temporary / MANIFEST, {"key": key, "files": files})
                temporary.rename(entry)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return entry, False

    def _intact(self, entry: Path) -> bool:
        if not entry.is_dir():
            return False
        try:
            files = json.loads((entry / MANIFEST).read_text())["files"]
            wrong = [name for name, checksum in files.items() if _checksum(entry / name) != checksum]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:  # JSON of any shape may stand there
            wrong = [f"{MANIFEST} ({type(e).__name__})"]
        if not wrong:
            return True
        aside = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".corrupt.{entry.name}."))
        entry.rename(aside)
        warnings.warn(
            f"cache entry {entry} is corrupt ({', '.join(wrong)}); set aside as {aside.name} and made again",
            stacklevel=3,
        )
        return False

    @contextmanager
    def outcomes(self, key: dict[str, Any]) -> Iterator[OutcomeLog]:
        """The outcomes of one attack on one victim, appended example by example; held by one process at a time."""
        path = self.root / "attack" / f"{digest_of(key)}.jsonl"
        with _locked(path.with_name(f".{path.name}.lock")):
            yield OutcomeLog(path)


class OutcomeLog:
    """Attack outcomes as checksummed JSON lines. A torn or damaged line is dropped: its example is attacked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, AttackOutcome] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.split("\n"):  # splitlines would also split at U+2028 and the like inside a text
            outcome = _parsed(line)
            if outcome is not None:
                self.done[outcome.example_id] = outcome
        if text and not text.endswith("\n"):
            self._append("\n")  # the kill that tore the last line must not spoil the next one

    def append(self, outcome: AttackOutcome) -> None:
        """Add an outcome; it is on disk when this returns."""
        body = canonical_json(outcome.model_dump(mode="json"))
        self._append(f"{hashlib.sha256(body.encode()).hexdigest()[:12]} {body}\n")
        self.done[outcome.example_id] = outcome

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: str) -> AttackOutcome | None:
    checksum, _, body = line.partition(" ")
    if hashlib.sha256(body.encode()).hexdigest()[:12] != checksum:
        return None
    try:
        return AttackOutcome.model_validate_json(body)
    except ValidationError:  # written by another version
        return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
