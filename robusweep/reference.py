"""What every other point of a sweep is compared with: the points that have given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robusweep.front import Point
from robusweep.scores import Comparison, Rate
from robusweep.spec import Spec

ROBUST, HELD_OUT_ROBUST = "robust_accuracy", "held_out_robust_accuracy"


class AgainstReference(Spec):
    """One point and the reference point that it is compared with, on the examples that both have met.

    ``comparisons``: ``ROBUST``, ``HELD_OUT_ROBUST`` and ``accuracy_under_attack.<attack>``, as far as there are
    examples for them. ``clean``: right before any attack, on all validation texts, or on the attacked ones where no
    more was kept. ``holm_p_value``: that of robust accuracy, corrected for all rows of the table.
    """

    point: str
    reference: str
    clean: Comparison | None = None
    comparisons: dict[str, Comparison] = {}
    holm_p_value: float | None = None


class ReferenceTable(Spec):
    """Every other point against the points that have ``values``; ``references`` are their ids, none before one is done.

    ``held_out_robust``: right under every held-out attack, per example / all, by point; attacks that keep the label
    don't count.
    """

    values: dict[str, Any]
    references: list[str] = []
    rows: list[AgainstReference] = []
    held_out_robust: dict[str, Rate] = {}


def references_in(points: Sequence[Point], values: Mapping[str, Any]) -> list[Point]:
    """The points that have all these values, by id; one that was stopped early behind all others.

    None that was stopped before its training was over: it is no model of these values.
    """
    whole = [point for point in points if not point.half_trained]
    found = [point for point in whole if all(k in point.params and point.params[k] == v for k, v in values.items())]
    return sorted(found, key=lambda point: (point.stopped is not None, point.id))


def reference_of(point: Point, references: Sequence[Point], values: Mapping[str, Any]) -> Point:
    """The first reference that agrees with the point in all that both have besides ``values``, else the first."""

    def agrees(other: Point) -> bool:
        shared = (point.params.keys() & other.params.keys()) - values.keys()
        return all(point.params[key] == other.params[key] for key in shared)

    return next(filter(agrees, references), references[0])
