"""Small multiples as inline SVG: rates against the mixing weight, one panel for each trained configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from robusweep.front import Point, short_name
from robusweep.report.mixes import Mixed
from robusweep.report.readings import N_BANDS_MOST, WEIGHT, Line, WeightCurve, curve_lines, line_names, weight_curves
from robusweep.report.scale import Scale
from robusweep.report.svg_front import tooltip

WIDTH, HEIGHT = 330, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 318, 12, 192
N_OPEN = 12  # further panels are folded away
N_FEW = 2  # so few panels are drawn larger
N_ATTACK_STYLES = 5
ATTACK_MARKS = {
    "attack0": ((-4, 3), (0, -4), (4, 3)),
    "attack1": ((-4, 0), (0, -4), (4, 0), (0, 4)),
    "attack2": ((-4, -3), (0, 4), (4, -3)),
    "attack3": ((3, -4), (-4, 0), (3, 4)),
    "attack4": ((-3, -4), (4, 0), (-3, 4)),
}


def weight_panels(mixed: Mapping[str, Mixed], rows: Mapping[str, int]) -> str:
    """All panels on the same scales, or nothing when no configuration was scored at two weights.

    ``rows``: point id -> row of the table, which a marker links to.
    """
    curves = weight_curves(mixed)
    if not curves:
        return ""
    lines = [curve_lines(curve) for curve in curves]
    held_out = {line.name for each in lines for line in each if line.is_held_out}
    styles = {name: f"{style_of(i)}{' held' if name in held_out else ''}" for i, name in enumerate(line_names(curves))}
    x = Scale.over((w for curve in curves for w in curve.weights), LEFT, RIGHT, is_rate=False)
    ends = (end for each in lines for line in each for r in line.rates if r for end in (r.low, r.high))
    y = Scale.over(ends, BOTTOM, TOP)
    panels = [_panel(c, each, styles, x, y, rows) for c, each in zip(curves, lines, strict=True)]
    more = ""
    if len(panels) > N_OPEN:
        rest = "".join(panels[N_OPEN:])
        more = f'<details><summary>{len(panels) - N_OPEN} more</summary><div class="panels">{rest}</div></details>'
    few = " few" if len(panels) <= N_FEW else ""
    return f'{_legend(styles)}<div class="panels{few}">{"".join(panels[:N_OPEN])}</div>{more}'


def style_of(i: int) -> str:
    """The class of the i-th line: clean accuracy, robust accuracy, then the attacks in turn."""
    return ("clean", "robust")[i] if i < 2 else f"attack{(i - 2) % N_ATTACK_STYLES}"


def _legend(styles: Mapping[str, str]) -> str:
    items = (
        f'<span><svg class="wide" viewBox="0 0 34 18" aria-hidden="true"><path class="line {style}" d="M1 9H33"/>'
        f"{_marker(style, 17, 9)}</svg>{escape(name)}</span>"
        for name, style in styles.items()
    )
    return f'<div class="legend">{"".join(items)}</div>'


def _panel(
    curve: WeightCurve,
    lines: Sequence[Line],
    styles: Mapping[str, str],
    x: Scale,
    y: Scale,
    rows: Mapping[str, int],
) -> str:
    name = escape(short_name(curve.points[0].id, curve.params))
    places = [x(weight) for weight in curve.weights]
    banded = lines if len(styles) <= N_BANDS_MOST else lines[:2]
    bands = [_band(places, line, styles[line.name], y) for line in banded]
    paths = [_line(places, line, styles[line.name], y) for line in lines]
    targets = [_target(point, px, rows[point.id]) for point, px in zip(curve.points, places, strict=True)]
    body = "".join([*_grid(x, y), *bands, *paths, *targets])
    return (
        f'<figure class="panel"><figcaption>{name}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
        f'aria-label="rates against {WEIGHT}: {name}">{body}</svg></figure>'
    )


def _grid(x: Scale, y: Scale) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for value, text in x.ticks(6):
        parts.append(f'<text x="{x(value):.1f}" y="{BOTTOM + 17}" text-anchor="middle">{text}</text>')
    for value, text in y.ticks(5):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4.5:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text class="title" x="{RIGHT}" y="{BOTTOM + 34}" text-anchor="end">{WEIGHT}</text>')
    return parts


def _band(places: Sequence[float], line: Line, style: str, y: Scale) -> str:
    there = [(px, rate) for px, rate in zip(places, line.rates, strict=True) if rate]
    upper = [f"{px:.1f} {y(rate.high):.1f}" for px, rate in there]
    lower = [f"{px:.1f} {y(rate.low):.1f}" for px, rate in there]
    return f'<path class="band {style}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'


def _line(places: Sequence[float], line: Line, style: str, y: Scale) -> str:
    stops = [(px, y(rate.value)) for px, rate in zip(places, line.rates, strict=True) if rate]
    path = "L".join(f"{px:.1f} {py:.1f}" for px, py in stops)
    return f'<path class="line {style}" d="M{path}"/>' + "".join(_marker(style, px, py) for px, py in stops)


def _marker(style: str, px: float, py: float) -> str:
    if style == "clean":
        return f'<circle class="dot clean" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>'
    if style == "robust":
        return f'<rect class="dot robust" x="{px - 3.5:.1f}" y="{py - 3.5:.1f}" width="7" height="7"/>'
    corners = "L".join(f"{px + dx:.1f} {py + dy:.1f}" for dx, dy in ATTACK_MARKS[style.split()[0]])
    return f'<path class="dot {style}" d="M{corners}Z"/>'


def _target(point: Point, px: float, row: int) -> str:
    """An invisible column over one weight that carries the tooltip and the link, with a guide that shows on hover.

    A point on the front has a mark at its foot.
    """
    foot = ""
    if point.pareto:
        size = 5 if point.knee else 3.5
        corners = f"{px - size:.1f} {BOTTOM}L{px:.1f} {BOTTOM - 2 * size:.1f}L{px + size:.1f} {BOTTOM}"
        foot = f'<path class="foot" d="M{corners}Z"/>'
    return (
        f'<a href="#row-{row}" data-row="{row}" aria-label="{escape(short_name(point.id, point.params))}">'
        f'<title>{escape(tooltip(point))}</title>{foot}<path class="guide" d="M{px:.1f} {TOP}V{BOTTOM}"/>'
        f'<rect class="target" x="{px - 11:.1f}" y="{TOP}" width="22" height="{BOTTOM - TOP}"/></a>'
    )
