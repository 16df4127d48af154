"""The Pareto front of a sweep: which scored points nothing else beats, and the knee among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from robusweep.errors import UsageError
from robusweep.record import Flag, PointRecord, StandIn, Stopped, TrialRecord
from robusweep.scores import Goal, Rate, knee, lexicographic_choice, metric_value, pareto_ranks
from robusweep.spec import Spec

UNDER_ATTACK = "accuracy_under_attack."
COSTS = ("train_seconds", "inference_flops", "n_parameters")  # metrics that are no rates, and better when smaller
Order = Literal["pareto", "lexicographic"]
T = TypeVar("T", "Objective", "Constraint")


class Objective(Spec):
    """One thing to optimise: ``clean_accuracy``, ``robust_accuracy``, ``accuracy_under_attack.<attack>``, or a cost.

    Costs: ``train_seconds``, what the trial's training takes; ``inference_flops``, the floating-point operations of the
    whole system for one text of validation's mean number of tokens; ``n_parameters``, what the shipped system carries.
    They are minimised unless ``goal`` says otherwise.
    """

    metric: str
    goal: Goal = "max"
    tolerance: float = Field(0.0, ge=0)
    reference_point: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _costs_are_minimised(cls, given: Any) -> Any:
        is_cost = isinstance(given, dict) and given.get("metric") in COSTS
        return {"goal": "min", **given} if is_cost else given


class Constraint(Spec):
    """A bound on a metric that objectives may name: ``{metric: clean_accuracy, at_least: 0.9}``, or ``at_most``.

    Points that meet every bound come before those that don't; the latter rank by how far they are off, the sum over
    constraints of the excess / bound. Points that were stopped early are not judged. ``tpe``, ``gp``, ``nsga2`` and
    ``nsga3`` look for points that meet the bounds; ``random`` and ``qmc`` can't. Together with early stopping a bound
    must be one on an objective.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Constraint:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a constraint has either at_least or at_most; for a range, list two")
        return self

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_least is None else '>='} {self._bound:.12g}"

    @property
    def _bound(self) -> float:
        bound = self.at_most if self.at_least is None else self.at_least
        assert bound is not None
        return bound

    def excess(self, value: float) -> float:
        """How far the value is beyond the bound, as a share of it; at most 0 where the constraint holds."""
        off = value - self._bound if self.at_least is None else self._bound - value
        return off / (abs(self._bound) or 1.0)


class Point(Spec):
    """One scored point as every reader of a sweep sees it: ``pareto --json``, ``front.json``, MLflow, the report.

    ``unaided`` and ``static`` are those of its record, and empty where there are none.
    """

    id: str
    trial: int
    params: dict[str, Any]
    clean_accuracy: Rate
    robust_accuracy: Rate
    attacks: dict[str, dict[str, Any]]
    held_out: dict[str, dict[str, Any]] = {}
    unaided: dict[str, Rate] = {}
    static: dict[str, Rate] = {}
    train_seconds: float
    inference_flops: int | None = None  # None: a record of an earlier version
    n_parameters: int | None = None
    pareto: bool
    pareto_rank: int = Field(ge=1)
    knee: bool
    best: bool = False  # what the sweep's order picks: the knee, unless search.order says otherwise
    violated: list[str] = []  # constraints that it does not meet, with its value
    flags: list[Flag] = []
    replay: bool = False
    stopped: Stopped | None = None
    run_id: str | None = None
    protocol_hash: str

    @property
    def half_trained(self) -> bool:
        """Whether it was stopped before its adapters were whole, so that its rates are none of its configuration's."""
        return self.stopped is not None and self.stopped.in_training


def with_stand_ins(wanted: Sequence[T], stand_ins: Sequence[StandIn]) -> list[T]:
    """Objectives or constraints that name an attack, named after what really ran in its place."""
    names = {f"{UNDER_ATTACK}{s.asked}": f"{UNDER_ATTACK}{s.used}" for s in stand_ins if s.what == "attack"}
    return [one.model_copy(update={"metric": names.get(one.metric, one.metric)}) for one in wanted]


def metrics_of(trial: TrialRecord, point: PointRecord) -> dict[str, float]:
    """Every number of a point that an objective or a constraint may name."""
    return point.metrics() | {"train_seconds": trial.train_seconds}


def excesses(metrics: dict[str, float], constraints: Sequence[Constraint]) -> dict[str, float]:
    """Constraint, as text -> how far beyond it a point is. Raises ``ValueError`` for a metric that it has not."""
    return {str(c): c.excess(metric_value(c.metric, metrics)) for c in constraints}


