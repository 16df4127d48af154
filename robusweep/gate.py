"""Conditions on a run, for scripts that go on only when a model is good enough."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from robusweep.errors import EmptyFrontError, UsageError, nearest
from robusweep.front import UNDER_ATTACK, Point, nearest_to_feasible
from robusweep.pick import pick
from robusweep.scores import Rate

ANY = "any"
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|>|<)\s*(\S+)\s*")
EXAMPLE = "robust_accuracy.low >= 0.4 and clean_accuracy >= 0.9"


@dataclass(frozen=True)
class Condition:
    """``metric sign number``; the metric may end in ``.low`` or ``.high``, the bounds of its 95 % interval."""

    metric: str
    sign: str
    number: float

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.number:g}"


@dataclass(frozen=True)
class Checked:
    """One condition on one point: what was there, and whether it holds."""

    condition: str
    value: float
    holds: bool


@dataclass(frozen=True)
class Gate:
    """What became of the conditions: of the point that was picked, or of the one that meets most of them."""

    point: str
    passed: bool
    checked: list[Checked]


def conditions_in(expressions: Sequence[str]) -> list[Condition]:
    """The conditions of expressions such as ``EXAMPLE``; all of them must hold. Raises ``UsageError``."""
    found = []
    for part in (part for one in expressions for part in re.split(r"\band\b|,", one)):
        match = CONDITION.fullmatch(part)
        try:
            number = float(match[3]) if match else float("nan")
        except ValueError:
            number = float("nan")
        if match is None or number != number:
            raise UsageError(
                f"{part.strip()!r} is no condition: METRIC, one of {' '.join(COMPARE)}, and a number",
                hint=f"robusweep gate my-run {EXAMPLE!r}",
            )
        found.append(Condition(match[1], match[2], number))
    return found


def gate(points: Sequence[Point], expressions: Sequence[str], rule: str = "knee") -> Gate:
    """Whether the point that ``rule`` picks meets every condition; with ``any``, whether some point does.

    Points that were stopped early or miss a constraint are left out by ``any``. Raises ``UsageError`` for a metric that
    a point has not, ``EmptyFrontError`` where no point is left.
    """
    wanted = conditions_in(expressions)
    whole = [point for point in points if point.stopped is None and not point.violated]
    if rule == ANY and not whole:
        raise EmptyFrontError(nearest_to_feasible(points) or "no point was scored to the end")
    tried = [_checked(point, wanted) for point in (whole if rule == ANY else [pick(points, rule)])]
    return max(tried, key=lambda one: sum(checked.holds for checked in one.checked))


def _checked(point: Point, wanted: Sequence[Condition]) -> Gate:
    metrics, checked = metrics_of_point(point), []
    for condition in wanted:
        if condition.metric not in metrics:
            near, names = nearest(condition.metric, metrics), [n for n in metrics if not n.endswith((".low", ".high"))]
            raise UsageError(
                f"{point.id} has no metric {condition.metric!r} (there are {', '.join(names)}; rates take .low, .high)",
                hint=f"did you mean {near!r}?" if near else None,
            )
        value = metrics[condition.metric]
        checked.append(Checked(str(condition), value, COMPARE[condition.sign](value, condition.number)))
    return Gate(point.id, all(one.holds for one in checked), checked)


def metrics_of_point(point: Point) -> dict[str, float]:
    """Every number that a condition may name: rates with their bounds, costs, and counts of flags."""
    rates = {"clean_accuracy": point.clean_accuracy, "robust_accuracy": point.robust_accuracy}
    for kind, score in {**point.attacks, **point.held_out}.items():
        rates[UNDER_ATTACK + kind] = Rate.model_validate(score["accuracy_under_attack"])
    numbers = {"train_seconds": point.train_seconds, "n_flags": float(len(point.flags))}
    costs = {"inference_flops": point.inference_flops, "n_parameters": point.n_parameters}
    numbers |= {name: float(cost) for name, cost in costs.items() if cost is not None}
    for name, rate in rates.items():
        numbers |= {name: rate.value, f"{name}.low": rate.low, f"{name}.high": rate.high}
    return numbers
