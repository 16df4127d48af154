"""A run's folder in the store: fetched when the sweep goes on elsewhere, pushed while it runs, held by one driver."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from robusweep.assignment import trial_id
from robusweep.errors import MissingError, UsageError
from robusweep.record import TrialRecord, read_trial, write_text
from robusweep.storage import Store, StoreError, checksum_of, fetch_trial, whole_lines

LEASE, JOURNAL, TOKEN, WANTED = "LEASE.json", "study.journal", ".lease", ".wanted"
OWN = ("LOCK", "mlflow.json", LEASE)  # of one machine alone
LEASE_SECONDS = 120.0  # a lease that was not renewed for so long is of a driver that is gone
ROUND_SECONDS = 15.0  # between two pushes: so much of the driver's own files goes with a machine that is lost

Say = Callable[[str], None]


@contextmanager
def mirrored(url: str | None, run_dir: Path, say: Say) -> Iterator[Mirror | None]:
    """The run's mirror, which holds the run; nothing without a store. ``run_dir`` lies in ``runs/`` of the root."""
    if url is None:
        yield None
        return
    mirror = Mirror(Store(url, run_dir.parent.parent, pause=0), run_dir, say)
    try:
        mirror.take()
        yield mirror
    finally:
        mirror.end()


class Mirror:
    """The run's folder and its copy. ``take`` comes first, then ``begin``, and ``end`` whatever happens."""

    def __init__(self, store: Store, run_dir: Path, say: Say) -> None:
        self._store, self._run_dir, self._say = store, run_dir, say
        store.notice = say
        self._key, self._trials = f"runs/{run_dir.name}", f"runs/{run_dir.name}/trials"
        self._token = uuid.uuid4().hex
        self._pushed: dict[str, tuple[int, int]] = {}  # the driver's own files, as they were: time and size
        self._is_ours, self._taken_by = False, ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """As nothing: Ray Tune pickles what it is given, to a file that nobody reads."""
        return (type(None), ())

    # ------------------------------------------------------------------------------------------- start
    def take(self) -> None:
        """Get hold of the run, and of what was done elsewhere.

        Raises ``UsageError`` when another driver holds it, or when both sides have finished what the other lacks, and
        ``MissingError`` when the store can't be reached: what it holds of this run would not be known.
        """
        try:
            self._refuse_another()
            self._renew()
            self._fetch()
        except StoreError as e:
            raise MissingError(
                f"resources.storage: {e}",
                hint="set it right, or go on without it for now: add resources.storage=null to the command",
            ) from e

    def _refuse_another(self) -> None:
        lease, own = self._lease(), self._run_dir / TOKEN
        age = time.time() - lease.get("at", 0.0)
        is_ours = own.is_file() and own.read_text() == lease.get("token")  # of a driver here, whose lock is gone
        if age < LEASE_SECONDS and not is_ours:
            raise UsageError(
                f"{self._store.url}/{self._key} is being run by {_holder(lease)}, seen {max(0.0, age):.0f} s ago",
                hint=f"if it is gone, give the same command again in {LEASE_SECONDS - age:.0f} s",
            )

    def _lease(self) -> dict[str, Any]:
        try:
            found = json.loads(self._store.read(f"{self._key}/{LEASE}") or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) and isinstance(found.get("at", 0.0), float) else {}

    def _renew(self, *, at: float | None = None) -> None:
        lease = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid()}
        text = json.dumps(lease | {"at": time.time() if at is None else at})
        write_text(self._run_dir / TOKEN, self._token)
        self._store.write(f"{self._key}/{LEASE}", text.encode())
        self._is_ours = True

    def _fetch(self) -> None:
        """Bring the folder up to what the store holds; the journal last, so that a kill leaves no half of it."""
        journal = self._run_dir / JOURNAL
        here = whole_lines(journal.read_bytes() if journal.is_file() else b"")
        there = whole_lines(self._store.read(f"{self._key}/{JOURNAL}") or b"")
        is_behind = not here.startswith(there)
        if is_behind and not there.startswith(here):
            self._refuse_to_lose()
        trials = [name for name in self._store.names(self._trials) if re.fullmatch(r"t\d+", name)]
        fetched = [name for name in trials if self._is_other(name, is_behind) and self._fetch_trial(name)]
        if is_behind:
            sizes = self._store.names(self._key)
            for name in (name for name, size in sizes.items() if size is not None):
                if name not in OWN and name != JOURNAL and not name.endswith(".partial"):
                    _replace(self._run_dir / name, self._store.read(f"{self._key}/{name}") or b"")
            _replace(journal, there)
        for record in self._run_dir.glob("trials/*/record.json"):
            if record.parent.name not in trials:  # finished before there was a store
                self._store.owe(f"{self._trials}/{record.parent.name}")
        if is_behind or fetched:
            self._say(f"from {self._store.url}: {len(fetched)} finished trials of {self._run_dir.name}")

    def _is_other(self, name: str, is_behind: bool) -> bool:
        """Whether the store holds a finished trial that is not here, or not as it is there."""
        record = self._run_dir / "trials" / name / "record.json"
        if record.is_file() and not is_behind:
            return False
        there = self._recorded(name)
        return there is not None and there != _checksum(record)

    def _recorded(self, name: str) -> str | None:
        """The checksum of a trial's record in the store; None when no finished trial is there."""
        manifest = self._store.manifest(f"{self._trials}/{name}")
        found: str | None = manifest["files"].get("record.json") if manifest else None
        return found

    def _refuse_to_lose(self) -> None:
        """Where both sides have gone on, the store's is taken, unless trials were finished here that it lacks."""
        records = sorted(self._run_dir.glob("trials/*/record.json"))
        lost = [path.parent.name for path in records if self._recorded(path.parent.name) != _checksum(path)]
        if lost:
            raise UsageError(
                f"{self._run_dir} has gone on here, and from {self._store.url} on another machine: "
                f"{', '.join(lost)} would be lost",
                hint=f"move {self._run_dir} away and give the same command again: it goes on from the store, and takes "
                "from the cache what was trained and attacked here",
            )

    # ------------------------------------------------------------------------------------------ running
    def begin(self) -> None:
        """Push from now on, every few seconds, in a thread of its own: the sweep never waits for the store."""
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise ``UsageError`` when another driver has taken the run, which it may when our lease has run out."""
        if self._taken_by:
            raise UsageError(
                f"{self._store.url}/{self._key} was taken over by {self._taken_by}, because the store was not reached "
                f"from here for {LEASE_SECONDS:.0f} s; this driver ends",
                hint=f"what was finished here is in {self._run_dir} and in the cache",
            )

    def fetch(self, number: int, record: TrialRecord | None) -> None:
        """The folder of a trial that another machine has run, or later if need be; ``record``: what it handed back."""
        name = trial_id(number)
        found = self._store.attempt(partial(self._fetch_trial, name, record))
        if not found and record is not None and record.status == "complete":
            write_text(self._run_dir / "trials" / name / WANTED, "")

    def changed(self, number: int) -> None:
        """The driver itself has written a trial's record."""
        if not (self._run_dir / "trials" / trial_id(number) / WANTED).is_file():  # the worker's copy holds more
            self._store.owe(f"{self._trials}/{trial_id(number)}")

    def _fetch_trial(self, name: str, record: TrialRecord | None = None) -> bool:
        """With a record, only a folder that holds the same one: another is of an earlier attempt."""

        def is_same(folder: Path) -> bool:
            return record is None or read_trial(folder / "record.json") == record

        return fetch_trial(self._store, f"{self._trials}/{name}", accept=is_same)

    def _go_on(self) -> None:
        while not self._taken_by:
            try:
                self._round()
            except OSError as e:  # of this machine's disk
                self._say(f"NOTICE {self._run_dir} could not be pushed just now ({e})")
            if self._over.wait(ROUND_SECONDS):
                return

    def _round(self) -> bool:
        """Renew the lease, then push: trials first, the journal last. Whether all of it is in the store."""
        if self._store.attempt(self._renewed) is None or self._taken_by:
            return False
        for path in self._run_dir.glob(f"trials/*/{WANTED}"):
            self._store.attempt(partial(self._settle, path.parent))
        is_whole = self._store.keep_owed() == 0
        files = [path for path in self._run_dir.glob("[!.]*") if path.is_file() and path.name not in OWN]
        for path in sorted(files, key=lambda path: path.name == JOURNAL):
            stamp = path.stat().st_mtime_ns, path.stat().st_size
            if self._pushed.get(path.name) != stamp:
                if not self._store.keep(f"{self._key}/{path.name}"):
                    return False
                self._pushed[path.name] = stamp
        return is_whole

    def _renewed(self) -> bool:
        lease = self._lease()
        if lease.get("token", self._token) != self._token:
            self._is_ours, self._taken_by = False, _holder(lease)
        else:
            self._renew()
        return True

    def _settle(self, folder: Path) -> bool:
        """Fetch what could not be fetched; while its worker has not pushed it, the record alone is there."""
        manifest = self._store.manifest(f"{self._trials}/{folder.name}")
        if manifest is None:
            self._store.push(f"{self._trials}/{folder.name}")
        elif len(manifest["files"]) > 1:
            self._fetch_trial(folder.name, read_trial(folder / "record.json"))
        return True

    # ---------------------------------------------------------------------------------------------- end
    def end(self) -> None:
        """Push what is left, and let the run go."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._store.try_again()
            if not self._round() and self._is_ours:
                self._say(f"NOTICE not all of {self._run_dir} is in {self._store.url}; the next run pushes the rest")
        if self._is_ours:
            self._store.attempt(partial(self._renew, at=0.0))


def _holder(lease: dict[str, Any]) -> str:
    return f"{lease.get('host', 'an unknown machine')} (process {lease.get('pid', 'unknown')})"


def _checksum(path: Path) -> str | None:
    return checksum_of(path) if path.is_file() else None


def _replace(path: Path, data: bytes) -> None:
    """All of it or none of it."""
    partial_file = path.with_name(f".{path.name}.fetched")
    partial_file.write_bytes(data)
    partial_file.replace(path)
