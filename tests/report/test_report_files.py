from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from robusweep.front import Objective, Point
from robusweep.record import TrialRecord
from robusweep.report import front_table, markdown_report, write_reports
from robusweep.report.figures import weight_curves_png
from robusweep.report.mixes import mixed_points
from robusweep.report.readings import measured, step_line, value_of, weight_curves
from robusweep.report.scale import Scale
from robusweep.report.sentences import overlap_sentence

Report = dict[str, Any]
Make = Callable[..., Report]
Trials = Callable[..., list[TrialRecord]]


def printed(points: list[Point], **options: bool) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(front_table(points, **options))
    return console.export_text()


def test_the_files_are_written_and_nothing_else(sweep: Report, tmp_path: Path) -> None:
    paths = write_reports(tmp_path, **sweep)
    names = ["report.html", "report.md", "report.json", "figures/front.png", "figures/weight_curves.png"]
    assert paths == [tmp_path / name for name in names]
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(paths)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths[3:])


def test_the_json_holds_the_points_and_the_summary(sweep: Report, tmp_path: Path) -> None:
    write_reports(tmp_path, **sweep)
    held = json.loads((tmp_path / "report.json").read_text())
    assert [Point.model_validate(each) for each in held["points"]] == sweep["points"]
    assert (held["n_trials"], held["n_points"], held["n_failed"]) == (5, 24, 1)
    assert held["knee"] == next(p.id for p in sweep["points"] if p.knee)
    assert held["notices"] == sweep["notices"]
    assert [Objective.model_validate(each) for each in held["objectives"]] == sweep["objectives"]


def test_without_points_no_figure_is_written(report: Make, tmp_path: Path) -> None:
    paths = write_reports(tmp_path, **report([]))
    assert [p.name for p in paths] == ["report.html", "report.md", "report.json"]
    assert json.loads(paths[2].read_text())["knee"] is None


def test_without_a_weight_there_are_no_curves(trials: Trials, report: Make, tmp_path: Path) -> None:
    arguments = report(trials(3, None))
    assert write_reports(tmp_path, **arguments)[-1].name == "front.png"
    with pytest.raises(ValueError, match=r"mix\.weight"):
        weight_curves_png(arguments["points"], {}, tmp_path / "none.png")


def test_writing_figures_leaves_the_global_backend_alone(sweep: Report, tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    write_reports(tmp_path, **sweep)
    assert dict(mpl.rcParams) == before


def test_the_markdown_table_has_one_row_for_each_front_point(sweep: Report, points: list[Point]) -> None:
    lines = [line for line in markdown_report(**sweep).splitlines() if line.startswith("| ")]
    front = {point.id for point in points if point.pareto}
    assert len({line.count("|") for line in lines}) == 1
    assert {line.split(" | ")[1] for line in lines[2:]} == front
    assert len(lines[2:]) == len(front)


def test_markdown_takes_text_as_text(trials: Trials, report: Make) -> None:
    text = markdown_report(**report(trials(1), name="a <b> | c\n# d"))
    assert text.splitlines()[0] == "# a &lt;b> \\| c # d"


def test_the_terminal_shows_the_front_and_on_request_the_rest(points: list[Point]) -> None:
    front, everything = printed(points), printed(points, with_dominated=True)
    for point in points:
        assert (point.id in front) == point.pareto
        assert point.id in everything
    assert front.count("★") == 1
    rate = next(p for p in points if p.knee).clean_accuracy
    assert f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]" in front


def test_brackets_in_names_are_no_markup_in_the_terminal(points: list[Point]) -> None:
    named = points[0].model_copy(update={"id": "[bold]t000[/bold]", "pareto": True})
    assert "[bold]t000[/bold]" in printed([named])


def test_the_terminal_table_of_nothing_prints() -> None:
    assert "params" in printed([])


@pytest.mark.parametrize("cost_first", [True, False])
def test_the_step_line_joins_the_front_and_claims_nothing_beyond_it(
    trials: Trials, report: Make, cost_first: bool
) -> None:
    x = Objective(metric="train_seconds", goal="min") if cost_first else Objective(metric="clean_accuracy")
    objectives = [x, Objective(metric="robust_accuracy")]
    points = report(trials(4), objectives)["points"]
    corners = step_line(points, objectives)
    ends = {(value_of(measured(p, x.metric)), p.robust_accuracy.value) for p in points if p.pareto}
    assert ends <= set(corners)
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))
    sign = -1 if cost_first else 1
    assert set(corners) - ends, "there are corners between the points"
    assert all(any(sign * end >= sign * a and top >= b for end, top in ends) for a, b in corners)


def test_a_curve_joins_the_weights_of_one_configuration_only(trials: Trials, report: Make) -> None:
    records = trials(4)
    points = report(records)["points"]
    curves = weight_curves(mixed_points(points, records, {}))
    assert len(curves) == 4
    assert sorted(p.id for curve in curves for p in curve.points) == sorted(p.id for p in points)
    for curve in curves:
        assert curve.weights == sorted(curve.weights)
        assert {p.trial for p in curve.points} == {curve.trial}


def test_the_overlap_is_counted_from_the_intervals(points: list[Point], sweep: Report) -> None:
    knee = next(p for p in points if p.knee)
    others = [p for p in points if p.pareto and not p.knee]
    n = sum(
        p.robust_accuracy.low <= knee.robust_accuracy.high and knee.robust_accuracy.low <= p.robust_accuracy.high
        for p in others
    )
    assert 0 < n < len(others)
    assert f"in robust accuracy for {n}," in (overlap_sentence(points, sweep["objectives"]) or "")


def test_counts_have_no_ticks_between_them() -> None:
    for last in range(2, 40):
        texts = [text for _, text in Scale.over((1.0, last), 0, 100, is_rate=False).ticks(whole=True)]
        assert texts
        assert all(text.isdigit() for text in texts)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [0.0, 1.0], [0.931, 0.934], [3.0, 90000.0]])
@pytest.mark.parametrize("is_rate", [True, False])
def test_a_scale_holds_its_values_and_has_ticks_with_distinct_texts(values: list[float], is_rate: bool) -> None:
    scale = Scale.over(values, 0, 100, is_rate=is_rate)
    assert all(0 < scale(v) < 100 for v in values)
    ticks = scale.ticks()
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(0 <= scale(v) <= 100 for v, _ in ticks)
    if not is_rate or max(values, default=0) <= 1:
        assert len(ticks) >= 2


def test_reports_load_no_heavy_package() -> None:
    heavy = ("torch", "matplotlib", "rich", "pandas")
    code = f"import sys, robusweep.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
