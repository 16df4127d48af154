"""MLflow's charts page of a sweep: the saved view behind an experiment tag, and links that open it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from robusweep.front import Objective, Point
from robusweep.hypervolume import missing
from robusweep.record import TrialRecord
from robusweep.tracking.entries import CHOSEN, CONTRIBUTION, GAP, PER_TEXT, VIOLATED

VIEW, FRONT = "pareto", "front"  # names of the two saved views
N_CONTOUR = 5  # values of the second param below which a contour would be made up
SECTION = "robusweep-main"
N_AXES = 8  # searched params that are shown; more fit neither the parallel axes nor the table
TAGS = ("robusweep.pareto", "robusweep.knee", "robusweep.flags")  # that every point has
FRONT_FILTER = "tags.\"robusweep.pareto\" = 'true'"
POINT_FILTER = "tags.\"robusweep.kind\" = 'point'"


def links(ui_url: str, experiment_id: str) -> dict[str, str]:
    """``view``: charts of all points. ``table``: the front with its scores. ``front``: the same runs, plainly.

    ``front`` carries its filter in the address and needs no saved view, so it works in every version of MLflow.
    ``ui_url`` is empty for links inside MLflow's own pages.
    """
    page = f"{ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    order = f"orderByKey={quote(f'metrics.`{CONTRIBUTION}`')}&orderByAsc=false"
    return {
        "view": f"{page}&viewStateShareKey={VIEW}&compareRunsMode=CHART",
        "table": f"{page}&viewStateShareKey={FRONT}",
        "front": f"{page}&searchFilter={quote(FRONT_FILTER)}&{order}",
    }


def run_link(experiment_id: str, run_id: str) -> str:
    """A link to a run from inside MLflow's own pages."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def view_tags(
    points: Sequence[Point], objectives: Sequence[Objective], records: Sequence[TrialRecord] = ()
) -> dict[str, str]:
    """The experiment tags that hold the saved views. Their format is MLflow's own and undocumented (3.17).

    MLflow ignores what it does not know, so another version shows at worst its automatic charts. ``records`` tell
    which tags that few points have are worth a column.
    """
    params = _varied(points)[:N_AXES]
    metrics = list(dict.fromkeys(["clean_accuracy", "robust_accuracy", *(o.metric for o in objectives)]))
    columns = [f"metrics.`{m}`" for m in [*metrics, CONTRIBUTION]] + [f"params.`{p}`" for p in params]
    by_volume = len(objectives) > 1 and missing(objectives) is None
    state: dict[str, Any] = {
        "orderByKey": f"metrics.`{CONTRIBUTION if by_volume else objectives[0].metric}`",
        "orderByAsc": not by_volume and objectives[0].goal == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*columns, *(f"tags.`{tag}`" for tag in (*TAGS, *_rare_tags(points, records)))],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": _charts(points, params, metrics),
        "compareRunSections": [_shown({"uuid": SECTION, "name": "Robustness trade-off", "display": True})],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    filters = {VIEW: POINT_FILTER, FRONT: FRONT_FILTER}
    return {
        f"mlflow.sharedViewState.{name}": json.dumps(state | {"searchFilter": text}, separators=(",", ":"))
        for name, text in filters.items()
    }


def _rare_tags(points: Sequence[Point], records: Sequence[TrialRecord]) -> list[str]:
    missed = [VIOLATED] if any(point.violated for point in points) else []
    scored = [point for record in records for point in record.points]
    per_text = [PER_TEXT] if any(point.per_text for point in scored) else []
    return missed + per_text + ([CHOSEN] if any(point.chosen_weight is not None for point in scored) else [])


def _varied(points: Sequence[Point]) -> list[str]:
    """Searched params that took more than one value, in the order of the search space."""
    keys = dict.fromkeys(key for point in points for key in point.params)
    return [key for key in keys if len({str(point.params.get(key)) for point in points}) > 1]


def _numeric(points: Sequence[Point], params: Sequence[str]) -> dict[str, int]:
    """Of ``params`` those with a number at every point -> how many values each took.

    A mixing weight comes first, then what took most values.
    """
    values = {param: [point.params.get(param) for point in points] for param in params}
    counts = {p: len(set(v)) for p, v in values.items() if all(type(x) in (int, float) for x in v)}
    return dict(sorted(counts.items(), key=lambda item: (not item[0].endswith("weight"), -item[1])))


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"isReordered": False, "deleted": False, "isGenerated": False}


def _metric(key: str) -> dict[str, str]:
    return {"key": key, "type": "METRIC"}


def _param(key: str) -> dict[str, str]:
    return {"key": key, "type": "PARAM"}


def _charts(points: Sequence[Point], params: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    numeric = _numeric(points, params)
    accuracy = {"xaxis": _metric("clean_accuracy"), "yaxis": _metric("robust_accuracy")}
    charts: list[dict[str, Any]] = [{"type": "SCATTER", **accuracy}]
    if params:
        charts.append({"type": "PARALLEL", "selectedParams": [*params], "selectedMetrics": [*metrics]})
    fine = [param for param, n_values in numeric.items() if n_values >= N_CONTOUR]
    if len(fine) > 1:
        x, y = _param(fine[0]), _param(fine[1])
        charts.append({"type": "CONTOUR", "xaxis": x, "yaxis": y, "zaxis": _metric("robust_accuracy")})
    for param in list(numeric)[:1]:
        charts += [{"type": "SCATTER", "xaxis": _param(param), "yaxis": _metric(m)} for m in [*metrics, GAP]]
    common = {"runsCountToCompare": 100, "metricSectionId": SECTION}
    return [_shown({"uuid": f"robusweep-{i}", **common, **chart}) for i, chart in enumerate(charts)]
