"""Hypervolume of a sweep over its trials: the share of all that is possible that some point matches or beats.

Each objective is measured from a reference point, which is fixed in advance, to the best there can be: 0 and 1 are the
ends for a rate, and a cost of 0 is the best cost. So the volume lies in [0, 1], and no later point changes an earlier
value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from robusweep.front import COSTS, Constraint, Objective, excesses, metrics_of
from robusweep.record import TrialRecord, write_text
from robusweep.scores import hypervolume, metric_value
from robusweep.spec import Spec

HISTORY = "history.json"  # its name in a run's folder


class Saturation(Spec):
    """End a sweep whose hypervolume grows no more.

    When the last ``trials`` completed trials have raised it by less than the fraction ``min_gain``, and there are twice
    as many, no more trials are handed out; those that run may end. Where this block or the budget is changed
    afterwards, the sweep goes on for ``trials`` more at least.
    """

    min_gain: float = Field(0.01, gt=0, lt=1)
    trials: int = Field(8, ge=1)

    def reason(self, volumes: Sequence[float], *, since: int = 0) -> str | None:
        """Why the sweep ends, in words; None when it goes on.

        ``volumes``: after each completed trial. ``since``: how many there were when the rule was taken up again; it
        waits for ``trials`` more. Nothing ends before any point has a volume.
        """
        n = len(volumes)
        if n < max(2 * self.trials, since + self.trials) or volumes[n - 1 - self.trials] == 0:
            return None
        before, now = volumes[n - 1 - self.trials], volumes[-1]
        gain = now / before - 1
        if gain >= self.min_gain:
            return None
        return (
            f"the last {self.trials} of {n} completed trials raised the hypervolume by {gain:.2%}, "
            f"from {before:.4f} to {now:.4f}, which is less than search.stop.min_gain ({self.min_gain:.2%})"
        )


class Grown(Spec):
    """Where a sweep stood when a trial was completed; all but ``trial`` counts from the beginning on.

    ``seconds``: of tickets, training and attacks, as far as nothing came from the cache. ``n_queries``: of known
    attacks. ``hypervolume``: of the points that meet all constraints; None where there is none to compute.
    """

    trial: int
    n_points: int
    seconds: float
    n_queries: int
    hypervolume: float | None


class History(Spec):
    """``history.json``: the completed trials in the order in which they ended.

    ``reference``: objective -> value that is worth nothing. ``missing``: why there is no hypervolume. ``ended``: why
    no more trials were handed out before the budget was spent.
    """

    reference: dict[str, float] = {}
    missing: str | None = None
    ended: str | None = None
    trials: list[Grown] = []

    @property
    def hypervolume(self) -> float | None:
        """After the last trial."""
        return self.trials[-1].hypervolume if self.trials else None

    def sentence(self) -> str | None:
        """What is known of the volume, in words; None before the first trial is completed."""
        if self.missing is not None:
            return f"no hypervolume: {self.missing}"
        if self.hypervolume is None:
            return None
        last, reference = self.trials[-1], ", ".join(f"{name} {value:g}" for name, value in self.reference.items())
        return (
            f"hypervolume {self.hypervolume:.4f} after {len(self.trials)} completed trials, {last.seconds:,.0f} s of "
            f"training and attacks, {last.n_queries:,} queries (reference point: {reference})"
        )


def read_history(run_dir: Path) -> History:
    """What lies in a run's folder; an empty one when there is none, or none of this version."""
    try:
        return History.model_validate_json((run_dir / HISTORY).read_bytes())
    except (FileNotFoundError, ValidationError):
        return History()


def write_history(run_dir: Path, history: History) -> None:
    write_text(run_dir / HISTORY, history.model_dump_json() + "\n")


