"""What MLflow is told, without MLflow."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from robusweep.errors import MissingError, UsageError
from robusweep.front import Objective, Point
from robusweep.record import AttackScore, Flag, PointRecord, Stopped, TrialRecord
from robusweep.scores import Rate
from robusweep.tracking import links, store_uri, ui
from robusweep.tracking.entries import point_entry, point_metrics
from robusweep.tracking.note import sweep_note
from robusweep.tracking.view import view_tags
from robusweep.tracking.volume import PointVolumes

ACCURACIES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
WITH_COST = [*ACCURACIES, Objective(metric="train_seconds", goal="min")]


def a_point(
    number: int, clean: int, robust: int, *, pareto: bool = True, seconds: float = 10.0, **params: Any
) -> Point:
    score = AttackScore(
        n_queries=900,
        accuracy_under_attack=Rate.of(robust, 100),
        success_rate=Rate.of(clean - robust, clean),
        n_queries_median=41.0,
        n_queries_p90=90.0,
        words_changed=0.1,
    )
    return Point(
        id=f"t{number:03d}",
        trial=number,
        params=params or {"mix.weight": number / 10, "adapter.rank": number},
        clean_accuracy=Rate.of(clean, 100),
        robust_accuracy=Rate.of(robust, 100),
        attacks={"textfooler": score.model_dump(mode="json")},
        held_out={"pwws": score.model_dump(mode="json")},
        train_seconds=seconds,
        pareto=pareto,
        pareto_rank=1 if pareto else 2,
        knee=False,
        protocol_hash="p",
    )


def scored(point: Point, **mixing: Any) -> PointRecord:
    return PointRecord(
        id=point.id,
        params=point.params,
        clean_accuracy=point.clean_accuracy,
        robust_accuracy=point.robust_accuracy,
        attacks={},
        model_digest="m",
        **mixing,
    )


MIXING: dict[str, Any] = {
    "per_text": True,
    "chosen_weight": 0.4,
    "static": {"pwws": Rate.of(7, 20)},
    "unaided": {"textfooler": Rate.of(45, 100)},
}


def test_importing_tracking_loads_no_mlflow() -> None:
    code = "import sys, robusweep.tracking; print([m for m in sys.modules if m.split('.')[0] in ('mlflow', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_argument_wins_over_the_environment_and_the_environment_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert store_uri(tmp_path) == "http://there"
    assert store_uri(tmp_path, "http://here") == "http://here"


def test_every_objective_is_a_metric_and_every_rate_has_its_bounds() -> None:
    metrics = point_metrics(a_point(1, 90, 40))
    named = {"clean_accuracy", "robust_accuracy", "accuracy_under_attack.textfooler", "train_seconds"}
    assert named <= metrics.keys()
    for name in ["clean_accuracy", "robust_accuracy", "accuracy_under_attack.textfooler"]:
        head, dot, attack = name.partition(".")
        assert metrics[f"{head}_low{dot}{attack}"] < metrics[name] < metrics[f"{head}_high{dot}{attack}"]
    assert metrics["n_examples"] == 100
    assert metrics["n_attacked"] == 90  # the ten that were wrong before are not attacked
    assert metrics["robustness_gap"] == pytest.approx(0.5)


def test_a_held_out_attack_has_names_that_no_objective_has() -> None:
    metrics = point_metrics(a_point(1, 90, 40))
    assert "held_out_accuracy_under_attack.pwws" in metrics
    assert "accuracy_under_attack.pwws" not in metrics


def test_only_searched_values_are_params_and_numbers_stay_numbers() -> None:
    point = a_point(1, 90, 40, **{"adversarial.0.radius": 0.1234567891, "adapter.rank": 8, "mix.kind": "uniform"})
    entry = point_entry(point, sweep_id="s", parent="r", notices=[])
    assert entry.params == {"adversarial.0.radius": "0.123457", "adapter.rank": "8", "mix.kind": "uniform"}


def test_a_stand_in_is_named_on_every_point_and_absent_where_there_is_none() -> None:
    point = a_point(1, 90, 40)
    assert point_entry(point, sweep_id="s", parent="r", notices=["a", "b"]).tags["robusweep.stand_in"] == "a; b"
    assert "robusweep.stand_in" not in point_entry(point, sweep_id="s", parent="r", notices=[]).tags


def test_hypervolume_starts_at_the_first_point_and_never_falls() -> None:
    history = PointVolumes(ACCURACIES, [a_point(1, 90, 40), a_point(2, 80, 30), a_point(3, 70, 60)]).history()
    assert history == pytest.approx([0.9 * 0.4, 0.9 * 0.4, 0.9 * 0.4 + 0.7 * 0.2])


def test_a_contribution_is_what_would_be_lost_without_the_point() -> None:
    points = [a_point(1, 90, 40), a_point(2, 80, 30), a_point(3, 70, 60)]
    whole = 0.9 * 0.4 + 0.7 * 0.2
    without_first = 0.7 * 0.6 + 0.1 * 0.3  # the dominated point then takes part of its place
    assert PointVolumes(ACCURACIES, points).contributions() == pytest.approx(
        {"t001": 100 * (whole - without_first) / whole, "t002": 0.0, "t003": 100 * 0.7 * 0.2 / whole}
    )


def test_two_equal_points_contribute_nothing_each() -> None:
    assert set(PointVolumes(ACCURACIES, [a_point(1, 90, 40), a_point(2, 90, 40)]).contributions().values()) == {0.0}


def test_the_reference_of_a_cost_is_declared_and_what_lies_beyond_it_adds_nothing() -> None:
    with pytest.raises(ValueError, match="train_seconds has no reference point"):
        PointVolumes(WITH_COST, [a_point(1, 90, 40)])
    declared = [*ACCURACIES, Objective(metric="train_seconds", reference_point=20.0)]
    found = PointVolumes(declared, [a_point(1, 90, 40, seconds=10.0), a_point(2, 95, 45, seconds=30.0)])
    assert json.loads(found.stored()) == {"clean_accuracy": 0, "robust_accuracy": 0, "train_seconds": 20}
    assert found.history() == pytest.approx([0.9 * 0.4 * 0.5] * 2)
    assert found.contributions() == pytest.approx({"t001": 100, "t002": 0})


def test_points_that_miss_a_constraint_have_no_part_in_the_volume() -> None:
    missing = a_point(1, 95, 60, pareto=False).model_copy(update={"violated": ["clean_accuracy >= 0.96 (it is 0.95)"]})
    found = PointVolumes(ACCURACIES, [missing, a_point(2, 97, 30)])
    assert found.history() == pytest.approx([0, 0.97 * 0.3])
    assert found.contributions() == pytest.approx({"t001": 0, "t002": 100})
    tags = point_entry(missing, sweep_id="s", parent="r", notices=[]).tags
    assert tags["robusweep.violated"] == "clean_accuracy >= 0.96 (it is 0.95)"
    columns = json.loads(next(iter(view_tags([missing], ACCURACIES).values())))["selectedColumns"]
    assert "tags.`robusweep.violated`" in columns


def test_costs_are_metrics_where_they_are_known() -> None:
    point = a_point(1, 90, 40).model_copy(update={"inference_flops": 2_000_000, "n_parameters": 30})
    assert point_metrics(point).items() >= {"inference_flops": 2e6, "n_parameters": 30.0}.items()
    assert not {"inference_flops", "n_parameters"} & point_metrics(a_point(1, 90, 40)).keys()


def test_links_carry_the_filter_and_the_layout() -> None:
    pages = links("http://h:5000/", "7")
    assert all(page.startswith("http://h:5000/#/experiments/7/runs?") for page in pages.values())
    assert all("workflowType=machine_learning" in page for page in pages.values())
    assert "searchFilter=tags.\"robusweep.pareto\" = 'true'&" in unquote(pages["front"])
    assert "viewStateShareKey=pareto" in pages["view"]


def test_the_saved_views_show_what_was_searched_and_leave_out_what_never_changed() -> None:
    points = [a_point(i, 90 - i, 40 + i, **{"mix.weight": i / 9, "adapter.rank": 8}) for i in range(10)]
    views = {name: json.loads(text) for name, text in view_tags(points, ACCURACIES).items()}
    assert len(views) == 2
    assert {view["searchFilter"] for view in views.values()} == {
        "tags.\"robusweep.kind\" = 'point'",
        "tags.\"robusweep.pareto\" = 'true'",
    }
    for view in views.values():
        first, parallel, *_ = view["compareRunCharts"]
        assert (first["xaxis"]["key"], first["yaxis"]["key"]) == ("clean_accuracy", "robust_accuracy")
        assert parallel["selectedParams"] == ["mix.weight"]
        assert "params.`adapter.rank`" not in view["selectedColumns"]


def test_a_mixing_weight_is_the_axis_even_where_another_param_took_more_values() -> None:
    points = [a_point(i, 90 - i, 40 + i, **{"radius": i / 100, "mix.weight": i % 5 / 4}) for i in range(10)]
    charts = json.loads(view_tags(points, ACCURACIES)["mlflow.sharedViewState.pareto"])["compareRunCharts"]
    drawn = {chart["xaxis"]["key"] for chart in charts[1:] if chart["type"] in ("SCATTER", "CONTOUR")}
    assert drawn == {"mix.weight"}


@pytest.mark.parametrize("n_points", [0, 1])
def test_there_is_a_view_before_there_is_anything_to_see(n_points: int) -> None:
    points = [a_point(i, 90, 40) for i in range(n_points)]
    assert all(json.loads(text)["compareRunCharts"] for text in view_tags(points, ACCURACIES).values())


def test_a_view_of_very_many_params_still_fits_an_experiment_tag() -> None:
    params = [{f"adversarial.{k}.learning_rate": k + i for k in range(60)} for i in range(3)]
    points = [a_point(i, 90, 40, **params[i]) for i in range(3)]
    assert max(len(text) for text in view_tags(points, WITH_COST).values()) < 5000


def test_the_note_begins_with_the_notices_and_lists_the_front_only() -> None:
    points = [a_point(1, 90, 40), a_point(2, 80, 30, pareto=False)]
    note = sweep_note("1", points, {"t001": "run1", "t002": "run2"}, ["stand-in for data"])
    assert note.startswith("> **stand-in for data**")
    assert "/runs/run1?" in note
    assert "run2" not in note


def test_a_note_of_a_long_front_says_that_it_is_cut() -> None:
    points = [a_point(i, 90, 40) for i in range(50)]
    note = sweep_note("1", points, {p.id: "r" for p in points}, [])
    assert "20 of 50" in note
    assert len(note) < 5000


def test_the_ui_refuses_a_busy_port_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}"):
            ui(tmp_path, port=port)


def test_the_ui_of_a_folder_without_a_sweep_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(MissingError, match="no sweep was tracked"):
        ui(tmp_path, port=port)
    assert not (tmp_path / "mlflow.db").exists()


def test_flags_replay_and_a_race_are_tags_of_the_point() -> None:
    plain = point_entry(a_point(1, 90, 40), sweep_id="s", parent="p", notices=[])
    assert plain.tags["robusweep.flags"] == "none"
    assert {"robusweep.replay", "robusweep.stopped"} & set(plain.tags) == set()
    doubts = {
        "flags": [Flag(name="saturated", detail="d"), Flag(name="zero_gradient", detail="d")],
        "replay": True,
        "stopped": Stopped(by="t002", n_examples=48, p_value=1e-7, error=0.05),
    }
    doubtful = a_point(1, 90, 40).model_copy(update=doubts)
    tags = point_entry(doubtful, sweep_id="s", parent="p", notices=[]).tags
    assert tags["robusweep.flags"] == "saturated, zero_gradient"
    assert tags["robusweep.replay"] == "true"
    assert tags["robusweep.stopped"] == "after 48 examples by a race: t002 is better (p = 1e-07)"
    note = sweep_note("7", [doubtful], {"t001": "r"}, [])
    assert "saturated, zero_gradient" in note
    early = Stopped(n_examples=8, reason="early_stopping", rung=1, rank=3, n_before=9, n_points=12, n_queries_saved=70)
    tags = point_entry(doubtful.model_copy(update={"stopped": early}), sweep_id="s", parent="p", notices=[]).tags
    why = "rung 1, rank 3, 9 of 12 points before it"
    assert tags["robusweep.stopped"] == f"after 8 examples by early stopping: {why}"
    assert tags["robusweep.n_queries_saved"] == "70"


def test_static_and_unaided_rates_are_metrics_of_their_own_with_their_bounds() -> None:
    point = a_point(1, 90, 40)
    plain = point_entry(point, sweep_id="s", parent="p", notices=[]).metrics
    metrics = point_entry(point, sweep_id="s", parent="p", notices=[], scored=scored(point, **MIXING)).metrics
    assert {name: metrics[name] for name in plain} == plain
    assert set(metrics) - set(plain) == {
        f"{head}{end}.{attack}" for head, attack in (("static", "pwws"), ("unaided", "textfooler"))
        for end in ("", "_low", "_high")
    }  # fmt: skip
    assert metrics["static_low.pwws"] < metrics["static.pwws"] == 0.35 < metrics["static_high.pwws"]


def test_mixing_per_text_and_a_chosen_weight_are_tags_where_they_are() -> None:
    point = a_point(1, 90, 40)
    tags = point_entry(point, sweep_id="s", parent="p", notices=[], scored=scored(point, **MIXING)).tags
    assert tags["robusweep.per_text"] == "true"
    assert tags["robusweep.chosen_weight"] == "0.4"
    for without in (None, scored(point)):
        entry = point_entry(point, sweep_id="s", parent="p", notices=[], scored=without)
        assert entry == point_entry(point, sweep_id="s", parent="p", notices=[])
        assert {"robusweep.per_text", "robusweep.chosen_weight"} & set(entry.tags) == set()


def test_the_saved_views_have_a_column_for_tags_of_mixing_where_a_point_has_them() -> None:
    point = a_point(1, 90, 40)
    fields: dict[str, Any] = {"params": {}, "recipe": {}, "recipe_digest": "d"}
    for mixing, expected in ((MIXING, 2), ({"per_text": True}, 1), ({}, 0)):
        record = TrialRecord(name="n", number=1, status="complete", points=[scored(point, **mixing)], **fields)
        for text in view_tags([point], ACCURACIES, [record]).values():
            columns = json.loads(text)["selectedColumns"]
            assert len({"tags.`robusweep.per_text`", "tags.`robusweep.chosen_weight`"} & set(columns)) == expected
        assert (view_tags([point], ACCURACIES, [record]) == view_tags([point], ACCURACIES)) == (expected == 0)
