"""The text on the page of a sweep in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robusweep.front import Point, short_name
from robusweep.scores import Rate
from robusweep.tracking.view import FRONT_FILTER, links, run_link

N_ROWS = 20  # of the table; a note is a tag, and MLflow cuts long tags


def sweep_note(experiment: str, points: Sequence[Point], run_ids: Mapping[str, str], notices: Sequence[str]) -> str:
    """Markdown: notices first, then where to look, then the front as a table, best clean accuracy first."""
    front = sorted((p for p in points if p.pareto), key=lambda p: (-p.clean_accuracy.value, p.id))
    pages = links("", experiment)
    lines = [f"> **{notice}**\n" for notice in notices]
    lines += [
        f"{len(points)} points, {len(front)} on the Pareto front, which the filter `{FRONT_FILTER}` finds.\n",
        f"[Charts of all points]({pages['view'][1:]}) · [Table of the front]({pages['table'][1:]})\n",
        "| point | clean accuracy (95 %) | robust accuracy (95 %) |",
        "| --- | --- | --- |",
    ]
    for point in front[:N_ROWS]:
        flags = f" ⚑ {', '.join(flag.name for flag in point.flags)}" if point.flags else ""
        name = f"[{short_name(point.id, point.params)}]({run_link(experiment, run_ids[point.id])})"
        knee = " **knee**" if point.knee else ""
        lines.append(
            f"| {name}{knee}{flags} | {_interval(point.clean_accuracy)} | {_interval(point.robust_accuracy)} |"
        )
    if len(front) > N_ROWS:
        lines.append(f"\nThe table shows {N_ROWS} of {len(front)}.")
    return "\n".join(lines)


def _interval(rate: Rate) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}, n = {rate.n})"
