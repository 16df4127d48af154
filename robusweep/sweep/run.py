"""Start a sweep, or go on with it: the same command does both."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from robusweep import trial
from robusweep.assignment import check_data, resolved_sweep
from robusweep.compare import against_reference
from robusweep.environment import environment
from robusweep.errors import MissingError, UsageError
from robusweep.front import Point
from robusweep.recipe import NAME, Recipe, SweepPlan
from robusweep.record import TrialRecord, write_json, write_text
from robusweep.report import write_reports
from robusweep.stored import work_stored
from robusweep.sweep.cluster import Cluster
from robusweep.sweep.driver import Driver
from robusweep.sweep.identity import check_same, forked, identity_of, read_json
from robusweep.sweep.mirror import Mirror, mirrored
from robusweep.sweep.stop import Stop, stopped_readably

Say = Callable[[str], None]
SYNC_SECONDS = 60.0  # between two writings of reports and MLflow while trials run
HERE = Cluster()
PAUSE = 10  # times as long as writing took, at least, until the next: a tenth of the driver's time, however many points


@dataclass(frozen=True)
class Finished:
    """What a sweep came to."""

    name: str
    run_dir: Path
    records: list[TrialRecord]
    points: list[Point]
    ended: str | None = None  # why search.stop ended it before its budget was spent

    @property
    def n_failed(self) -> int:
        return sum(record.status == "failed" for record in self.records)


def run_sweep(
    plan: SweepPlan,
    *,
    root: Path,
    say: Say,
    name: str | None = None,
    fork_of: str | None = None,
    cluster: Cluster = HERE,
    work: Callable[[str], str] = trial.work,
    track: bool = True,
) -> Finished:
    """Run the sweep to its budget and leave records, front, report and MLflow behind.

    A finished sweep trains nothing. A killed one goes on: trials that were running start again under their number,
    from their last finished stage. ``fork_of`` names the run of another recipe that this one was changed from; what
    both have in common is told and comes from the cache.

    The first Ctrl-C lets running trials end and then raises ``KeyboardInterrupt``; a second one, and SIGTERM, raise it
    at once. Raises ``UsageError`` when the folder holds another sweep or another driver runs it, and ``MissingError``
    when the disk is full.
    """
    recipe, stand_ins = resolved_sweep(plan)
    dataset = check_data(recipe)
    for stand_in in stand_ins:
        say(f"NOTICE {stand_in.notice()}")
    for note in dataset.notes:
        say(f"data: {note}")
    name = name or plan.recipe.name
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"a run can't be named {name!r}: letters, digits, dots, dashes and underscores only, 80 at most"
        )
    run_dir = root / "runs" / name
    identity = identity_of(plan, recipe, dataset)
    if fork_of is not None:
        say(forked(root / "runs" / fork_of, run_dir, identity))
    storage = plan.recipe.resources.storage
    with stopped_readably(root) as stop, _only_driver(run_dir) as killed, mirrored(storage, run_dir, say) as mirror:
        check_same(run_dir, identity)
        _write_inputs(run_dir, plan, recipe)
        driver = Driver(root, plan, recipe, stand_ins, name=name, killed=killed, mirror=mirror)
        if mirror is not None:
            mirror.begin()
            work = partial(work_stored, work)
        projections = _Projections(driver, say=say, track=track)
        driver.on_change = projections.changed
        begun = driver.study.counts()
        if driver.study.was_torn:
            say("NOTICE the study's last line was cut off, by a kill or a full disk, and is dropped; the rest is whole")
        if driver.n_waiting:
            say(f"going on: {begun['complete']} trials complete, {driver.n_waiting} start again")
        if not driver.is_over:
            _execute(driver, work, recipe=recipe, cluster=cluster, say=say, stop=stop, mirror=mirror)
            if driver.ended:
                say(f"the sweep ends: {driver.ended}")
        elif driver.ended:
            say(f"the sweep has ended already, and nothing is trained: {driver.ended}")
        else:
            say(f"all {driver.n_trials} trials are done already; nothing is trained")
        points = projections.write(finished=driver.is_over)
        if stop.n_asked:
            raise KeyboardInterrupt
    return Finished(name, run_dir, driver.records(), points, driver.ended)


def _execute(
    driver: Driver,
    work: Callable[[str], str],
    *,
    recipe: Recipe,
    cluster: Cluster,
    say: Say,
    stop: Stop,
    mirror: Mirror | None,
) -> None:
    resources, between = recipe.resources, partial(_heed, stop, driver, say, mirror)
    if resources.executor == "local":
        from robusweep.sweep.local import run_local

        n_workers = resources.max_concurrent or max(1, int((os.cpu_count() or 1) // resources.cpus))
        say(f"running on {n_workers} local worker processes")
        run_local(driver, work, n_workers=n_workers, between=between)
    else:
        from robusweep.sweep.ray_tune import run_ray

        say(f"starting {cluster}")
        run_ray(driver, work, resources=resources, cluster=cluster, stop=stop, between=between)


def _heed(stop: Stop, driver: Driver, say: Say, mirror: Mirror | None) -> None:
    """Asked once to stop, let running trials end. Raises ``KeyboardInterrupt`` when asked twice.

    And ``UsageError`` when another driver has taken the run.
    """
    if mirror is not None:
        mirror.check()
    if stop.n_asked > 1:
        raise KeyboardInterrupt
    if stop.n_asked and not driver.is_stopping:
        driver.stop()
        if driver.n_live:
            say(f"stopping: {driver.n_live} running trials are finished first; Ctrl-C again abandons them")


class _Projections:
    """Front, reports and MLflow: written from the records, and caught up by the next run where they could not be."""

    def __init__(self, driver: Driver, *, say: Say, track: bool) -> None:
        self._driver, self._say, self._track = driver, say, track
        self._notices = [stand_in.notice() for stand_in in driver.stand_ins]
        self._file = driver.run_dir / "mlflow.json"
        self._run_ids: dict[str, str] = read_json(self._file) or {}  # the next sync finds them all again
        self._next, self._next_front = time.monotonic() + SYNC_SECONDS, 0.0

    def changed(self, what: str) -> None:
        """Say what a trial came to and where the sweep stands; write again what was not written for a while."""
        driver, now, points = self._driver, time.monotonic(), None
        if now >= self._next:
            points = self.write(finished=False)
            self._next = _pause(now, SYNC_SECONDS)
        elif now >= self._next_front:
            points = driver.points(self._run_ids)
            self._next_front = _pause(now, 0.0)
        counts = driver.study.counts()
        said = [f"{counts['complete'] + counts['failed']}/{driver.n_trials} trials", what]
        if points is not None:
            said.append(f"{len(points)} points, {sum(point.pareto for point in points)} on the front")
            said += [
                f"best {label} {max(getattr(point, metric).value for point in points):.3f}"
                for label, metric in (("clean", "clean_accuracy"), ("robust", "robust_accuracy"))
                if points
            ]
        said += [f"hypervolume {volume:.4f}" for volume in driver.growth.volumes[-1:]]
        self._say(" · ".join(said))

    def write(self, *, finished: bool) -> list[Point]:
        """Write everything; the points come back with their MLflow run ids."""
        driver = self._driver
        points = driver.points(self._run_ids)
        artifacts = self._reports(points)
        if not self._track:
            return points
        from robusweep.tracking import sync

        try:
            self._run_ids = sync(
                driver.root,
                name=driver.name,
                sweep_id=driver.plan.sweep_digest()[:12],
                points=points,
                records=driver.records(),
                objectives=driver.objectives,
                artifacts=[*artifacts, driver.run_dir / "front.json"],
                recipe_yaml=as_yaml(driver.recipe),
                notices=self._notices,
                finished=finished,
            )
        except MissingError as e:
            self._say(f"NOTICE MLflow was not written ({e.message}); the next run catches up from the records")
            return points
        write_json(self._file, self._run_ids)
        points = driver.points(self._run_ids)
        self._reports(points)  # with the run ids
        return points

    def _reports(self, points: list[Point]) -> list[Path]:
        driver = self._driver
        search = driver.plan.recipe.search
        values = search.reference if search else None
        return write_reports(
            driver.run_dir,
            name=driver.name,
            points=points,
            records=driver.records(),
            objectives=driver.objectives,
            recipe_yaml=as_yaml(driver.recipe),
            notices=self._notices,
            protocol=driver.recipe.attacks.constraints.model_dump(mode="json"),
            against=against_reference(driver.run_dir, points, values) if values else None,
        )


def _pause(began: float, least: float) -> float:
    """When to write again what was written from ``began`` until now."""
    now = time.monotonic()
    return now + max(least, PAUSE * (now - began))


def as_yaml(recipe: Recipe) -> str:
    """The recipe with every default, as YAML."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _write_inputs(run_dir: Path, plan: SweepPlan, recipe: Recipe) -> None:
    source = Path(plan.file)
    write_text(run_dir / "recipe.yaml", source.read_text(encoding="utf-8"))
    write_text(run_dir / "recipe.resolved.yaml", as_yaml(recipe))
    assert plan.recipe.search is not None
    write_json(run_dir / "budget.json", {"n_trials": plan.recipe.search.budget.n_trials})
    write_json(run_dir / "environment.json", environment() | {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


@contextmanager
def _only_driver(run_dir: Path) -> Iterator[bool]:
    """One driver for a sweep. The lock goes with its process, so a kill leaves none behind.

    Yields whether the last driver was killed: one that ends in any other way takes its process id out of the file.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "LOCK").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                f"{run_dir} is being run by another process ({file.read().strip() or 'unknown'})",
                hint=f"watch it with: robusweep status {run_dir.name}",
            ) from None
        file.seek(0)
        killed = file.read() != ""
        file.truncate(0)
        file.write(f"pid {os.getpid()}\n")
        file.flush()
        try:
            yield killed
        finally:
            file.truncate(0)
