"""What lies in the cache, what it takes, and what of it may go: it costs the work again, and nothing else.

This machine's cache alone: what a store (``resources.storage``) holds stays there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from robusweep.cache import last_use, rest_taken_out, taken_out
from robusweep.storage import MANIFEST, OWED
from robusweep.sweep.status import is_finished, is_running

DAY = 86400.0  # seconds
TRAINED, HALTED, ANSWERS, REST, DAMAGED = "train", "halted", "queries", "unfinished", "damaged"
KINDS = {  # in the order in which they are listed; others, of another version, follow
    TRAINED: "trained adapters",
    HALTED: "half-trained states, at rungs of epochs",
    "ticket": "searches for tickets",
    "pilot": "measurements of robusweep plan --pilot",
    "attack": "outcomes of attacks, one file for each attack on each model",
    ANSWERS: "what models have answered",
    REST: "being made just now, or left by a process that was killed",
    DAMAGED: "set aside, because a checksum was wrong",
}


@dataclass(frozen=True)
class Entry:
    """``used``: when it was last asked for or written to, in seconds since the epoch."""

    kind: str
    path: Path
    n_bytes: int
    used: float


@dataclass(frozen=True)
class Group:
    """Entries of one kind, or those that go for one reason."""

    kind: str
    what: str
    n: int
    n_bytes: int
    last_use_days: float  # ago, of the one that was used last
    longest_unused_days: float


@dataclass(frozen=True)
class Pruned:
    """What went, or with ``dry_run`` what would go, by kind and reason; and how many more are held or owed."""

    dry_run: bool
    groups: list[Group]
    n_kept: int


@dataclass(frozen=True)
class _Sweep:
    """A sweep that is not over. ``needs_states``: it has rungs of epochs."""

    is_live: bool
    began: float
    needs_states: bool


def listed(root: Path) -> list[Group]:
    """What lies in ``root/cache``, by kind."""
    now, found = time.time(), sorted(_entries(root / "cache"), key=_place)
    return [_group(kind, KINDS.get(kind, ""), list(some), now) for kind, some in groupby(found, lambda e: e.kind)]


def n_owed(root: Path) -> int:
    """How many things a store has not got yet."""
    return len(_owed(root))


def prune(root: Path, *, older_than_days: float | None = None, dry_run: bool = False) -> Pruned:
    """Remove what is of no use: half-trained states, and rests of processes that were killed.

    States go when their training has ended, or when no sweep that is not over has rungs of epochs and began before they
    were last used. With ``older_than_days`` all goes that was not used for so long: asked for or written to, by
    anything. What has been used since a sweep began that runs now stays, as does what a process holds or waits for,
    and what a store has not got yet.
    """
    now, sweeps, owed = time.time(), _unfinished(root), _owed(root)
    live = min((sweep.began for sweep in sweeps if sweep.is_live), default=now)
    limit = None if older_than_days is None else now - older_than_days * DAY
    gone: dict[tuple[str, str], list[Entry]] = {}
    n_kept = 0
    for entry in sorted(_entries(root / "cache"), key=_place):
        why = _why(entry, sweeps, limit)
        if why is None:
            continue
        is_held = entry.kind != REST and (entry.used >= live or f"{entry.path.parent.name}/{entry.path.name}" in owed)
        if is_held or not _removed(entry, dry_run=dry_run):
            n_kept += 1
        else:
            gone.setdefault((entry.kind, why), []).append(entry)
    return Pruned(dry_run, [_group(kind, why, some, now) for (kind, why), some in gone.items()], n_kept)


def _why(entry: Entry, sweeps: Sequence[_Sweep], limit: float | None) -> str | None:
    """Why an entry may go; None when it stays."""
    if entry.kind == REST:
        return "left by a process that was killed"
    if entry.kind == HALTED and (training := _training(entry.path)) is not None:
        if (entry.path.parent.parent / TRAINED / training).is_dir():
            return "its training has ended"
        if not any(sweep.needs_states and entry.used >= sweep.began for sweep in sweeps):
            return "no unfinished run needs it"
    return "not used for so long" if limit is not None and entry.used < limit else None


def _training(state: Path) -> str | None:
    """The entry that this training leaves when it ends; None where the state does not say."""
    try:
        return str(json.loads((state / MANIFEST).read_bytes())["key"]["training"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _removed(entry: Entry, *, dry_run: bool) -> bool:
    if entry.kind == REST:
        return rest_taken_out(entry.path, dry_run=dry_run)
    if entry.kind not in (DAMAGED, ANSWERS):
        return taken_out(entry.path, unused_since=entry.used, dry_run=dry_run)
    if not dry_run:
        if entry.kind == DAMAGED:
            shutil.rmtree(entry.path, ignore_errors=True)
        else:  # who uses answers has read them all, and writes on by name
            entry.path.unlink(missing_ok=True)
    return True


def _entries(cache: Path) -> Iterator[Entry]:
    for stage in sorted(cache.glob("*/")):
        for path in sorted(stage.iterdir()) if stage.name != Path(OWED).name else []:
            with suppress(FileNotFoundError):  # gone meanwhile
                if path.name.startswith(".corrupt."):
                    yield Entry(DAMAGED, path, _size(path), path.stat().st_ctime)  # when it was renamed
                elif not path.name.startswith("."):
                    yield Entry(stage.name, path, _size(path), last_use(path))
                elif path.is_dir():
                    yield Entry(REST, path, _size(path), path.stat().st_mtime)


def _place(entry: Entry) -> tuple[int, str]:
    order = list(KINDS)
    return (order.index(entry.kind) if entry.kind in KINDS else len(order), entry.kind)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def _group(kind: str, what: str, entries: Sequence[Entry], now: float) -> Group:
    ages = [max(0.0, now - entry.used) / DAY for entry in entries]
    return Group(kind, what, len(entries), sum(e.n_bytes for e in entries), min(ages), max(ages))


def _owed(root: Path) -> set[str]:
    """``stage/name`` of what some store has not got yet."""
    return {unquote(mark.name).removeprefix("cache/") for mark in (root / OWED).glob("*/*")}


def _unfinished(root: Path) -> list[_Sweep]:
    """A sweep that runs now is not over, whatever its folder says."""
    found = []
    for began in sorted((root / "runs").glob("*/sweep.json")):  # written once, at the first start
        run_dir = began.parent
        is_live = is_running(run_dir)
        if is_live or not is_finished(run_dir):
            found.append(_Sweep(is_live, began.stat().st_mtime, _has_rungs_of_epochs(run_dir)))
    return found


def _has_rungs_of_epochs(run_dir: Path) -> bool:
    """Also where its recipe can't be read."""
    try:
        recipe: Any = yaml.safe_load((run_dir / "recipe.resolved.yaml").read_bytes())
        early = recipe["search"]["early_stopping"]
        return early is not None and bool(early["epochs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return True


def size_text(n_bytes: float) -> str:
    """Such as ``1.4 GB``: powers of 1,000."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def age_text(days: float) -> str:
    """Such as ``3 days`` or ``5 hours``."""
    for unit, n in (("day", days), ("hour", days * 24), ("minute", days * 24 * 60)):
        if n >= 1:
            return f"{n:.0f} {unit}{'s' if round(n) != 1 else ''}"
    return "a moment"


def total_bytes(groups: Iterable[Group]) -> int:
    return sum(group.n_bytes for group in groups)
