"""What every kind of report reads from the points: axes, intervals, order, and curves over the mixing weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from robusweep.front import COSTS, UNDER_ATTACK, Objective, Point
from robusweep.report.mixes import Mixed
from robusweep.scores import Goal, Rate, pareto_ranks
from robusweep.spec import canonical_json

WEIGHT = "mix.weight"
N_BANDS_MOST = 4  # curves with more lines have a band for clean and robust accuracy only
Measured = Rate | float  # a rate has an interval; costs have none


@dataclass(frozen=True)
class Axis:
    """One drawn axis: an objective with the words for it."""

    metric: str
    goal: Goal = "max"

    @property
    def is_rate(self) -> bool:
        return self.metric not in COSTS

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
    weights: list[float]


@dataclass(frozen=True)
class Line:
    """One rate along a curve; None at a point that has no such rate."""

    name: str
    rates: list[Rate | None]
    is_held_out: bool = False


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
    """The rate, or the cost, that an objective names. Raises ``ValueError`` for a metric the point has not."""
    if metric == "clean_accuracy":
        return point.clean_accuracy
    if metric == "robust_accuracy":
        return point.robust_accuracy
    if metric in COSTS and (cost := getattr(point, metric)) is not None:
        return float(cost)
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


def best_of(points: Sequence[Point]) -> Point | None:
    """What the sweep's order picks, where that is another point than the knee."""
    return next((point for point in points if point.best and not point.knee), None)


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


def counted_costs(points: Sequence[Point]) -> list[str]:
    """The costs that any point has, training aside."""
    return [cost for cost in COSTS[1:] if any(getattr(point, cost) is not None for point in points)]


def attack_names(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.attacks))


def held_out_names(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.held_out))


def weight_curves(mixed: Mapping[str, Mixed]) -> list[WeightCurve]:
    """One curve for each trained configuration that was scored at two or more mixing weights, by trial number.

    The weight is a searched value, or stands in the named block that is one.
    """
    groups: dict[tuple[int, str], tuple[dict[str, Any], list[tuple[float, Point]]]] = {}
    for each in mixed.values():
        weight, point = each.fixed_weight, each.point
        if weight is not None:
            others = {key: value for key, value in point.params.items() if key not in {"mix", WEIGHT}}
            if "mix" in point.params and each.block.get("space"):
                others["mix.space"] = each.block["space"]
            _, members = groups.setdefault((point.trial, canonical_json(others)), (others, []))
            members.append((weight, point))
    curves = []
    for (trial, _), (others, members) in sorted(groups.items(), key=lambda item: item[0]):
        members.sort(key=lambda member: member[0])
        curve = WeightCurve(trial, others, [p for _, p in members], [w for w, _ in members])
        if len(set(curve.weights)) > 1:
            curves.append(curve)
    return curves


def curve_lines(curve: WeightCurve) -> list[Line]:
    """Clean and robust accuracy, then the accuracy under each known attack, then under each held-out one."""
    lines = [
        Line("clean accuracy", [p.clean_accuracy for p in curve.points]),
        Line("robust accuracy", [p.robust_accuracy for p in curve.points]),
    ]
    for name in attack_names(curve.points):
        lines.append(Line(Axis(UNDER_ATTACK + name).label, [_under(p.attacks, name) for p in curve.points]))
    for name in held_out_names(curve.points):
        rates = [_under(p.held_out, name) for p in curve.points]
        lines.append(Line(f"{Axis(UNDER_ATTACK + name).label} (held out)", rates, is_held_out=True))
    return lines


def line_names(curves: Sequence[WeightCurve]) -> list[str]:
    """The names of all lines: a line has the same place, and so the same style, on every curve."""
    return list(dict.fromkeys(line.name for curve in curves for line in curve_lines(curve)))


def under_attack(point: Point, attack: str) -> Rate | None:
    """The accuracy under an attack, known or held out; None where it did not run."""
    return _under(point.attacks | point.held_out, attack)


def _under(scores: Mapping[str, Mapping[str, Any]], attack: str) -> Rate | None:
    return Rate.model_validate(scores[attack]["accuracy_under_attack"]) if attack in scores else None
