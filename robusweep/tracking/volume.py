"""Hypervolume of a sweep: how it grew, and what each point of the front adds to it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from robusweep.front import Objective, Point
from robusweep.scores import hypervolume, metric_value, pareto_ranks
from robusweep.tracking.entries import point_metrics


class Volume:
    """Hypervolume of a sweep's points above a reference point that stays the same for the whole sweep.

    The reference is 0 for an objective that is maximised and, for one that is minimised, twice the worst value among
    the points that were there when it was first needed; a point beyond it adds nothing.
    """

    def __init__(self, objectives: Sequence[Objective], points: Sequence[Point], stored: str | None) -> None:
        self.goals = [objective.goal for objective in objectives]
        self.names = [objective.metric for objective in objectives]
        self.ids = [point.id for point in points]
        self.values = [self._values(point) for point in points]
        if stored is not None:
            self.reference = [float(value) for value in json.loads(stored).values()]
        else:
            worst = [max(column) for column in zip(*self.values, strict=True)] or [0.0] * len(self.goals)
            pairs = zip(self.goals, worst, strict=True)
            self.reference = [0.0 if goal == "max" else 2 * value for goal, value in pairs]

    def _values(self, point: Point) -> list[float]:
        metrics = point_metrics(point)
        return [metric_value(name, metrics) for name in self.names]

    def stored(self) -> str:
        return json.dumps(dict(zip(self.names, self.reference, strict=True)))

    def history(self) -> list[float]:
        """The hypervolume of the first point, of the first two, and so on."""
        front: list[list[float]] = []
        volumes: list[float] = []
        for value in self.values:
            front.append(value)
            ranks = pareto_ranks(front, self.goals)
            front = [kept for kept, rank in zip(front, ranks, strict=True) if rank == 1]
            volumes.append(hypervolume(front, self.goals, self.reference))
        return volumes

    def contributions(self) -> dict[str, float]:
        """Point id -> percentage of the volume that would be gone without it; 0 for a dominated one."""
        ranks = pareto_ranks(self.values, self.goals)
        near = [i for i, rank in enumerate(ranks) if rank <= 2]  # what stands behind the front can take its place
        whole = hypervolume([self.values[i] for i in near], self.goals, self.reference)
        lost = dict.fromkeys(self.ids, 0.0)
        for i in near:
            if ranks[i] == 1 and whole > 0:
                rest = hypervolume([self.values[j] for j in near if j != i], self.goals, self.reference)
                lost[self.ids[i]] = 100 * (whole - rest) / whole
        return lost
