"""Racing: points that are dominated on the examples seen so far are attacked no further, with a stated error rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import Field

from robusweep.spec import Spec


class Race(Spec):
    """Stop attacking a point when another is at least as accurate on clean text and surely more robust.

    After ``first`` examples, and again whenever their number has grown by the factor ``growth``, every point meets
    every other on the examples that both have seen: an exact one-sided sign test on those that only one of them
    survives. ``error`` bounds the chance that a race stops *any* point in favour of one that is not more robust; it is
    split evenly over all pairs of points and all looks (Bonferroni), so looking often costs power, never validity.
    """

    error: float = Field(0.05, gt=0, lt=1)
    first: int = Field(32, ge=1)  # examples
    growth: float = Field(1.5, gt=1)

    def looks(self, n: int) -> list[int]:
        """The numbers of examples after which points are compared; the last is ``n``, where all is known anyway."""
        found, size = [], float(self.first)
        while math.ceil(size) < n:
            found.append(math.ceil(size))
            size = max(size * self.growth, found[-1] + 1.0)
        return [*found, n]


@dataclass(frozen=True)
class Arm:
    """A point in a race: its clean accuracy, and which examples it survived, in the order that all points share.

    A point that is not ``running`` has been attacked in full; others are held against it, it is stopped by none.
    """

    name: str
    clean_accuracy: float
    survived: Sequence[bool]
    running: bool = True


@dataclass(frozen=True)
class Stop:
    """Point ``name`` is dominated by point ``by`` on the first ``n_examples``; ``p_value`` is that of this pair."""

    name: str
    by: str
    n_examples: int
    p_value: float


def stops(arms: Sequence[Arm], race: Race, *, n_examples: int, n_looks: int, n_started: int) -> list[Stop]:
    """The running points to stop now, each with the point that most clearly dominates it.

    ``arms`` holds the points still running and the finished ones; each has met the first ``n_examples`` at least.
    ``n_looks`` counts all looks of the race, the last included. ``n_started``: how many points were running when the
    race began; with it the share of ``error`` for one test is the same at every look.
    """
    n_others = n_started + sum(not arm.running for arm in arms) - 1
    n_tests = max(1, n_looks - 1) * n_started * n_others
    survived = np.array([list(arm.survived[:n_examples]) for arm in arms], dtype=np.int64).reshape(len(arms), -1)
    only = survived @ (1 - survived).T  # [i, j]: examples that i alone survives
    found = []
    for j, arm in enumerate(arms):
        better = [i for i, other in enumerate(arms) if i != j and other.clean_accuracy >= arm.clean_accuracy]
        if arm.running and better:
            p_value, by = min((sign_test(int(only[i, j]), int(only[j, i])), i) for i in better)
            if p_value * n_tests <= race.error:
                found.append(Stop(arm.name, arms[by].name, n_examples, p_value))
    return found


@lru_cache(maxsize=100_000)
def sign_test(wins: int, losses: int) -> float:
    """One-sided p-value of the exact sign test: chance of at least ``wins`` heads in ``wins + losses`` fair tosses."""
    n = wins + losses
    if wins <= losses:  # the nearer tail is the other one
        return 1.0 if wins == 0 else 1.0 - sign_test(losses + 1, wins - 1)
    term = math.exp(math.lgamma(n + 1) - math.lgamma(wins + 1) - math.lgamma(losses + 1) - n * math.log(2))
    total = 0.0
    for k in range(losses, -1, -1):  # chance of exactly k losses, from the largest term down
        total += term
        if term < total * 1e-17:
            break
        term *= k / (n - k + 1)
    return min(1.0, total)
