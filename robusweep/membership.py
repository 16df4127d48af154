"""How sure it is that a point is on the Pareto front: how often it is there when the examples are drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robusweep.front import Point
from robusweep.record import read_clean, read_outcomes
from robusweep.seeds import generator

N_DRAWS = 1000


def front_probabilities(run_dir: Path, points: Sequence[Point], *, n_draws: int = N_DRAWS) -> dict[str, float]:
    """Point id -> share of ``n_draws`` bootstrap samples of the examples in which it is on the front.

    The front is that of clean against robust accuracy. A sample draws the attacked examples with replacement, the same
    ones for every point, and the other validation texts likewise, so that what two points have in common cancels out.
    Points that were stopped early, that miss a constraint, or whose outcomes are gone, are left out.
    """
    found = {p.id: _right(run_dir, p) for p in points if p.stopped is None and not p.violated}
    rows = {key: row for key, row in found.items() if row is not None}
    sizes = [(len(clean), len(robust)) for clean, robust in rows.values()]
    if not rows or len(set(sizes)) != 1:
        return {}
    (n_clean, n_attacked), rng = sizes[0], generator(0, "front probabilities")
    clean = np.array([one for one, _ in rows.values()], dtype=np.float64)
    robust = np.array([one for _, one in rows.values()], dtype=np.float64)
    times_on_front = np.zeros(len(rows))
    n_rest = n_clean - n_attacked
    for _ in range(n_draws):
        attacked = rng.multinomial(n_attacked, np.full(n_attacked, 1 / n_attacked))
        rest = rng.multinomial(n_rest, np.full(n_rest, 1 / n_rest)) if n_rest else np.zeros(0, dtype=np.int64)
        times_on_front += on_front(clean @ np.concatenate([attacked, rest]), robust @ attacked)
    return {key: float(share) for key, share in zip(rows, times_on_front / n_draws, strict=True)}


def on_front(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other beats in both, both being maximised. Equal points are on it together."""
    pairs, places = np.unique(np.column_stack([first, second]), axis=0, return_inverse=True)
    best_of_larger = np.maximum.accumulate(pairs[::-1, 1])[::-1]  # over this pair and those that come after it
    beaten = np.append(best_of_larger[1:], -np.inf) >= pairs[:, 1]
    found: NDArray[np.bool_] = ~beaten[places.reshape(-1)]
    return found


def _right(run_dir: Path, point: Point) -> tuple[list[bool], list[bool]] | None:
    """(right on each validation text, and right under every known attack on each attacked one)."""
    folder = run_dir / "trials" / f"t{point.trial:03d}" / "attacks"
    clean = read_clean(folder, point.id)
    suites = [read_outcomes(folder / f"{point.id}.{kind}.jsonl") for kind in point.attacks]
    if clean is None or not all(suites) or len({len(suite) for suite in suites}) != 1:
        return None
    return clean, [all(o.status == "survived" for o in row) for row in zip(*suites, strict=True)]
