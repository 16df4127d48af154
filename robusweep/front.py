"""The Pareto front of a sweep: which scored points nothing else beats, and the knee among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from robusweep.errors import UsageError
from robusweep.record import Flag, PointRecord, StandIn, Stopped, TrialRecord
from robusweep.scores import Goal, Rate, knee, metric_value, pareto_ranks
from robusweep.spec import Spec

UNDER_ATTACK = "accuracy_under_attack."


class Objective(Spec):
    """One thing to optimise: ``clean_accuracy``, ``robust_accuracy``, ``accuracy_under_attack.<attack>`` or
    ``train_seconds``."""

    metric: str
    goal: Goal = "max"


class Point(Spec):
    """One scored point as every reader of a sweep sees it: ``pareto --json``, ``front.json``, MLflow, the report."""

    id: str
    trial: int
    params: dict[str, Any]
    clean_accuracy: Rate
    robust_accuracy: Rate
    attacks: dict[str, dict[str, Any]]
    held_out: dict[str, dict[str, Any]] = {}
    train_seconds: float
    pareto: bool
    pareto_rank: int = Field(ge=1)
    knee: bool
    flags: list[Flag] = []
    replay: bool = False
    stopped: Stopped | None = None
    run_id: str | None = None
    protocol_hash: str


def with_stand_ins(objectives: Sequence[Objective], stand_ins: Sequence[StandIn]) -> list[Objective]:
    """Objectives that name an attack, named after what really ran in its place."""
    names = {f"{UNDER_ATTACK}{s.asked}": f"{UNDER_ATTACK}{s.used}" for s in stand_ins if s.what == "attack"}
    return [o.model_copy(update={"metric": names.get(o.metric, o.metric)}) for o in objectives]


def metrics_of(trial: TrialRecord, point: PointRecord) -> dict[str, float]:
    """Every number of a point that an objective may name."""
    return point.metrics() | {"train_seconds": trial.train_seconds}


def assess(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], run_ids: dict[str, str] | None = None
) -> list[Point]:
    """All points of the completed trials, each marked as on the front or not; at most one is the knee.

    A point that a race has stopped is not on the front: it ranks behind every other.

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
    values = [[metric_value(o.metric, metrics_of(t, p)) for o in objectives] for t, p in rows]
    full = [i for i, (_, point) in enumerate(rows) if point.stopped is None]
    fully = [values[i] for i in full]
    ranked = dict(zip(full, pareto_ranks(fully, goals), strict=True))
    behind = max(ranked.values(), default=0) + 1
    ranks = [ranked.get(i, behind) for i in range(len(rows))]
    best = knee(fully, goals)
    at_knee = None if best is None else full[best]
    return [
        Point(
            id=point.id,
            trial=trial.number,
            params=point.params,
            clean_accuracy=point.clean_accuracy,
            robust_accuracy=point.robust_accuracy,
            attacks={name: score.model_dump(mode="json") for name, score in point.attacks.items()},
            held_out={name: score.model_dump(mode="json") for name, score in point.held_out.items()},
            train_seconds=trial.train_seconds,
            pareto=ranked.get(i) == 1,
            pareto_rank=ranks[i],
            knee=i == at_knee,
            flags=point.flags,
            replay=point.replay,
            stopped=point.stopped,
            run_id=(run_ids or {}).get(point.id),
            protocol_hash=trial.protocol_hash,
        )
        for i, (trial, point) in enumerate(rows)
    ]


SHORT = {"weight": "l", "radius": "eps", "rank": "r", "learning_rate": "lr", "n_epochs": "ep", "n_steps": "k"}


def short_name(point_id: str, params: dict[str, Any]) -> str:
    """``t015 l=0.7 eps=0.09 r=8``: the trial and the searched values, short enough for a table."""
    parts = []
    for key, value in params.items():
        leaf = re.sub(r".*\.(?!\d+$)", "", key)  # a number alone names nothing: adversarial.0
        shown = f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)
        parts.append(f"{SHORT.get(leaf, leaf)}={shown}")
    return " ".join([point_id.split(".")[0], *parts])
