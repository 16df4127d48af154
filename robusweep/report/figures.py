"""The front and the curves over the mixing weight as PNG. Nothing of matplotlib's global state is touched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusweep.front import Objective, Point, short_name
from robusweep.report.mixes import Mixed
from robusweep.report.readings import (
    N_BANDS_MOST,
    WEIGHT,
    Axis,
    WeightCurve,
    axes_of,
    bounds_of,
    curve_lines,
    front_of,
    line_names,
    measured,
    step_line,
    value_of,
    weight_curves,
)
from robusweep.report.sentences import n_text
from robusweep.report.tickets import RATES, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONT_RED, GREY, CLEAN_BLUE = "#c5162e", "#7d8793", "#0067b3"
ATTACK_STYLES = (("#7b4bb3", "^"), ("#a86500", "D"), ("#00795a", "v"), ("#a8417f", "<"), ("#4a5560", ">"))
N_PANELS_MOST = 12
N_CROSSES_MOST = 80


def front_png(points: Sequence[Point], objectives: Sequence[Objective], path: Path) -> None:
    """The first two objectives against each other, as in the HTML report."""
    figure = _figure(8.0, 5.6)
    plot = figure.add_subplot()
    axes = axes_of(objectives)
    few = len(points) <= N_CROSSES_MOST
    stopped, beyond = [p for p in points if p.stopped is not None], [p for p in points if p.violated]
    whole = [p for p in points if p.stopped is None and not p.violated]
    for point in sorted((p for p in whole if few or p.pareto), key=lambda p: p.pareto + p.knee):
        _draw_point(plot, point, *(measured(point, axis.metric) for axis in axes), crossed=few)
    if not few:
        _draw_circles(plot, [p for p in whole if not p.pareto], axes, alpha=1.0)
    if stopped:
        _draw_circles(plot, stopped, axes, alpha=0.4)
    if beyond:
        _draw_circles(plot, beyond, axes, alpha=0.45, face=GREY)
    factors = [100.0 if axis.is_rate else 1.0 for axis in axes]
    corners = step_line(points, objectives)
    plot.plot([a * factors[0] for a, _ in corners], [b * factors[1] for _, b in corners], color=FRONT_RED, zorder=2)
    for number, (a, b) in _numbered_places(front_of(points, objectives), objectives).items():
        plot.annotate(number, (a, b), xytext=(6, 6), textcoords="offset points", weight="bold", zorder=6)
    plot.set_xlabel(axes[0].title)
    plot.set_ylabel(axes[1].title)
    if not points:
        plot.text(0.5, 0.5, "no point was scored", transform=plot.transAxes, ha="center")
    else:
        _legend(plot, any_stopped=bool(stopped), any_beyond=bool(beyond))
    _finish(figure, points, path)


def weight_curves_png(points: Sequence[Point], mixed: Mapping[str, Mixed], path: Path) -> None:
    """One panel for each trained configuration, the first 12 of them. Raises ``ValueError`` when there is none."""
    curves = weight_curves(mixed)
    if not curves:
        raise ValueError(f"no configuration was scored at two values of {WEIGHT}")
    shown = curves[:N_PANELS_MOST]
    n_columns = min(3 if len(shown) != 4 else 2, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = _figure(max(6.6, 4.2 * n_columns), 3.2 * n_rows + 0.8)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    names = line_names(curves)
    handles: dict[str, Any] = {}
    for panel, curve in zip(panels.flat, shown, strict=False):
        handles |= _draw_curve(panel, curve, names)
    for panel in list(panels.flat)[len(shown) :]:
        panel.set_visible(False)
    figure.supxlabel(WEIGHT)
    figure.supylabel("rate (%)" if len(names) > N_BANDS_MOST else "rate (%), 95 % intervals")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=min(3 if n_columns > 1 else 2, len(handles)),
        frameon=False,
    )
    omitted = f"; {len(shown)} of {len(curves)} configurations" if len(shown) < len(curves) else ""
    banded = "; bands of clean and robust accuracy only" if len(names) > N_BANDS_MOST else ""
    _finish(figure, points, path, banded + omitted)


def density_png(points: Sequence[Point], series: Sequence[Series], path: Path) -> None:
    """Clean and robust accuracy over the share kept, as in the HTML report."""
    figure = _figure(10.0, 4.6)
    panels = figure.subplots(1, 2, squeeze=False).flat
    for panel, (name, rate) in zip(panels, RATES, strict=True):
        for i, each in enumerate(series):
            color, marker = (GREY, "o") if each.is_dense else ATTACK_STYLES[i % len(ATTACK_STYLES)]
            dashed = i // len(ATTACK_STYLES) % 2
            joined = "" if each.is_dense or len(set(each.kept)) < len(each.kept) else "--" if dashed else "-"
            middle = [100 * rate(p).value for p in each.points]
            ends = [[abs(m - 100 * end) for m, end in zip(middle, side, strict=True)] for side in
                    ([rate(p).low for p in each.points], [rate(p).high for p in each.points])]  # fmt: skip
            kept = [100 * share + 0.3 * (i - (len(series) - 1) / 2) for share in each.kept]  # bars stand side by side
            panel.errorbar(
                kept, middle, ends, color=color, marker=marker, linestyle=joined, elinewidth=1.0, label=each.name
            )
        panel.set_xlabel("kept of the layers' weights (%)")
        panel.set_title(f"{name} (%)", fontsize=10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)), frameon=False)
    _finish(figure, points, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_circles(
    plot: Any, points: Sequence[Point], axes: Sequence[Axis], *, alpha: float, face: str = "white"
) -> None:
    """Thousands of circles at once: dominated points, those beyond a constraint, or those that were stopped early."""
    places = [[value_of(measured(p, a.metric)) * (100.0 if a.is_rate else 1.0) for p in points] for a in axes[:2]]
    plot.plot(*places, "o", markersize=6, color=face, markeredgecolor=GREY, zorder=2 + alpha, alpha=alpha)


def _draw_point(plot: Any, point: Point, x: Any, y: Any, *, crossed: bool) -> None:
    factors = [100.0 if not isinstance(reading, float) else 1.0 for reading in (x, y)]
    px, py = value_of(x) * factors[0], value_of(y) * factors[1]
    color = FRONT_RED if point.pareto else GREY
    if point.pareto or crossed:
        (left, right), (low, high) = bounds_of(x), bounds_of(y)
        style = {"color": color, "alpha": 0.5 if point.pareto else 0.25, "linewidth": 0.8, "zorder": 1}
        plot.plot([left * factors[0], right * factors[0]], [py, py], **style)
        plot.plot([px, px], [low * factors[1], high * factors[1]], **style)
    marker, size = ("*", 17) if point.knee else ("o", 8) if point.pareto else ("o", 6)
    face = color if point.pareto else "white"
    edge = "white" if point.pareto else GREY
    plot.plot(px, py, marker, markersize=size, color=face, markeredgecolor=edge, zorder=3 + point.pareto + point.knee)


def _numbered_places(front: Sequence[Point], objectives: Sequence[Objective]) -> dict[str, tuple[float, float]]:
    """Label -> place in drawn units; points that coincide share one label."""
    axes = axes_of(objectives)
    places: dict[tuple[float, float], list[int]] = {}
    for number, point in enumerate(front, 1):
        a, b = (value_of(measured(point, axis.metric)) * (100.0 if axis.is_rate else 1.0) for axis in axes)
        places.setdefault((a, b), []).append(number)
    return {str(n[0]) if len(n) == 1 else f"{n[0]}–{n[-1]}": place for place, n in places.items()}


def _legend(plot: Any, *, any_stopped: bool, any_beyond: bool) -> None:
    from matplotlib.lines import Line2D

    def mark(shape: str, size: int, face: str, edge: str) -> Any:
        return Line2D([], [], marker=shape, linestyle="", markersize=size, color=face, markeredgecolor=edge)

    handles = {
        "knee": mark("*", 14, FRONT_RED, "white"),
        "front": mark("o", 8, FRONT_RED, "white"),
        "dominated": mark("o", 6, "white", GREY),
    }
    if any_beyond:
        handles["beyond a constraint"] = mark("o", 6, GREY, GREY)
        handles["beyond a constraint"].set_alpha(0.45)
    if any_stopped:
        handles["stopped early"] = mark("o", 6, "white", GREY)
        handles["stopped early"].set_alpha(0.4)
    plot.legend(handles.values(), handles.keys(), loc="best", frameon=False)


def _draw_curve(panel: Any, curve: WeightCurve, names: Sequence[str]) -> dict[str, Any]:
    """Draws one panel; gives line name -> its handle for the legend."""
    handles = {}
    for line in curve_lines(curve):
        color, width, marker = _style(names.index(line.name))
        there = [(weight, rate) for weight, rate in zip(curve.weights, line.rates, strict=True) if rate]
        weights = [weight for weight, _ in there]
        (handles[line.name],) = panel.plot(
            weights,
            [100 * rate.value for _, rate in there],
            color=color,
            linestyle=(0, (5, 3)) if line.is_held_out else "-",
            linewidth=width,
            marker=marker,
            markersize=4,
        )
        if len(names) > N_BANDS_MOST and names.index(line.name) > 1:
            continue
        low, high = [100 * rate.low for _, rate in there], [100 * rate.high for _, rate in there]
        panel.fill_between(weights, low, high, color=color, alpha=0.1, linewidth=0)
    panel.tick_params(labelbottom=True)
    panel.set_title(short_name(curve.points[0].id, curve.params), fontsize=9, wrap=True)
    _plain_axes(panel)
    return handles


def _style(i: int) -> tuple[str, float, str]:
    """(colour, width, marker) of the i-th line."""
    if i < 2:
        return (CLEAN_BLUE, 1.8, "o") if i == 0 else (FRONT_RED, 2.6, "s")
    color, marker = ATTACK_STYLES[(i - 2) % len(ATTACK_STYLES)]
    return color, 1.8, marker


def _plain_axes(plot: Any) -> None:
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(color="#e9ecf0", linewidth=0.8)
    plot.set_axisbelow(True)


def _finish(figure: Figure, points: Sequence[Point], path: Path, note: str = "") -> None:
    """Puts the caption below the figure and writes it under a temporary name first."""
    for plot in figure.axes:
        _plain_axes(plot)
    clean, robust = n_text([p.clean_accuracy for p in points]), n_text([p.robust_accuracy for p in points])
    hashes = ", ".join(dict.fromkeys(p.protocol_hash[:12] for p in points))
    caption = f"clean accuracy {clean}, robust accuracy {robust}; 95 % Wilson intervals; protocol {hashes or '–'}{note}"
    figure.text(0.01, -0.01, caption, fontsize=8, color="#57606a", va="top")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, format="png", bbox_inches="tight", metadata={"Software": None})
    temporary.replace(path)
