"""Reports of a sweep, made from its records alone: HTML, Markdown, JSON, PNG, and a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robusweep.front import Objective, Point
from robusweep.hypervolume import read_history
from robusweep.record import TrialRecord, write_json, write_text
from robusweep.reference import ReferenceTable
from robusweep.report.html import html_report
from robusweep.report.markdown import markdown_report
from robusweep.report.mixes import Mixed, mixed_points
from robusweep.report.mixing import mixing_summary
from robusweep.report.readings import knee_of, weight_curves
from robusweep.report.sentences import all_notices
from robusweep.report.terminal import front_table
from robusweep.report.tickets import Series, series_of, ticket_masks, ticketed_trials, tickets_summary

__all__ = ["front_table", "html_report", "markdown_report", "write_reports"]


def write_reports(
    run_dir: Path,
    *,
    name: str,
    points: Sequence[Point],
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    recipe_yaml: str,
    notices: Sequence[str],
    protocol: Mapping[str, object],
    against: ReferenceTable | None = None,
) -> list[Path]:
    """Write report.html, report.md, report.json and, where there is something to draw, figures/*.png.

    ``against`` compares the points with a reference. The sweep's description in ``run_dir`` tells what stands behind
    the names of blocks. Gives the paths written. Each file is replaced as a whole.
    """
    everything: dict[str, Any] = {
        "name": name,
        "points": points,
        "records": records,
        "objectives": objectives,
        "recipe_yaml": recipe_yaml,
        "notices": notices,
        "protocol": protocol,
        "against": against,
        "space": _space(run_dir),
        "masks": ticket_masks(run_dir),
        "history": read_history(run_dir),
    }
    paths = [run_dir / "report.html", run_dir / "report.md", run_dir / "report.json"]
    write_text(paths[0], html_report(**everything))
    write_text(paths[1], markdown_report(**everything))
    best, mixed = knee_of(points), mixed_points(points, records, everything["space"])
    mixing = mixing_summary(mixed, points, objectives)
    trials = ticketed_trials(records, everything["masks"])
    tickets = tickets_summary(trials)
    summary = {
        "name": name,
        "objectives": [objective.model_dump(mode="json") for objective in objectives],
        "points": [point.model_dump(mode="json") for point in points],
        "n_trials": len(records),
        "n_points": len(points),
        "n_failed": sum(record.status == "failed" for record in records),
        "knee": None if best is None else best.id,
        "compared_with": against and against.model_dump(mode="json"),
        "notices": all_notices(notices, records, points),
        "history": everything["history"].model_dump(mode="json"),
    }
    more = {"mixing": mixing, "tickets": tickets}
    write_json(paths[2], summary | {name: told for name, told in more.items() if told})
    return paths + _write_figures(run_dir / "figures", points, objectives, mixed, series_of(trials, points))


def _space(run_dir: Path) -> dict[str, Any]:
    """The search space of the sweep's description; empty for a trial by itself."""
    path = run_dir / "sweep.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found.get("space") or {}


def _write_figures(
    folder: Path,
    points: Sequence[Point],
    objectives: Sequence[Objective],
    mixed: Mapping[str, Mixed],
    series: Sequence[Series],
) -> list[Path]:
    from robusweep.report.figures import density_png, front_png, weight_curves_png

    paths = []
    if points:
        paths.append(folder / "front.png")
        front_png(points, objectives, paths[-1])
    if weight_curves(mixed):
        paths.append(folder / "weight_curves.png")
        weight_curves_png(points, mixed, paths[-1])
    if series:
        paths.append(folder / "density.png")
        density_png(points, series, paths[-1])
    return paths
