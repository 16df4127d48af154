"""What a sweep is doing, read from its folder: no study, no Ray, from any terminal."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from robusweep.errors import EmptyFrontError, MissingError, UsageError, nearest
from robusweep.front import Point, n_epochs_saved
from robusweep.hypervolume import read_history
from robusweep.progress import leg_in, read_share
from robusweep.record import read_trial

_POINTS: TypeAdapter[list[Point]] = TypeAdapter(list[Point])


@dataclass(frozen=True)
class TrialStatus:
    """``state``: complete, failed, running, unreadable, or interrupted (no driver is there, and no record)."""

    id: str
    state: str
    last: str  # the last line of its log
    doing: str = ""  # what it was at in the last minute, with the share that is done
    leg: str = ""  # train or score, of a trial in legs that is not over

    @property
    def standing(self) -> str:
        """The state, and the leg of a trial that has two."""
        return f"{self.state}, {self.leg}" if self.leg else self.state


@dataclass(frozen=True)
class SweepStatus:
    name: str
    running: bool
    n_trials: int | None
    trials: list[TrialStatus]
    n_points: int
    n_front: int
    n_stopped: int  # points that were attacked no further
    n_queries_saved: int  # about, by early stopping, of known attacks
    n_epochs_saved: int = 0  # of training, by the same
    n_infeasible: int = 0  # points that miss a constraint
    hypervolume: float | None = None  # after the trial that was completed last
    growth: str | None = None  # the same in words, with what it took; or why there is none
    ended: str | None = None  # why search.stop ended it before its budget was spent


def find_run(root: Path, name_or_dir: str) -> Path:
    """The folder of a run, given its name or the folder itself. Raises ``UsageError`` with the nearest name."""
    for candidate in (Path(name_or_dir), root / "runs" / name_or_dir):
        if (candidate / "sweep.json").is_file() or (candidate / "trials").is_dir():
            return candidate
    names = sorted(p.name for p in (root / "runs").glob("*") if p.is_dir())
    near = nearest(name_or_dir, names)
    hint = f"did you mean {near!r}?" if near else f"runs here: {', '.join(names) or 'none yet'}"
    raise UsageError(f"there is no run {name_or_dir!r} below {root / 'runs'}", hint=hint)


def read_points(run_dir: Path) -> list[Point]:
    """All assessed points of a run. Raises ``EmptyFrontError`` when there is none, ``MissingError`` if damaged."""
    points = _points(run_dir / "front.json")
    if points is None:
        raise MissingError(
            f"{run_dir / 'front.json'} is damaged", hint="run the recipe again: it is written anew from the records"
        )
    if not points:
        raise EmptyFrontError(f"{run_dir} has no completed point yet", hint=f"robusweep status {run_dir.name}")
    return points


def read_status(run_dir: Path) -> SweepStatus:
    """The state of every trial of a run."""
    running = is_running(run_dir)
    trials = []
    for folder in sorted(run_dir.glob("trials/*")):
        log = folder / "log.txt"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        record = folder / "record.json"
        state: str = "running" if running else "interrupted"
        if record.is_file():
            state = _recorded(record)
        share = None if record.is_file() else read_share(folder)
        doing = f"{share[0]}, {share[1]:.0%}" if share else ""
        leg = "" if record.is_file() else leg_in(lines)
        trials.append(TrialStatus(folder.name, state, lines[-1] if lines else "", doing, leg))
    points = _points(run_dir / "front.json") or []
    stopped = [p.stopped for p in points if p.stopped is not None]
    n_saved = sum(s.n_queries_saved or 0 for s in stopped)
    history = read_history(run_dir)
    return SweepStatus(
        run_dir.name,
        running,
        _budget(run_dir),
        trials,
        len(points),
        sum(p.pareto for p in points),
        len(stopped),
        n_saved,
        n_epochs_saved=n_epochs_saved(points),
        n_infeasible=sum(bool(p.violated) for p in points),
        hypervolume=history.hypervolume,
        growth=history.sentence(),
        ended=history.ended,
    )


def _points(path: Path) -> list[Point] | None:
    """The points in a front's file: none when it is not there, None when it is damaged."""
    try:
        return _POINTS.validate_json(path.read_bytes()) if path.is_file() else []
    except ValidationError:
        return None


def _budget(run_dir: Path) -> int | None:
    try:
        return int(json.loads((run_dir / "budget.json").read_bytes())["n_trials"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _recorded(path: Path) -> str:
    """The status in a trial's record; a record that can't be read is no reason not to show the rest."""
    try:
        return read_trial(path).status
    except MissingError:
        return "unreadable"


def is_running(run_dir: Path) -> bool:
    """Whether a driver holds the run's lock now."""
    lock = run_dir / "LOCK"
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def is_finished(run_dir: Path) -> bool:
    """Whether every trial that was begun has a record, and there are as many as the budget, or ``search.stop`` held."""
    trials, n_trials = list(run_dir.glob("trials/*")), _budget(run_dir)
    if n_trials is None or any(not (folder / "record.json").is_file() for folder in trials):
        return False
    return len(trials) >= n_trials or read_history(run_dir).ended is not None
