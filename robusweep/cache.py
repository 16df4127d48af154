"""Content-addressed results of stages: no work is done twice, by one process or by many.

An entry is a folder ``<root>/<stage>/<digest>``. It is made under a temporary name and renamed when whole; a manifest
holds the checksum of each file, verified when read. A lock file per entry lets one process compute while others wait;
the lock goes with its process, so a kill leaves nothing stale. A corrupt entry is set aside, reported and made again.
What a process has asked for it also holds, by a second lock, so that nobody takes it out before it has been read. The
time of the first lock's file tells when an entry was last asked for.
With a store, what is not here is looked for there first, and what was made is pushed. No lock reaches that far: two
machines may make the same entry at once, and the copy that is whole first stays in the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robusweep.record import AttackOutcome, write_json
from robusweep.spec import canonical_json, digest_of
from robusweep.storage import MANIFEST, Store, checksum_of

PUSH_SECONDS = 60.0  # between two pushes of outcomes while an attack runs


class Cache:
    """Stage results below ``root``; with a ``store``, also in it."""

    def __init__(self, root: Path, store: Store | None = None) -> None:
        self.root, self._store = root, store
        self._kept: set[Path] = set()  # entries that are known to be in the store
        self._held: dict[Path, int] = {}  # entry -> descriptor of the file whose lock holds it
        weakref.finalize(self, _close, self._held)

    def get_or_make(self, stage: str, key: dict[str, Any], make: Callable[[Path], None]) -> tuple[Path, bool]:
        """(the entry's folder, whether it was there already). ``make`` fills an empty folder; it runs at most once.

        ``key`` is everything that the stage reads. When ``make`` raises, nothing is left behind. As long as this cache
        is there, ``taken_out`` leaves the entry alone.
        """
        entry = self.root / stage / digest_of(key)
        with _locked(_lock_of(entry)):
            cached = self._intact(entry) or self._fetched(entry)
            if not cached:
                self._make(entry, key, make)
            self._hold(entry)
        self._keep(entry)
        return entry, cached

    def _make(self, entry: Path, key: dict[str, Any], make: Callable[[Path], None]) -> None:
        for left in entry.parent.glob(f".{entry.name}.*/"):  # by a process that was killed while it made this entry
            shutil.rmtree(left)
        with _temporary(entry) as temporary:
            make(temporary)
            files = {p.name: checksum_of(p) for p in sorted(temporary.iterdir())}
            write_json(temporary / MANIFEST, {"key": key, "files": files})
            if self._store is not None:
                self._store.owe(_key(entry))
            temporary.rename(entry)

    def _fetched(self, entry: Path) -> bool:
        """Whether the store had the entry, which is then here."""
        store = self._store
        if store is None:
            return False
        with _temporary(entry) as temporary:
            manifest = store.attempt(lambda: store.fetch_folder(_key(entry), temporary))
            if manifest is None:
                return False
            write_json(temporary / MANIFEST, manifest)
            temporary.rename(entry)
        self._kept.add(entry)
        return True

    def _keep(self, entry: Path) -> None:
        """Push an entry, once; also what was here before there was a store."""
        if self._store is not None and entry not in self._kept and self._store.keep(_key(entry)):
            self._kept.add(entry)

    def _hold(self, entry: Path) -> None:
        if entry not in self._held:
            self._held[entry] = os.open(_holders_of(entry), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._held[entry], fcntl.LOCK_SH)

    def _intact(self, entry: Path) -> bool:
        if not entry.is_dir():
            return False
        try:
            files = json.loads((entry / MANIFEST).read_text())["files"]
            wrong = [name for name, checksum in files.items() if checksum_of(entry / name) != checksum]
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
        store = self._store
        with _locked(_lock_of(path)):
            if store is None:
                yield OutcomeLog(path)
                return
            is_there = store.attempt(lambda: store.grow(_key(path)))
            log = OutcomeLog(path, push=lambda: store.keep(_key(path)), is_pushed=bool(is_there))
            try:
                yield log
            finally:
                log.push()


class OutcomeLog:
    """Attack outcomes as checksummed JSON lines. A torn or damaged line is dropped: its example is attacked again.

    ``push`` is called now and then while outcomes come in. ``is_pushed``: it need not be for those that are there.
    """

    def __init__(self, path: Path, push: Callable[[], object] | None = None, *, is_pushed: bool = True) -> None:
        self.path = path
        self._push, self._is_pushed, self._tried = push, is_pushed, time.monotonic()
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
        self._is_pushed = False
        if time.monotonic() - self._tried >= PUSH_SECONDS:
            self.push()

    def push(self) -> None:
        """Have outcomes pushed that were not, where they have somewhere to go."""
        if self._push is not None and not self._is_pushed and self.path.is_file():
            self._push()
            self._is_pushed = True
        self._tried = time.monotonic()

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


def _key(path: Path) -> str:
    """An entry's, or a log's, name in the store: ``cache/<stage>/<name>``."""
    return f"cache/{path.parent.name}/{path.name}"


@contextmanager
def _temporary(entry: Path) -> Iterator[Path]:
    """A folder beside the entry, which is gone afterwards unless it has become the entry."""
    folder = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def last_use(path: Path) -> float:
    """When an entry or a log was last asked for or written to, in seconds since the epoch.

    Raises ``FileNotFoundError`` when it has gone.
    """
    times = [path.stat().st_mtime]
    with suppress(FileNotFoundError):  # of a cache that was copied, say
        times.append(_lock_of(path).stat().st_mtime)
    return max(times)


def taken_out(path: Path, *, unused_since: float, dry_run: bool = False) -> bool:
    """Remove an entry or a log, unless somebody has asked for it since, waits for it or holds it; whether it is gone.

    It goes under its lock and in one step, so that who comes next finds nothing, and makes it again. ``dry_run``:
    only tell.
    """
    with _free(_lock_of(path)) as is_free, _free(_holders_of(path)) as is_held_by_nobody:
        try:
            if not is_free or not is_held_by_nobody or last_use(path) > unused_since:
                return False
            if dry_run:
                return True
            if path.is_dir():
                aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
                path.rename(aside)
                shutil.rmtree(aside)
            else:
                path.unlink()
        except FileNotFoundError:  # somebody else was quicker
            return False
    return True


def rest_taken_out(folder: Path, *, dry_run: bool = False) -> bool:
    """Remove what a process that was killed left of an entry, unless one is making it now; whether it is gone."""
    name = folder.name.split(".")[1]
    with _free(folder.with_name(f".{name}.lock")) as is_free:
        if is_free and not dry_run:
            shutil.rmtree(folder, ignore_errors=True)
        return is_free


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _holders_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.held.lock")


@contextmanager
def _free(path: Path) -> Iterator[bool]:
    """Whether a lock could be had at once; it is kept meanwhile. Its file keeps its time, and a new one has none."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if is_new:
            os.utime(path, (0, 0))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(path)
        yield


def _close(descriptors: dict[Path, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
