"""One point of a run, chosen by a rule that a person or a script can write down."""

from __future__ import annotations

import re
from collections.abc import Sequence

from robusweep.errors import EmptyFrontError, UsageError, nearest
from robusweep.front import Point, nearest_to_feasible

BEST = re.compile(r"(max_robust@clean|max_clean@robust)>=(.*)")
RULES = ("knee", "best", "max_robust@clean>=0.9", "max_clean@robust>=0.5")  # the numbers stand for any other


def pick(points: Sequence[Point], rule: str) -> Point:
    """``knee``, ``best``, a point's id, or the best of one accuracy among points with at least so much of the other.

    ``best`` is what the recipe's ``search.order`` says. A point that was stopped early is chosen by its id only, since
    its rates are over fewer examples; so is one that misses a constraint. Raises ``UsageError`` for a rule or id that
    does not exist, ``EmptyFrontError`` when no point meets the rule.
    """
    if found := BEST.fullmatch(rule):
        return _best(points, found[1], _fraction(rule, found[2]))
    knees = [p for p in points if p.knee]
    marked = {"knee": knees, "best": [p for p in points if p.best] or knees}  # none in a front of an earlier version
    chosen = next(iter(marked.get(rule) or [p for p in points if p.id == rule]), None)
    if chosen is None and rule in marked and (missed := nearest_to_feasible(points)):
        raise EmptyFrontError(f"there is no {rule}: {missed}", hint="name a point by its id to take it all the same")
    if chosen is None:
        near = nearest(rule, [*RULES, *(p.id for p in points)])
        raise UsageError(
            f"there is no point {rule!r} (allowed: knee, best, a point's id, max_robust@clean>=X, max_clean@robust>=X)",
            hint=f"did you mean {near!r}?" if near else "robusweep pareto NAME --all lists them",
        )
    return chosen


def _fraction(rule: str, given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{rule!r}: {given!r} is no fraction from 0 to 1", hint=f"write it as in {RULES[2]!r}")
    return value


def _best(points: Sequence[Point], rule: str, bound: float) -> Point:
    names = ("clean_accuracy", "robust_accuracy")
    other, best = names if rule.startswith("max_robust") else names[::-1]

    def value(point: Point, name: str) -> float:
        return float(getattr(point, name).value)

    whole = [point for point in points if point.stopped is None and not point.violated]
    meeting = [point for point in whole if value(point, other) >= bound]
    if not meeting:
        most = max((value(point, other) for point in whole), default=0.0)
        raise EmptyFrontError(f"no point has {other} >= {bound:g}", hint=f"the largest there is {most:.4f}")
    return min(meeting, key=lambda point: (-value(point, best), -value(point, other), point.id))
