"""The front as inline SVG: two objectives against each other, with intervals, the step line and the knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from robusweep.front import UNDER_ATTACK, Objective, Point, short_name
from robusweep.report.readings import (
    Axis,
    axes_of,
    bounds_of,
    counted_costs,
    front_of,
    measured,
    step_line,
    table_order,
    value_of,
)
from robusweep.report.scale import Scale
from robusweep.report.sentences import count_text, percent, seconds_text, value_text, violated_text
from robusweep.scores import Rate

WIDTH, HEIGHT = 720, 470
LEFT, RIGHT, TOP, BOTTOM = 60, 696, 38, 404
N_CROSSES_MOST = 80  # above this, dominated points are drawn without their intervals

LEGEND = (
    ("knee", '<path class="knee" d="{star}"/>'),
    ("front", '<circle class="front" cx="9" cy="9" r="6"/>'),
    ("dominated", '<circle class="dominated" cx="9" cy="9" r="4.5"/>'),
    ("95 % interval", '<path class="cross front" d="M0 9H18M9 0V18"/>'),
)
STOPPED = ("stopped early", '<circle class="stopped" cx="9" cy="9" r="4.5"/>')


INFEASIBLE = ("beyond a constraint", '<circle class="infeasible" cx="9" cy="9" r="4.5"/>')


def front_svg(points: Sequence[Point], objectives: Sequence[Objective]) -> str:
    """The figure. Each point links to its row ``#row-<i>``, where i counts in the order of the table."""
    axes = axes_of(objectives)
    rows = {point.id: i for i, point in enumerate(table_order(points, objectives))}
    few = len(points) <= N_CROSSES_MOST
    crossed = [p for p in points if p.pareto or (few and p.stopped is None and not p.violated)]
    x, y = (
        _scale(points, crossed, axis, ends) for axis, ends in zip(axes, ((LEFT, RIGHT), (BOTTOM, TOP)), strict=True)
    )
    marks = [
        *_grid(x, y, axes),
        *(_cross(p, axes, x, y) for p in sorted(crossed, key=_importance)),
        _line(step_line(points, objectives), x, y),
        *(_mark(p, axes, x, y, rows[p.id]) for p in sorted(points, key=_importance)),
        *_numbers(front_of(points, objectives), axes, x, y),
    ]
    label = f"{axes[0].label} against {axes[1].label}, {len(points)} points"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(label)}">'
        f"{''.join(marks)}</svg>"
    )


def front_legend(points: Sequence[Point]) -> str:
    shown = [*LEGEND, *([INFEASIBLE] if any(p.violated for p in points) else [])]
    shown += [STOPPED] if any(p.stopped for p in points) else []
    items = (f'<span><svg viewBox="0 0 18 18" aria-hidden="true">{d}</svg>{name}</span>' for name, d in shown)
    return f'<div class="legend">{"".join(items).format(star=_star(9, 9, 9))}</div>'


def tooltip(point: Point) -> str:
    """What a pointer over the point shows: name, parameters, and each rate with its n."""
    lines = [point.id]
    lines += [f"{key} = {value_text(value)}" for key, value in point.params.items()]
    rates = {"clean accuracy": point.clean_accuracy, "robust accuracy": point.robust_accuracy}
    for name in point.attacks:
        axis = Axis(UNDER_ATTACK + name)
        reading = measured(point, axis.metric)
        if isinstance(reading, Rate):
            rates[axis.label] = reading
    lines += [f"{name}: {percent(rate)}, n = {rate.n}" for name, rate in rates.items()]
    lines.append(f"training: {seconds_text(point.train_seconds)} s")
    lines += [f"{cost.replace('_', ' ')}: {count_text(getattr(point, cost))}" for cost in counted_costs([point])]
    lines += [text] if (text := violated_text(point)) else []
    return "\n".join(lines)


def _importance(point: Point) -> int:
    """Stopped points are drawn first, then dominated ones, the knee last."""
    return point.pareto + point.knee - (point.stopped is not None)


def _scale(points: Sequence[Point], crossed: Sequence[Point], axis: Axis, ends: tuple[int, int]) -> Scale:
    values = [value_of(measured(p, axis.metric)) for p in points]
    values += [end for p in crossed for end in bounds_of(measured(p, axis.metric))]
    return Scale.over(values, *ends, is_rate=axis.is_rate)


