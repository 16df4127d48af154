"""A linear scale from values to drawing units, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps ``low..high`` (values) to ``start..end`` (drawing units; ``start > end`` turns the axis round)."""

    low: float
    high: float
    start: float
    end: float
    is_rate: bool = True

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, is_rate: bool = True) -> Scale:
        """A scale that holds all values with 4 % of air at each end, also for no value and for equal ones."""
        held = list(values) or [0.0, 1.0]
        low, high = min(held), max(held)
        spread = high - low or (0.1 if is_rate else max(1.0, abs(low)) * 0.1)
        return cls(low - 0.04 * spread, high + 0.04 * spread, start, end, is_rate)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def step(self, n_ticks: int) -> float:
        """The smallest of 1, 2, 2.5, 5 times a power of ten that gives at most about ``n_ticks`` ticks."""
        raw = (self.high - self.low) / n_ticks
        power = 10.0 ** math.floor(math.log10(raw))
        return next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= raw * (1 - 1e-9))

    def ticks(self, n_ticks: int = 6, *, whole: bool = False) -> list[tuple[float, str]]:
        """(value, text) pairs; rates as percent without the sign, and never outside [0, 100]. ``whole``: of counts."""
        step, factor = self.step(n_ticks), 100.0 if self.is_rate else 1.0
        step = math.ceil(step) if whole else step
        shown = step * factor
        digits = next(d for d in range(16) if abs(round(shown, d) - shown) <= 1e-6 * shown)
        values = [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        inside = [v for v in values if not self.is_rate or -1e-9 <= v <= 1 + 1e-9]
        return [(v, f"{v * factor + 0.0:,.{digits}f}") for v in inside]
