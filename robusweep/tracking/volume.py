"""Hypervolume of a sweep in MLflow: how it grew point by point, and what each point of the front adds to it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from robusweep.front import Objective, Point
from robusweep.hypervolume import Volume, box, reference_of, shares
from robusweep.scores import pareto_ranks
from robusweep.tracking.entries import point_metrics


class PointVolumes:
    """Of the points that were scored in full and meet all constraints; the others have no part in it.

    Raises ``ValueError`` where an objective has no reference point.
    """

    def __init__(self, objectives: Sequence[Objective], points: Sequence[Point]) -> None:
        self.reference = reference_of(objectives)
        self._n = len(objectives)
        self._rows = [None if _is_out(p) else shares(point_metrics(p), objectives) for p in points]
        self._ids = [point.id for point in points]

    def stored(self) -> str:
        return json.dumps(self.reference)

    def history(self) -> list[float]:
        """The hypervolume of the first point, of the first two, and so on."""
        volume = Volume(self._n)
        return [volume.value if row is None else volume.add(row) for row in self._rows]

    def contributions(self) -> dict[str, float]:
        """Point id -> percentage of the volume that would be gone without it; 0 for a dominated one."""
        there = [(name, row) for name, row in zip(self._ids, self._rows, strict=True) if row is not None]
        ranks = pareto_ranks([row for _, row in there], ["max"] * self._n)
        near = [i for i, rank in enumerate(ranks) if rank <= 2]  # what stands behind the front can take its place
        rows = np.array([there[i][1] for i in near], dtype=np.float64).reshape(len(near), self._n)
        whole = box(rows)
        lost = dict.fromkeys(self._ids, 0.0)
        for k, i in enumerate(near):
            if ranks[i] == 1 and whole > 0:
                lost[there[i][0]] = 100 * (whole - box(np.delete(rows, k, axis=0))) / whole
        return lost


def _is_out(point: Point) -> bool:
    return point.stopped is not None or bool(point.violated)