def _grid(x: Scale, y: Scale, axes: tuple[Axis, Axis]) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for value, text in x.ticks():
        parts.append(f'<path class="grid" d="M{x(value):.1f} {TOP}V{BOTTOM}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{text}</text>')
    for value, text in y.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{text}</text>')
    arrows = {"max": "→ better", "min": "← better"}, {"max": "↑ better", "min": "↓ better"}
    names = [f"{escape(axis.title)} {arrow[axis.goal]}" for axis, arrow in zip(axes, arrows, strict=True)]
    parts.append(f'<text class="title" x="{RIGHT}" y="{BOTTOM + 50}" text-anchor="end">{names[0]}</text>')
    parts.append(f'<text class="title" x="4" y="20">{names[1]}</text>')
    return parts


def _place(point: Point, axes: tuple[Axis, Axis], x: Scale, y: Scale) -> tuple[float, float]:
    return x(value_of(measured(point, axes[0].metric))), y(value_of(measured(point, axes[1].metric)))


def _kind(point: Point) -> str:
    if point.stopped is not None:
        return "stopped"
    if point.violated:
        return "infeasible"
    return "knee" if point.knee else "front" if point.pareto else "dominated"


def _cross(point: Point, axes: tuple[Axis, Axis], x: Scale, y: Scale) -> str:
    (left, right), (low, high) = (bounds_of(measured(point, axis.metric)) for axis in axes)
    px, py = _place(point, axes, x, y)
    path = f"M{x(left):.1f} {py:.1f}H{x(right):.1f}M{px:.1f} {y(low):.1f}V{y(high):.1f}"
    return f'<path class="cross {_kind(point)}" d="{path}"/>'


def _line(corners: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    if len(corners) < 2:
        return ""
    return f'<path class="step" d="M{"L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in corners)}"/>'


def _mark(point: Point, axes: tuple[Axis, Axis], x: Scale, y: Scale, row: int) -> str:
    px, py = _place(point, axes, x, y)
    if point.knee:
        shape = f'<path class="knee" d="{_star(px, py, 12)}"/>'
    else:
        shape = f'<circle class="{_kind(point)}" cx="{px:.1f}" cy="{py:.1f}" r="{6 if point.pareto else 4.5}"/>'
    name = escape(short_name(point.id, point.params))
    title = f"<title>{escape(tooltip(point))}</title>"
    return f'<a href="#row-{row}" data-row="{row}" aria-label="{name}">{title}{shape}</a>'


def _star(cx: float, cy: float, radius: float) -> str:
    spokes = ((math.pi * (i / 5 - 0.5), radius if i % 2 == 0 else 0.45 * radius) for i in range(10))
    return "M" + "L".join(f"{cx + r * math.cos(a):.1f} {cy + r * math.sin(a):.1f}" for a, r in spokes) + "Z"


def _numbers(front: Sequence[Point], axes: tuple[Axis, Axis], x: Scale, y: Scale) -> list[str]:
    """The front's numbers beside its points: a range where points coincide, none where it would cover another.

    The knee is placed first, so it always keeps its label.
    """
    places: dict[tuple[float, float], list[int]] = {}
    for number, point in enumerate(front, 1):
        px, py = _place(point, axes, x, y)
        places.setdefault((round(px, 1), round(py, 1)), []).append(number)
    knees = {number for number, point in enumerate(front, 1) if point.knee}
    labels: list[str] = []
    boxes: list[tuple[float, float, float]] = []  # left, right, baseline
    for (px, py), numbers in sorted(places.items(), key=lambda item: not knees & set(item[1])):
        text = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
        text += " knee" if knees & set(numbers) else ""
        width, fits = 11 * len(text), px < RIGHT - 90
        edge, base = px + (10 if fits else -10), py - 10
        left = edge if fits else edge - width
        if all(left > b[1] or left + width < b[0] or abs(base - b[2]) > 18 for b in boxes):
            boxes.append((left, left + width, base))
            anchor = "start" if fits else "end"
            labels.append(f'<text class="number" x="{edge:.1f}" y="{base:.1f}" text-anchor="{anchor}">{text}</text>')
    return labels