# ------------------------------------------------------------------------------------------------- the reference
def reference_of(objectives: Sequence[Objective]) -> dict[str, float]:
    """Objective -> value that is worth nothing. Raises ``ValueError`` where one has none, saying why."""
    found = {}
    for i, objective in enumerate(objectives):
        if objective.metric in COSTS and objective.goal == "max":
            raise ValueError(f"{objective.metric} is maximised, and a cost has no largest value")
        if objective.metric in COSTS and objective.reference_point is None:
            raise ValueError(
                f"{objective.metric} has no reference point: set search.objectives.{i}.reference_point to a cost that "
                "is worth nothing"
            )
        own = 0.0 if objective.goal == "max" else 1.0
        found[objective.metric] = own if objective.reference_point is None else objective.reference_point
    return found


def missing(objectives: Sequence[Objective]) -> str | None:
    """Why there is no hypervolume; None where there is one."""
    try:
        reference_of(objectives)
    except ValueError as e:
        return str(e)
    return None


def shares(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> list[float]:
    """How much of the way from the reference point to the best there can be, for each objective; at least 0."""
    found = []
    for objective, reference in zip(objectives, reference_of(objectives).values(), strict=True):
        ideal = 1.0 if objective.goal == "max" else 0.0
        found.append(max(0.0, (metric_value(objective.metric, metrics) - reference) / (ideal - reference)))
    return found


# -------------------------------------------------------------------------------------------------- how it grows
class Volume:
    """The volume above 0 that rows of ``n`` shares dominate together. Exact; computed anew where the front changes."""

    def __init__(self, n: int) -> None:
        self._front: NDArray[np.float64] = np.empty((0, n))
        self.value = 0.0

    def add(self, row: Sequence[float]) -> float:
        """Take one more point; the volume with it."""
        new = np.asarray(row, dtype=np.float64)
        if not (self._front >= new).all(axis=1).any():
            self.value += float(new.prod()) - box(np.minimum(self._front, new))
            self._front = np.vstack([self._front[~(self._front <= new).all(axis=1)], new])
        return self.value


def box(rows: NDArray[np.float64]) -> float:
    """The volume above 0 that rows of shares dominate together."""
    n = rows.shape[1]
    if n > 2:  # slices are taken at every row: those that another one covers make none of their own
        rows = np.unique(rows, axis=0)
        rows = rows[(rows[None] >= rows[:, None]).all(axis=2).sum(axis=1) == 1]
    return hypervolume(rows.tolist(), ["max"] * n, [0.0] * n)


class Growth:
    """The history of a sweep, trial by trial."""

    def __init__(self, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> None:
        self._objectives, self._constraints = objectives, constraints
        self._missing = missing(objectives)
        self._volume = Volume(len(objectives))
        self._trials: list[Grown] = []

    @property
    def volumes(self) -> list[float]:
        """After each completed trial; none where there is no hypervolume."""
        return [grown.hypervolume for grown in self._trials if grown.hypervolume is not None]

    def add(self, trial: TrialRecord) -> None:
        """A trial that was completed just now. Only points that were scored in full and meet all constraints count."""
        for point in trial.points if self._missing is None else []:
            metrics = metrics_of(trial, point)
            if point.stopped is None and all(e <= 0 for e in excesses(metrics, self._constraints).values()):
                self._volume.add(shares(metrics, self._objectives))
        before = self._trials[-1] if self._trials else None
        self._trials.append(
            Grown(
                trial=trial.number,
                n_points=len(trial.points) + (before.n_points if before else 0),
                seconds=spent_seconds(trial) + (before.seconds if before else 0.0),
                n_queries=_n_queries(trial) + (before.n_queries if before else 0),
                hypervolume=self._volume.value if self._missing is None else None,
            )
        )

    def history(self, *, ended: str | None = None) -> History:
        reference = {} if self._missing else reference_of(self._objectives)
        return History(reference=reference, missing=self._missing, ended=ended, trials=list(self._trials))


def spent_seconds(trial: TrialRecord) -> float:
    """What a trial spent on its ticket, on training and on attacks."""
    before = sum(s for stage, s in trial.seconds.items() if stage == "ticket" or stage.startswith("train "))
    return before + sum(s for p in trial.points for stage, s in p.seconds.items() if "attack " in stage)


def _n_queries(trial: TrialRecord) -> int:
    return sum(score.n_queries for point in trial.points for score in point.attacks.values())
