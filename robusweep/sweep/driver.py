"""The driver's side of a sweep, whatever executes it: hand out assignments, take records, keep the front."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from robusweep.assignment import Assignment, PointPlan, TrainedLeg, trial_dir, trial_id
from robusweep.front import Point, assess, excesses, metrics_of, with_stand_ins
from robusweep.hypervolume import Growth, write_history
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import StandIn, TrialRecord, read_trial, write_text
from robusweep.resources import Leg
from robusweep.scores import metric_value
from robusweep.sweep.ending import Ending
from robusweep.sweep.mirror import Mirror
from robusweep.sweep.stop import disk_full, says_full
from robusweep.sweep.study import MAX_ATTEMPTS, MAX_DEATHS, Asked, Study


def _nothing(_what: str) -> None:
    """Nobody listens."""


class Driver:
    """Hands out trials until the budget is spent; told records go to disk, to the study and to ``on_change``.

    Where training and scoring take different resources, a trial is handed out twice, as two legs; the study sees one
    trial. What a training leg came to is kept in memory alone: a driver that goes on hands out the training leg again,
    which finds its adapters in the cache.

    ``recipe`` has its stand-ins in place; ``on_change`` is called after each trial with what happened, in one line.
    ``killed``: the last driver of this sweep did not end by itself, so what it was running may be what killed it.
    ``mirror``: the run's folder in a store, through which come the folders of trials that other machines have run.
    """

    def __init__(
        self,
        root: Path,
        plan: SweepPlan,
        recipe: Recipe,
        stand_ins: list[StandIn],
        *,
        name: str,
        killed: bool = True,
        mirror: Mirror | None = None,
    ) -> None:
        assert plan.recipe.search is not None
        self.root, self.name, self.plan, self.recipe, self.stand_ins = root, name, plan, recipe, stand_ins
        self._mirror = mirror
        search = plan.recipe.search
        self.objectives = with_stand_ins(search.objectives, stand_ins)
        self.constraints = with_stand_ins(search.constraints, stand_ins)
        self.n_trials, self._order = search.budget.n_trials, search.order
        self.growth = Growth(self.objectives, self.constraints)
        self.on_change: Callable[[str], None] = _nothing
        self.study = Study(self.run_dir / "study.journal", plan)
        self._live: dict[int, Asked] = {}  # handed out and not over, between their legs, too
        self._trained: dict[int, TrainedLeg] = {}  # of those, what the training leg came to
        self._between: list[int] = []  # of those, which wait for their second leg
        self._stopping = False
        self._reconcile(killed)
        for number in self.study.in_order():
            if number in self._records:
                self.growth.add(self._records[number])
        self._ending = Ending(self.run_dir, search.stop, self.n_trials)
        self._ending.look(self.growth.volumes)

    @property
    def run_dir(self) -> Path:
        return self.root / "runs" / self.name

    def _reconcile(self, killed: bool) -> None:
        """Bring the study up to what is on disk: a record that was written but not told, a curve told in part.

        What was begun and has no record, or was told and has lost it, waits to be run again.
        """
        paths = sorted(self.run_dir.glob("trials/*/record.json"))
        written = {record.number: record for record in map(_read_if_whole, paths) if record is not None}
        self._waiting: list[Asked] = []
        self._records = dict(written)  # what lies on disk, which thousands of trials need not read again and again
        self._attempts: dict[int, int] = {}  # of trials that start again: the attempt that was the last
        self._deaths: dict[int, int] = {}  # of trials whose worker was killed
        for asked in self.study.finished():
            if asked.number not in written:
                self._attempts[asked.number] = 0
                self._waiting.append(asked)
            elif written[asked.number].status == "complete":
                self._complete(asked, written[asked.number])
        for asked in self.study.orphans():
            record = written.get(asked.number)
            if record is not None and record.status == "complete":
                self._tell(asked, record)
                continue
            attempt = self.study.attempt(asked)
            if not killed or attempt < MAX_ATTEMPTS:
                self._attempts[asked.number] = attempt if killed else attempt - 1  # who ends by itself blames no trial
                self._waiting.append(asked)
            else:
                self._give_up(asked, f"the sweep was killed while it ran, in each of {MAX_ATTEMPTS} attempts")

    @property
    def n_waiting(self) -> int:
        """How many trials of earlier runs are to be run again."""
        return len(self._waiting)

    @property
    def n_live(self) -> int:
        """How many trials are handed out and not over; those between their legs count."""
        return len(self._live)

    @property
    def is_stopping(self) -> bool:
        """Whether no more trials are handed out, whatever the budget."""
        return self._stopping

    def stop(self) -> None:
        """Hand out no more trials; what is handed out may end, with both its legs."""
        self._stopping = True

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent, or ``search.stop`` holds, and every trial told."""
        return not self._live and not self._waiting and not self._any_new

    @property
    def ended(self) -> str | None:
        """Why no more trials are handed out before the budget is spent; None while they are, or when it is."""
        return self._ending.reason

    @property
    def _any_new(self) -> bool:
        return self.ended is None and sum(self.study.counts().values()) < self.n_trials

    def next_assignment(self) -> Assignment | None:
        """The next trial, or leg of one, to run; None when the budget is spent or handed out.

        Trials between their legs come first, then one that waits to start again, then a new one.
        """
        if self._between:
            return self._assignment(self._live[self._between.pop(0)])
        if self._stopping:
            return None
        if self._waiting:
            asked = self._waiting.pop(0)
            self._attempts[asked.number] += 1
            self.study.start_again(asked, self._attempts[asked.number])
        elif self._any_new:
            asked = self.study.ask()
        else:
            return None
        self._live[asked.number] = asked
        self._records.pop(asked.number, None)  # of an earlier attempt
        if self._mirror is not None:  # its worker may not see the record here
            self._path(asked.number).unlink(missing_ok=True)
        return self._assignment(asked)

    def _assignment(self, asked: Asked) -> Assignment:
        points = []
        for i, values in enumerate(self.plan.space.grid_points(asked.params)):
            params = {k: v for k, v in (asked.params | values).items() if k in self.plan.space.dimensions}
            ordered = {key: params[key] for key in self.plan.space.dimensions if key in params}
            made = self.plan.with_params(ordered)
            point = f"{trial_id(asked.number)}.{i:02d}"
            points.append(PointPlan(id=point, params=ordered, mix=made.mix, prune=made.prune))
        recipe = self.plan.with_params(asked.params)
        return Assignment(
            name=self.name,
            number=asked.number,
            recipe=recipe.model_copy(
                update={"data": self.recipe.data, "model": self._model(recipe), "attacks": self.recipe.attacks}
            ),
            params=asked.params,
            points=points,
            stand_ins=self.stand_ins,
            root=str(self.root.resolve()),
            leg=self._leg(asked.number),
            trained=self._trained.get(asked.number),
        )

    def _leg(self, number: int) -> Leg | None:
        if not self.plan.recipe.resources.in_legs:
            return None
        return "score" if number in self._trained else "train"

    def _model(self, recipe: Recipe) -> object:
        """The trial's model block (it may be searched), on the base that is really loaded."""
        return recipe.model.model_copy(update={"base": self.recipe.model.base})

    def finished(self, number: int, record_json: str | None, error: str | None = None) -> None:
        """Take what a worker handed back: a record, what it raised, or what the first leg of a trial came to.

        Raises ``MissingError`` when the trial failed for want of disk space: it is no failure of its configuration, and
        the next trial would fail as well.
        """
        if self._leg(number) == "train" and (trained := _trained_leg(record_json)) is not None:
            self._trained[number] = trained
            self._between.append(number)
            self.on_change(f"{trial_id(number)} trained; its points are scored next")
            return
        try:
            record = TrialRecord.model_validate_json(record_json) if record_json else None
        except ValidationError as e:
            record, error = None, f"the worker's record can't be read: {e}"
        failed = (error or "") if record is None else (record.error or "") if record.status == "failed" else ""
        if says_full(failed):
            said = failed.strip().splitlines()
            line = next(line for line in reversed(said) if says_full(line))
            raise disk_full(f"{trial_id(number)} could not go on ({line.strip()})", self.root)
        asked = self._live.pop(number)
        self._fetch(number, record)
        if record is None or not self._path(number).is_file():
            record = record or self._lost(asked, error or "the worker ended without a record")
            self._write(record)
        self._took(asked, record)

    def died(self, number: int, how: str) -> None:
        """A worker was killed with its trial: the trial waits to be started again, unless it has done so too often."""
        asked = self._live.pop(number)
        self._fetch(number, None)
        record = _read_if_whole(self._path(number))
        if record is not None and record.status == "complete":  # killed between writing it and handing it back
            self._took(asked, record)
            return
        deaths = self._deaths[number] = self._deaths.get(number, self.study.deaths(asked)) + 1
        if deaths < MAX_DEATHS:
            self.study.died(asked, deaths)
            self._attempts.setdefault(number, 1)
            self._waiting.append(asked)
            self.on_change(f"{trial_id(number)} {how}; it starts again, attempt {deaths + 1} of {MAX_DEATHS}")
        else:
            self._give_up(asked, f"{how}, in each of {MAX_DEATHS} attempts")

    def _give_up(self, asked: Asked, error: str) -> None:
        record = self._lost(asked, error)
        self._write(record)
        self._took(asked, record)

    def _path(self, number: int) -> Path:
        return trial_dir(self.root, self.name, number) / "record.json"

    def _fetch(self, number: int, record: TrialRecord | None) -> None:
        if self._mirror is not None and not self._path(number).is_file():
            self._mirror.fetch(number, record)

    def _write(self, record: TrialRecord) -> None:
        write_text(self._path(record.number), record.model_dump_json(indent=2) + "\n")
        if self._mirror is not None:
            self._mirror.changed(record.number)

    def _took(self, asked: Asked, record: TrialRecord) -> None:
        self._trained.pop(asked.number, None)
        record = self._tell(asked, record)
        if record.status == "complete":
            self.growth.add(record)
            self._ending.look(self.growth.volumes)
        outcome = f"{len(record.points)} points" if record.status == "complete" else f"failed: {record.error_kind}"
        self.on_change(f"{trial_id(asked.number)} {outcome}")

    def _lost(self, asked: Asked, error: str) -> TrialRecord:
        recipe = self._assignment(asked).recipe
        return TrialRecord(
            name=self.name,
            number=asked.number,
            status="failed",
            params=asked.params,
            recipe=recipe.model_dump(mode="json"),
            recipe_digest=recipe.trial_digest(),
            stand_ins=self.stand_ins,
            error=error,
            error_kind="WorkerLost",
        )

    def _tell(self, asked: Asked, record: TrialRecord) -> TrialRecord:
        """Complete with finite values for every objective, or failed: never anything in between. The record as kept."""
        told = False
        try:
            told = record.status == "complete" and self._complete(asked, record)
        except ValueError as e:
            record = record.model_copy(update={"status": "failed", "error": str(e), "error_kind": "MetricMissing"})
            self._write(record)
        if not told:
            self.study.fail(asked)
        self._records[asked.number] = record
        return record

    def _complete(self, asked: Asked, record: TrialRecord) -> bool:
        """Tell the points of a complete trial; whether there are any. Raises ``ValueError`` for a missing metric."""
        values = self._values(record)
        full = [p for p in record.points if p.stopped is None]
        beyond = {p.id: excesses(metrics_of(record, p), self.constraints) for p in full}
        if values:
            self.study.complete(asked, values, excesses=beyond)
        return bool(values)

    def _values(self, record: TrialRecord) -> list[tuple[str, dict[str, object], list[float] | None]]:
        """Each point's id, parameters and objective values; None for a point that was stopped early."""
        found: list[tuple[str, dict[str, object], list[float] | None]] = []
        for p in record.points:
            values = [metric_value(o.metric, metrics_of(record, p)) for o in self.objectives]
            found.append((p.id, p.params, values if p.stopped is None else None))
        return found

    def records(self) -> list[TrialRecord]:
        """Of all trials that are over, by number."""
        return [self._records[number] for number in sorted(self._records)]

    def points(self, run_ids: dict[str, str] | None = None) -> list[Point]:
        """All points, assessed; also written to ``front.json``, and ``history.json`` beside it."""
        points = assess(self.records(), self.objectives, run_ids, constraints=self.constraints, order=self._order)
        lines = ",\n".join(point.model_dump_json() for point in points)
        write_text(self.run_dir / "front.json", f"[\n{lines}\n]\n")
        write_history(self.run_dir, self.growth.history(ended=self.ended))
        return points


def _trained_leg(given: str | None) -> TrainedLeg | None:
    """What a training leg came to; None for anything else, such as the record of a trial that failed in it."""
    try:
        return TrainedLeg.model_validate_json(given) if given else None
    except ValidationError:
        return None


def _read_if_whole(path: Path) -> TrialRecord | None:
    """The record there; None when there is none, or a file that was cut off. Raises ``MissingError`` as read_trial."""
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return read_trial(path)
