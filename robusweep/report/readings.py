"""What every kind of report reads from the points: axes, intervals, order, and curves over the mixing weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from robusweep.front import UNDER_ATTACK, Objective, Point
from robusweep.scores import Goal, Rate, pareto_ranks
from robusweep.spec import canonical_json

WEIGHT = "mix.weight"
Measured = Rate | float  # a rate has an interval; seconds have none


@dataclass(frozen=True)
class Axis:
    """One drawn axis: an objective with the words for it."""

    metric: str
    goal: Goal = "max"

    @property
    def is_rate(self) -> bool:
        return self.metric != "train_seconds"

    @property
    def label(self) -> str:
        if self.metric.startswith(UNDER_ATTACK):
            return f"accuracy under {self.metric.removeprefix(UNDER_ATTACK)}"
        return self.metric.replace("_", " ")

    @property
    def title(self) -> str:
        """The label with its unit, as it stands at the axis."""
        return f"{self.label} (%)" if self.is_rate else self.label


@dataclass(frozen=True)
class WeightCurve:
    """The points of one trained configuration over the mixing weight, by rising weight."""

    trial: int
    params: dict[str, Any]  # without the weight
    points: list[Point]

    @property
    def weights(self) -> list[float]:
        return [float(point.params[WEIGHT]) for point in self.points]


def axes_of(objectives: Sequence[Objective]) -> tuple[Axis, Axis]:
    """The x and y axis: the first two objectives. A single objective is drawn beside the clean accuracy."""
    axes = [Axis(o.metric, o.goal) for o in objectives[:2]]
    if len(axes) == 2:
        return axes[0], axes[1]
    clean, robust = Axis("clean_accuracy"), Axis("robust_accuracy")
    if not axes or axes[0].metric == clean.metric:
        return clean, robust
    return clean, axes[0]


def measured(point: Point, metric: str) -> Measured:
    """The rate, or the seconds, that an objective names. Raises ``ValueError`` for a metric the point has not."""
    if metric == "clean_accuracy":
        return point.clean_accuracy
    if metric == "robust_accuracy":
        return point.robust_accuracy
    if metric == "train_seconds":
        return point.train_seconds
    score = point.attacks.get(metric.removeprefix(UNDER_ATTACK))
    if score is None or not metric.startswith(UNDER_ATTACK):
        raise ValueError(f"point {point.id!r} has no metric {metric!r}")
    return Rate.model_validate(score["accuracy_under_attack"])


def value_of(reading: Measured) -> float:
    return reading.value if isinstance(reading, Rate) else reading


def bounds_of(reading: Measured) -> tuple[float, float]:
    """The ends of the interval; twice the value where there is none."""
    return (reading.low, reading.high) if isinstance(reading, Rate) else (reading, reading)


def front_of(points: Sequence[Point], objectives: Sequence[Objective]) -> list[Point]:
    """The points on the front by falling x value: the order in which every report numbers them."""
    x, y = axes_of(objectives)
    front = [point for point in points if point.pareto]
    return sorted(front, key=lambda p: (-value_of(measured(p, x.metric)), value_of(measured(p, y.metric)), p.id))


def knee_of(points: Sequence[Point]) -> Point | None:
    return next((point for point in points if point.knee), None)


def table_order(points: Sequence[Point], objectives: Sequence[Objective]) -> list[Point]:
    """The front in its order, then the others by rank and id."""
    rest = sorted((p for p in points if not p.pareto), key=lambda p: (p.pareto_rank, p.id))
    return [*front_of(points, objectives), *rest]


def step_line(points: Sequence[Point], objectives: Sequence[Objective]) -> list[tuple[float, float]]:
    """Corners of the line that bounds what the front dominates, in the two drawn objectives, by rising x.

    With more than two objectives only the front points that stay undominated in the drawn two are joined. A single
    objective has no such line.
    """
    if len(objectives) < 2:
        return []
    x, y = axes_of(objectives)
    values = [(value_of(measured(p, x.metric)), value_of(measured(p, y.metric))) for p in points if p.pareto]
    ranks = pareto_ranks(values, [x.goal, y.goal])
    stops = sorted({value for value, rank in zip(values, ranks, strict=True) if rank == 1})
    corners = stops[:1]
    for before, after in pairwise(stops):
        corners.append((before[0], after[1]) if x.goal == "max" else (after[0], before[1]))
        corners.append(after)
    return corners


def searched_keys(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(key for point in points for key in point.params))


def attack_names(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.attacks))


def held_out_names(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.held_out))


def weight_curves(points: Sequence[Point]) -> list[WeightCurve]:
    """One curve for each trained configuration that was scored at two or more mixing weights, by trial number."""
    groups: dict[tuple[int, str], list[Point]] = {}
    for point in points:
        if isinstance(point.params.get(WEIGHT), int | float):
            others = {key: value for key, value in point.params.items() if key != WEIGHT}
            groups.setdefault((point.trial, canonical_json(others)), []).append(point)
    curves = []
    for (trial, _), members in sorted(groups.items()):
        members.sort(key=lambda p: float(p.params[WEIGHT]))
        others = {key: value for key, value in members[0].params.items() if key != WEIGHT}
        curve = WeightCurve(trial, others, members)
        if len(set(curve.weights)) > 1:
            curves.append(curve)
    return curves


def curve_lines(curve: WeightCurve) -> dict[str, list[Rate]]:
    """Line name -> its rates along the curve: clean and robust accuracy, then accuracy under each attack."""
    lines = {
        "clean accuracy": [p.clean_accuracy for p in curve.points],
        "robust accuracy": [p.robust_accuracy for p in curve.points],
    }
    for name in attack_names(curve.points):
        axis = Axis(UNDER_ATTACK + name)
        scores = [p.attacks[name]["accuracy_under_attack"] for p in curve.points]
        lines[axis.label] = [Rate.model_validate(score) for score in scores]
    return lines
