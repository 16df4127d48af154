"""Figures of tickets as inline SVG: accuracy over what is kept, and the distance of masks over the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from robusweep.front import Point, short_name
from robusweep.report.scale import Scale
from robusweep.report.svg_front import tooltip
from robusweep.report.svg_weights import ATTACK_MARKS, N_ATTACK_STYLES, N_FEW, N_OPEN
from robusweep.report.tickets import RATES, Series, Ticketed, names_of, share_text
from robusweep.scores import Rate

WIDTH, HEIGHT = 330, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 318, 12, 192
DODGE, DODGE_MOST = 4.0, 8.0  # drawing units between bars of points that keep the same, and to either side
KINDS = (("heads", "attack0"), ("neurons", "attack2"))  # in the order of a ticket's distances


def density_panels(series: Sequence[Series], rows: Mapping[str, int]) -> str:
    """Clean and robust accuracy over the share kept, a line for each series. ``rows``: point id -> row of the table."""
    styles = {each.name: _style(i, each) for i, each in enumerate(series)}
    x = Scale.over((share for each in series for share in each.kept), LEFT, RIGHT)
    panels = "".join(_density_panel(name, rate, series, styles, x, rows) for name, rate in RATES)
    legend = "".join(
        f'<span><svg class="wide" viewBox="0 0 34 18" aria-hidden="true">'
        f'{"" if each.is_dense else _path(styles[each.name], [(1, 9), (33, 9)])}{_marker(styles[each.name], 17, 9)}'
        f"</svg>{escape(each.name)}</span>"
        for each in series
    )  # fmt: skip
    return f'<div class="legend">{legend}</div><div class="panels few">{panels}</div>'


def _style(i: int, series: Series) -> str:
    """The class of the i-th line: colours in turn, then dashed; the whole network has a colour of its own."""
    if series.is_dense:
        return "whole"
    return f"attack{i % N_ATTACK_STYLES}" + (" held" if i // N_ATTACK_STYLES % 2 else "")


def _density_panel(
    name: str,
    rate: Callable[[Point], Rate],
    series: Sequence[Series],
    styles: Mapping[str, str],
    x: Scale,
    rows: Mapping[str, int],
) -> str:
    rates = [rate(point) for each in series for point in each.points]
    y = Scale.over((end for one in rates for end in (one.low, one.high)), BOTTOM, TOP)
    body = _grid(x, y, "kept of the layers' weights (%)")
    marks = []
    for i, each in enumerate(series):
        shift = max(-DODGE_MOST, min(DODGE_MOST, DODGE * (i - (len(series) - 1) / 2)))
        stops = [(x(share) + shift, y(rate(p).value)) for share, p in zip(each.kept, each.points, strict=True)]
        if each.is_dense:
            body += [f'<path class="reference" d="M{LEFT} {py:.1f}H{RIGHT}"/>' for _, py in stops]
        elif len(set(each.kept)) == len(each.kept):
            body.append(_path(styles[each.name], stops))
        for (px, py), point in zip(stops, each.points, strict=True):
            bar = f"M{px:.1f} {y(rate(point).low):.1f}V{y(rate(point).high):.1f}"
            body.append(f'<path class="whisker {styles[each.name]}" d="{bar}"/>')
            title = escape(f"{each.name}\n{tooltip(point)}")
            row, named = rows[point.id], escape(short_name(point.id, point.params))
            marks.append(
                f'<a href="#row-{row}" data-row="{row}" aria-label="{named}"><title>{title}</title>'
                f"{_marker(styles[each.name], px, py)}</a>"
            )
    return (
        f'<figure class="panel"><figcaption>{name} (%)</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
        f'aria-label="{name} over the share kept">{"".join([*body, *marks])}</svg></figure>'
    )


def distance_panels(groups: Sequence[Sequence[Ticketed]], trials: Sequence[Ticketed]) -> str:
    """One panel for each ticket, all on the same scales; nothing where no ticket has distances."""
    if not groups:
        return ""
    names = names_of(trials)
    longest = max(_n_gaps(group[0]) for group in groups)
    highest = [value for group in groups for pair in _distances(group[0]) for value in pair]
    limits = [limit for group in groups if (limit := _threshold(group[0])) is not None]
    x, y = Scale.over((1.0, longest), LEFT, RIGHT, is_rate=False), Scale.over((0.0, *highest, *limits), BOTTOM, TOP)
    panels = [_distance_panel(group, names, x, y) for group in groups]
    more = ""
    if len(panels) > N_OPEN:
        rest = "".join(panels[N_OPEN:])
        more = f'<details><summary>{len(panels) - N_OPEN} more</summary><div class="panels">{rest}</div></details>'
    few = " few" if len(panels) <= N_FEW else ""
    lines = [(name, f"{_path(style, [(1, 9), (33, 9)])}{_marker(style, 17, 9)}") for name, style in KINDS]
    lines.append(("drawn here", '<path class="drawn" d="M17 1V17"/>'))
    lines += [("threshold", '<path class="threshold" d="M1 9H33"/>')] if limits else []
    legend = "".join(
        f'<span><svg class="wide" viewBox="0 0 34 18" aria-hidden="true">{shape}</svg>{name}</span>'
        for name, shape in lines
    )
    return f'<div class="legend">{legend}</div><div class="panels{few}">{"".join(panels[:N_OPEN])}</div>{more}'


def _distance_panel(group: Sequence[Ticketed], names: Mapping[int, str], x: Scale, y: Scale) -> str:
    first = group[0]
    assert first.ticket is not None
    heads, neurons = (share_text(density) for density in first.density)
    ids = ", ".join(one.id for one in group)
    caption = f"{ids}: {names[first.trial.number]}, {heads} of heads, {neurons} of neurons"
    body = _grid(x, y, "gap of the search", whole=True)
    if (limit := _threshold(first)) is not None:
        body.append(f'<path class="threshold" d="M{LEFT} {y(limit):.1f}H{RIGHT}"/>')
    if first.ticket.gap is not None:
        at = x(first.ticket.gap)
        note = f"drawn at gap {first.ticket.gap}, after {first.ticket.step:,} steps" if first.ticket.step else "drawn"
        note += "; never settled" if first.ticket.fallback else ""
        body.append(f'<path class="drawn" d="M{at:.1f} {TOP}V{BOTTOM}"><title>{note}</title></path>')
    for i, (_, style) in enumerate(KINDS):
        stops = [(x(gap), y(pair[i])) for gap, pair in enumerate(_distances(first), 2)]
        body.append(_path(style, stops))
        body += [
            f"<g><title>{what}</title>{_marker(style, px, py)}</g>"
            for (px, py), what in zip(stops, _told(first, i), strict=True)
        ]
    return (
        f'<figure class="panel"><figcaption>{escape(caption)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="group" aria-label="mask distance over the search: {escape(caption)}">{"".join(body)}</svg></figure>'
    )


def _told(one: Ticketed, kind: int) -> list[str]:
    name = KINDS[kind][0]
    return [
        f"{name}: {share_text(pair[kind])} differ between gaps {gap - 1} and {gap}"
        for gap, pair in enumerate(_distances(one), 2)
    ]


def _distances(one: Ticketed) -> list[list[float]]:
    return one.ticket.distances if one.ticket else []


def _n_gaps(one: Ticketed) -> int:
    return len(_distances(one)) + 1


def _threshold(one: Ticketed) -> float | None:
    limit = one.block.get("threshold")
    return float(limit) if isinstance(limit, int | float) else None


def _grid(x: Scale, y: Scale, name: str, *, whole: bool = False) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for value, text in x.ticks(6, whole=whole):
        parts.append(f'<text x="{x(value):.1f}" y="{BOTTOM + 17}" text-anchor="middle">{text}</text>')
    for value, text in y.ticks(5):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4.5:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text class="title" x="{RIGHT}" y="{BOTTOM + 34}" text-anchor="end">{escape(name)}</text>')
    return parts


def _path(style: str, stops: Sequence[tuple[float, float]]) -> str:
    return f'<path class="line {style}" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in stops)}"/>'


def _marker(style: str, px: float, py: float) -> str:
    if style == "whole":
        return f'<circle class="dot whole" cx="{px:.1f}" cy="{py:.1f}" r="4"/>'
    corners = "L".join(f"{px + dx:.1f} {py + dy:.1f}" for dx, dy in ATTACK_MARKS[style.split()[0]])
    return f'<path class="dot {style}" d="M{corners}Z"/>'
