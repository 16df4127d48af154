"""Rates with their counts and intervals, calibration, and the geometry of a Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from robusweep.spec import Spec

Goal = Literal["max", "min"]
Z95 = 1.959963984540054  # two-sided 95 % normal quantile
TINY = 1e-12  # what rounding may add to a difference of rates


class Rate(Spec):
    """A fraction in [0, 1] with its 95 % Wilson interval and its denominator ``n``.

    Without a denominator (``n == 0``: no example was there to count) nothing is known: value 0, interval [0, 1].
    """

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Rate:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"a rate's interval must hold its value: {self.low} <= {self.value} <= {self.high}")
        return self

    @classmethod
    def of(cls, k: int, n: int) -> Rate:
        """``k`` of ``n``, with the Wilson (1927) score interval at 95 %."""
        if not 0 <= k <= n:
            raise ValueError(f"{k} of {n} is not a rate")
        if n == 0:
            return cls(value=0.0, low=0.0, high=1.0, n=0)
        p, zz = k / n, Z95 * Z95
        centre = (p + zz / (2 * n)) / (1 + zz / n)
        half = Z95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
        return cls(value=p, low=min(p, max(0.0, centre - half)), high=max(p, min(1.0, centre + half)), n=n)


class Comparison(Spec):
    """Two systems on the same examples: who is right where, and how far the difference could be chance.

    ``difference``: accuracy of the first minus that of the second, with its 95 % interval for paired proportions
    (Newcombe 1998, method 10). ``p_value``: exact two-sided McNemar test on the examples where they differ.
    """

    first: Rate
    second: Rate
    n_only_first: int = Field(ge=0)
    n_only_second: int = Field(ge=0)
    difference: float
    low: float
    high: float
    p_value: float = Field(ge=0, le=1)

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Comparison:
        """From what each system gets right, in the same order of examples."""
        if len(first) != len(second) or not first:
            raise ValueError(f"a paired comparison needs the same examples: {len(first)} and {len(second)}")
        n = len(first)
        only_first = sum(a and not b for a, b in zip(first, second, strict=True))
        only_second = sum(b and not a for a, b in zip(first, second, strict=True))
        one, two = Rate.of(sum(first), n), Rate.of(sum(second), n)
        both, neither = sum(first) - only_first, n - sum(second) - only_first
        phi = _phi(both, only_first, only_second, neither)
        below = _combined(one.value - one.low, two.high - two.value, phi)
        above = _combined(one.high - one.value, two.value - two.low, phi)
        difference = one.value - two.value
        return cls(
            first=one,
            second=two,
            n_only_first=only_first,
            n_only_second=only_second,
            difference=difference,
            low=max(-1.0, difference - below),
            high=min(1.0, difference + above),
            p_value=mcnemar(only_first, only_second),
        )


class Gap(Spec):
    """The difference of two rates over different examples, with its 95 % interval (Newcombe 1998, method 10)."""

    first: Rate
    second: Rate
    difference: float
    low: float
    high: float

    @classmethod
    def of(cls, first: Rate, second: Rate) -> Gap:
        difference = first.value - second.value
        below = math.hypot(first.value - first.low, second.high - second.value)
        above = math.hypot(first.high - first.value, second.value - second.low)
        low, high = max(-1.0, difference - below), min(1.0, difference + above)
        return cls(first=first, second=second, difference=difference, low=low, high=high)


def _phi(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Correlation of two paired proportions, continuity-corrected as Newcombe does."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    cross = both * neither - only_first * only_second
    if cross > 0:
        cross = max(cross - (both + only_first + only_second + neither) // 2, 0)
    return float(cross / math.sqrt(margins))


def _combined(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value from the numbers of examples that one system alone gets right."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family of tests, in the same order (Holm 1979).

    Whoever rejects what is at most 0.05 here is wrong about any of the family with a chance of at most 0.05.
    """
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = so_far
    return adjusted


def clean_accuracy(logits: NDArray[np.float32], labels: Sequence[int]) -> Rate:
    """Right / all. ``logits`` is [n, classes]; a row that is not finite counts as wrong."""
    return Rate.of(int(is_right(logits, labels).sum()), len(labels))


def is_right(logits: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.bool_]:
    """[n]: whether the largest logit is the label's; False for a row that is not finite."""
    right: NDArray[np.bool_] = (logits.argmax(axis=1) == np.asarray(labels)) & np.isfinite(logits).all(axis=1)
    return right


def summary(values: Sequence[float]) -> tuple[float | None, float | None]:
    """(median, 90th percentile), or (None, None) of nothing."""
    return (float(median(values)), float(np.percentile(values, 90))) if values else (None, None)


