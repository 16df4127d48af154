"""The hypervolume of a sweep: exact, fixed in its reference, and what it says of when to stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusweep.front import Constraint, Objective
from robusweep.hypervolume import (
    Grown,
    Growth,
    History,
    Saturation,
    Volume,
    box,
    missing,
    read_history,
    reference_of,
    shares,
    write_history,
)
from robusweep.record import AdapterRecord, AttackOutcome, AttackScore, PointRecord, Stopped, TrialRecord
from robusweep.report import html_report, markdown_report
from robusweep.report.svg_growth import growth_svg
from robusweep.scores import Rate

TWO = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
COST = Objective(metric="inference_flops", reference_point=4e9)


def brute_force(rows: np.ndarray) -> float:
    """By inclusion and exclusion over every set of points."""
    sets = (list(c) for k in range(1, len(rows) + 1) for c in combinations(range(len(rows)), k))
    return sum((-1) ** (len(s) + 1) * float(rows[s].min(axis=0).prod()) for s in sets)


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
def test_the_volume_that_grows_point_by_point_is_that_of_every_beginning(n_objectives: int) -> None:
    rng = np.random.default_rng(n_objectives)
    for _ in range(6):
        rows = rng.integers(0, 6, size=(9, n_objectives)) / 5  # with ties, equal points, and points worth nothing
        volume = Volume(n_objectives)
        grown = [volume.add(row) for row in rows]
        assert grown == pytest.approx([brute_force(rows[: i + 1]) for i in range(9)])
        assert grown == sorted(grown)
        assert box(rows) == pytest.approx(grown[-1])
        assert box(rows[::-1]) == pytest.approx(grown[-1])


def test_a_volume_without_points_is_none() -> None:
    assert Volume(2).value == 0
    assert box(np.empty((0, 3))) == 0


@pytest.mark.parametrize("n_objectives", [2, 4])
def test_thousands_of_points_take_no_time(n_objectives: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((3000, n_objectives)).round(2)
    began, volume = time.process_time(), Volume(n_objectives)
    for row in rows[: 3000 if n_objectives == 2 else 300]:
        volume.add(row)
    assert time.process_time() - began < 2


# ---------------------------------------------------------------------------------------------------- reference
def test_rates_are_measured_from_their_worst_and_costs_from_what_the_recipe_says() -> None:
    low = Objective(metric="robust_accuracy", goal="min")
    assert reference_of([TWO[0], low, COST]) == {"clean_accuracy": 0, "robust_accuracy": 1, "inference_flops": 4e9}
    metrics = {"clean_accuracy": 0.9, "robust_accuracy": 0.3, "inference_flops": 1e9}
    assert shares(metrics, [TWO[0], low, COST]) == pytest.approx([0.9, 0.7, 0.75])
    half = Objective(metric="clean_accuracy", reference_point=0.5)
    assert shares({"clean_accuracy": 0.9}, [half]) == pytest.approx([0.8])
    assert shares({"inference_flops": 5e9}, [COST]) == [0]


def test_why_there_is_no_hypervolume_names_the_key_to_set() -> None:
    assert missing([TWO[0], Objective(metric="n_parameters")]) == (
        "n_parameters has no reference point: set search.objectives.1.reference_point to a cost that is worth nothing"
    )
    assert missing([Objective(metric="train_seconds", goal="max")]) is not None
    assert missing([*TWO, COST]) is None


# --------------------------------------------------------------------------------------------------- its history
def point(clean: int, robust: int, flops: int = 10**9, **fields: Any) -> PointRecord:
    outcome = AttackOutcome(example_id="0", label=0, status="survived", n_queries=7, n_words=5)
    return PointRecord(
        id="p", params={}, clean_accuracy=Rate.of(clean, 100), robust_accuracy=Rate.of(robust, 100),
        attacks={"pwws": AttackScore.of([outcome])}, model_digest="m", inference_flops=flops,
        seconds={"clean": 9.0, "attack pwws": 2.0, "parts attack pwws": 1.0}, **fields,
    )  # fmt: skip


def trial(number: int, *points: PointRecord, cached: bool = False) -> TrialRecord:
    adapter = AdapterRecord(
        view="clean", method="standard", cache_key="k", cached=cached, train_seconds=50.0, final_loss=0.1, n_steps=1,
        token_efficiency=1.0, precision="fp32",
    )  # fmt: skip
    plain: dict[str, Any] = {"params": {}, "recipe": {}, "recipe_digest": "d", "adapters": [adapter]}
    seconds = {"data": 4.0, "ticket": 0.5, "train clean": 0.1 if cached else 50.0}
    return TrialRecord(name="s", number=number, status="complete", points=list(points), seconds=seconds, **plain)


def test_a_history_counts_what_is_spent_and_only_points_that_meet_the_bounds() -> None:
    growth = Growth(TWO, [Constraint(metric="inference_flops", at_most=2e9)])
    growth.add(trial(3, point(90, 40), point(99, 99, 3 * 10**9)))
    growth.add(trial(0, point(90, 40), cached=True))
    stopped = Stopped(by="p", n_examples=3, p_value=0.01, error=0.05)
    growth.add(trial(1, point(100, 100, stopped=stopped), point(70, 60)))
    found = growth.history()
    assert [g.trial for g in found.trials] == [3, 0, 1]
    assert [g.n_points for g in found.trials] == [2, 3, 5]
    assert [g.seconds for g in found.trials] == pytest.approx([56.5, 60.1, 116.6])
    assert [g.n_queries for g in found.trials] == [14, 21, 35]
    assert growth.volumes == pytest.approx([0.36, 0.36, 0.36 + 0.7 * 0.2])
    assert found.hypervolume == growth.volumes[-1]
    assert found.sentence() == (
        "hypervolume 0.5000 after 3 completed trials, 117 s of training and attacks, 35 queries (reference point: "
        "clean_accuracy 0, robust_accuracy 0)"
    )


def test_without_a_reference_the_history_goes_on_without_a_volume() -> None:
    growth = Growth([TWO[0], Objective(metric="inference_flops")], [])
    growth.add(trial(0, point(90, 40)))
    found = growth.history()
    assert growth.volumes == []
    assert found.hypervolume is None
    assert (found.sentence() or "").startswith("no hypervolume: inference_flops has no reference point")


def test_a_history_is_read_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    growth = Growth(TWO, [])
    growth.add(trial(0, point(90, 40)))
    write_history(tmp_path, growth.history(ended="it grew no more"))
    assert read_history(tmp_path) == growth.history(ended="it grew no more")
    (tmp_path / "history.json").write_text('{"trials": 3')
    assert read_history(tmp_path) == History() == read_history(tmp_path / "nowhere")
    assert History().sentence() is None


# ------------------------------------------------------------------------------------------------- when to stop
@pytest.mark.parametrize(
    ("volumes", "since", "stops"),
    [
        ([0.1, 0.2, 0.3, 0.3, 0.3], 0, False),  # five are not twice three
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.3], 0, True),
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.303], 0, False),  # one per cent is enough
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.3029], 0, True),
        ([0.0] * 9, 0, False),  # nothing meets the bounds so far
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.1], 0, False),
        ([0.3] * 8, 6, False),  # taken up again after six
        ([0.3] * 9, 6, True),
        ([], 0, False),
    ],
)
def test_a_sweep_ends_when_it_has_grown_by_less_than_the_least_gain(
    volumes: Sequence[float], since: int, stops: bool
) -> None:
    reason = Saturation(min_gain=0.01, trials=3).reason(volumes, since=since)
    assert (reason is not None) == stops
    if reason:
        assert reason.startswith(f"the last 3 of {len(volumes)} completed trials raised the hypervolume by 0.")
        assert reason.endswith("less than search.stop.min_gain (1.00%)")


# -------------------------------------------------------------------------------------------------------- shown
def test_reports_draw_the_history_and_say_why_the_sweep_ended() -> None:
    grown = [
        Grown(trial=i, n_points=i + 1, seconds=10.0 * i, n_queries=5, hypervolume=v)
        for i, v in enumerate([0.2, 0.2, 0.3])
    ]
    history = History(reference={"clean_accuracy": 0.0}, ended="it grew <no> more", trials=grown)
    given: dict[str, Any] = {"name": "s", "points": [], "records": [], "objectives": TWO, "notices": [], "protocol": {}}
    page = html_report(**given, recipe_yaml="", history=history)
    assert "Hypervolume over finished trials" in page
    assert "Hypervolume 0.3000 after 3 completed trials" in page
    assert "it grew &lt;no&gt; more" in page
    assert "over finished trials" not in html_report(**given, recipe_yaml="")
    line = growth_svg(history).partition('class="step" d="')[2].partition('"')[0]
    assert line.count("H") == line.count("V") == 3
    assert "ended before its budget" not in markdown_report(**given, recipe_yaml="", history=history)  # without points
    none = History(missing="no reference", trials=[grown[0].model_copy(update={"hypervolume": None})])
    page = html_report(**given, recipe_yaml="", history=none)
    assert "No hypervolume: no reference" in page
    assert "chart small" not in page.partition("<body>")[2]


def test_one_trial_makes_a_drawing_too() -> None:
    history = History(trials=[Grown(trial=0, n_points=1, seconds=0.0, n_queries=0, hypervolume=0.0)])
    assert "1 completed trials" in growth_svg(history)