def assess(
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    run_ids: dict[str, str] | None = None,
    *,
    constraints: Sequence[Constraint] = (),
    order: Order = "pareto",
) -> list[Point]:
    """All points of the completed trials, each marked as on the front or not; at most one is the knee, one the best.

    Only points that meet all constraints are on the front. Behind them rank those that don't, by how far they are off,
    and last the points that were stopped early.

    Raises ``UsageError`` when the points were scored under different protocols: such numbers are not compared.
    """
    rows = [(trial, point) for trial in records if trial.status == "complete" for point in trial.points]
    hashes = {trial.protocol_hash for trial, _ in rows}
    if len(hashes) > 1:
        raise UsageError(
            f"points of different protocols are not compared: {sorted(hashes)}",
            hint="data, attacks or their resources changed under the run: run the recipe under another --name",
        )
    goals = [objective.goal for objective in objectives]
    metrics = [metrics_of(trial, point) for trial, point in rows]
    values = [[metric_value(o.metric, found) for o in objectives] for found in metrics]
    full = [i for i, (_, point) in enumerate(rows) if point.stopped is None]
    off = {i: excesses(metrics[i], constraints) for i in full}
    total = {i: sum(max(0.0, excess) for excess in off[i].values()) for i in full}
    feasible = [i for i in full if total[i] == 0]
    meeting = [values[i] for i in feasible]
    ranked = dict(zip(feasible, pareto_ranks(meeting, goals), strict=True))
    n_fronts = max(ranked.values(), default=0)
    places = {each: n for n, each in enumerate(sorted({t for t in total.values() if t > 0}), start=n_fronts + 1)}
    ranked |= {i: places[total[i]] for i in full if total[i] > 0}
    behind = max(ranked.values(), default=0) + 1
    at_knee = _at(feasible, knee(meeting, goals))
    tolerances = [objective.tolerance for objective in objectives]
    chosen = lexicographic_choice(meeting, goals, tolerances) if order == "lexicographic" else None
    best = at_knee if order == "pareto" else _at(feasible, chosen)
    return [
        Point(
            id=point.id,
            trial=trial.number,
            params=point.params,
            clean_accuracy=point.clean_accuracy,
            robust_accuracy=point.robust_accuracy,
            attacks={name: score.model_dump(mode="json") for name, score in point.attacks.items()},
            held_out={name: score.model_dump(mode="json") for name, score in point.held_out.items()},
            unaided=point.unaided,
            static=point.static,
            train_seconds=trial.train_seconds,
            inference_flops=point.inference_flops,
            n_parameters=point.n_parameters,
            pareto=ranked.get(i) == 1 and total[i] == 0,
            pareto_rank=ranked.get(i, behind),
            knee=i == at_knee,
            best=i == best,
            violated=[
                f"{c} (it is {metrics[i][c.metric]:.4g})" for c in constraints if i in off and off[i][str(c)] > 0
            ],
            flags=point.flags,
            replay=point.replay,
            stopped=point.stopped,
            run_id=(run_ids or {}).get(point.id),
            protocol_hash=trial.protocol_hash,
        )
        for i, (trial, point) in enumerate(rows)
    ]


def _at(rows: Sequence[int], place: int | None) -> int | None:
    return None if place is None else rows[place]


def nearest_to_feasible(points: Sequence[Point]) -> str | None:
    """Where points were scored in full and none meets the constraints: the one that misses them by least, in words."""
    whole = [point for point in points if point.stopped is None]
    if not whole or not all(point.violated for point in whole):
        return None
    nearest = min(whole, key=lambda point: (point.pareto_rank, point.id))
    return f"no point meets the constraints; {nearest.id} is nearest: {', '.join(nearest.violated)}"


def n_epochs_saved(points: Sequence[Point]) -> int:
    """Epochs of training that early stopping has saved; what all points of a trial say counts once."""
    saved = {p.trial: p.stopped.n_epochs_saved or 0 for p in points if p.stopped and p.stopped.n_epochs_saved}
    return sum(saved.values())


SHORT = {"weight": "l", "radius": "eps", "rank": "r", "learning_rate": "lr", "n_epochs": "ep", "n_steps": "k"}


def short_name(point_id: str, params: dict[str, Any]) -> str:
    """``t015 l=0.7 eps=0.09 r=8``: the trial and the searched values, short enough for a table."""
    parts = []
    for key, value in params.items():
        leaf = re.sub(r".*\.(?!\d+$)", "", key)  # a number alone names nothing: adversarial.0
        shown = f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)
        parts.append(f"{SHORT.get(leaf, leaf)}={shown}")
    return " ".join([point_id.split(".")[0], *parts])
