"""Hypervolume over the completed trials of a sweep, as a small inline SVG."""

from __future__ import annotations

from robusweep.hypervolume import History
from robusweep.report.scale import Scale

WIDTH, HEIGHT = 520, 190
LEFT, RIGHT, TOP, BOTTOM = 56, 490, 14, 140


def growth_svg(history: History) -> str:
    """A step line: trials in the order in which they ended, and seconds of training and attacks below their number."""
    volumes = [grown.hypervolume or 0.0 for grown in history.trials]
    n = len(volumes)
    x = Scale(0.0, max(1.0, float(n)), LEFT, RIGHT, is_rate=False)
    y = Scale.over(volumes, BOTTOM, TOP)
    y = Scale(max(0.0, y.low), y.high, BOTTOM, TOP, is_rate=False)
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for value, text in y.ticks(4):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{text}</text>')
    for value, text in x.ticks(5):
        if 1 <= value <= n and value % 1 == 0:
            seconds = f"{history.trials[int(value) - 1].seconds:,.0f} s"
            parts.append(f'<text x="{x(value):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>')
            parts.append(f'<text x="{x(value):.1f}" y="{BOTTOM + 36}" text-anchor="middle">{seconds}</text>')
    line = f"M{x(0):.1f} {y(volumes[0]):.1f}" + "".join(f"H{x(i):.1f}V{y(v):.1f}" for i, v in enumerate(volumes, 1))
    parts.append(f'<path class="step" d="{line}"/>')
    said = f'role="img" aria-label="hypervolume over {n} completed trials"'
    return f'<svg class="chart small" viewBox="0 0 {WIDTH} {HEIGHT}" {said}>{"".join(parts)}</svg>'