def fit_temperature(logits: NDArray[np.float32], labels: Sequence[int]) -> float:
    """The temperature T > 0 that minimises the cross-entropy of softmax(logits / T), within [0.001, 10,000].

    Guo et al. 2017, section 4.2, with one more observation spread evenly over the classes (ours): where every example
    is right, the cross-entropy alone falls until T is 0, and saturated probabilities would look robust. Rows that are
    not finite are left out; without any row T is 1. Golden-section search on log T (the loss is unimodal in it).
    """
    finite = np.isfinite(logits).all(axis=1)
    rows, truth = logits[finite].astype(np.float64), np.asarray(labels)[finite]
    if len(rows) == 0:
        return 1.0

    def loss(log_t: float) -> float:
        scaled = rows / math.exp(log_t)
        scaled -= scaled.max(axis=1, keepdims=True)
        surprise = np.log(np.exp(scaled).sum(axis=1, keepdims=True)) - scaled
        return float(surprise[np.arange(len(rows)), truth].sum() + surprise.mean())

    low, high, ratio = math.log(1e-3), math.log(1e4), (math.sqrt(5) - 1) / 2
    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)


def _as_maximised(points: Sequence[Sequence[float]], goals: Sequence[Goal]) -> NDArray[np.float64]:
    signs = np.array([1.0 if goal == "max" else -1.0 for goal in goals])
    maximised: NDArray[np.float64] = np.asarray(points, dtype=np.float64).reshape(len(points), len(goals)) * signs
    return maximised


def pareto_ranks(points: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[int]:
    """Non-dominated rank of each point, 1 for the front. Equal points share a rank.

    A point dominates another when it is no worse in every objective and better in at least one. Points are met in
    falling order, so that none is dominated by a later one; the first front with nobody who dominates it is found by
    bisection, since whoever is dominated from one front is dominated from every earlier one (Zhang et al. 2015).
    """
    if not points:
        return []
    unique, places = np.unique(_as_maximised(points, goals), axis=0, return_inverse=True)
    fronts: list[list[NDArray[np.float64]]] = []
    ranks = np.zeros(len(unique), dtype=int)
    for i in range(len(unique) - 1, -1, -1):  # rising in np.unique's order
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            if (np.asarray(fronts[middle]) >= unique[i]).all(axis=1).any():
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append([])
        fronts[low].append(unique[i])
        ranks[i] = low + 1
    found: list[int] = ranks[places.reshape(-1)].tolist()
    return found


def knee(points: Sequence[Sequence[float]], goals: Sequence[Goal]) -> int | None:
    """Index of the front's knee: the largest sum of objectives, each scaled to [0, 1] over the front.

    With two objectives this is the point farthest from the line through the front's two ends. Ties go to the larger
    first objective, then to the earlier point.
    """
    if not points:
        return None
    values = _as_maximised(points, goals)
    front = [i for i, rank in enumerate(pareto_ranks(points, goals)) if rank == 1]
    spread = values[front].max(axis=0) - values[front].min(axis=0)
    scaled = (values - values[front].min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return max(front, key=lambda i: (round(float(scaled[i].sum()), 12), float(values[i][0]), -i))


def lexicographic_choice(
    points: Sequence[Sequence[float]], goals: Sequence[Goal], tolerances: Sequence[float]
) -> int | None:
    """Index of the point that is left when each objective in turn keeps those within its tolerance of the best left.

    Among several, the best in the last objective is taken, then in the one before it, then the earlier point. No other
    point dominates it.
    """
    if not points:
        return None
    values = _as_maximised(points, goals)
    left = np.arange(len(values))
    for column, tolerance in zip(values.T, tolerances, strict=True):
        left = left[column[left] >= column[left].max() - tolerance - TINY]
    return max(left.tolist(), key=lambda i: (*values[i][::-1].tolist(), -i))


def hypervolume(points: Sequence[Sequence[float]], goals: Sequence[Goal], reference: Sequence[float]) -> float:
    """The volume that the points dominate above ``reference`` (a point in the same units).

    Exact for any number of objectives, by slicing along the last one.
    """
    values = _as_maximised(points, goals) - _as_maximised([reference], goals)
    return _volume(values[(values > 0).all(axis=1)])


def _volume(values: NDArray[np.float64]) -> float:
    if len(values) == 0:
        return 0.0
    if values.shape[1] == 1:
        return float(values.max())
    if values.shape[1] == 2:
        falling = values[np.argsort(-values[:, 0])]
        heights = np.maximum.accumulate(falling[:, 1])
        return float((-np.diff(falling[:, 0], append=0.0) * heights).sum())
    total, upper = 0.0, values[np.argsort(-values[:, -1])]
    for i, height in enumerate(upper[:, -1]):
        below = float(upper[i + 1, -1]) if i + 1 < len(upper) else 0.0
        if height > below:
            total += (float(height) - below) * _volume(upper[: i + 1, :-1])
    return total


def metric_value(name: str, metrics: Mapping[str, float]) -> float:
    """The finite value of a metric by name. Raises ``ValueError`` when it is missing or not finite."""
    value = metrics.get(name)
    if value is None or not math.isfinite(value):
        raise ValueError(f"metric {name!r} is {value!r}; it was expected to be a finite number")
    return value
