"""Conditions on points: what they mean, which point they are asked of, and how a wrong one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from robusweep.errors import EmptyFrontError, UsageError
from robusweep.front import Objective, Point, assess
from robusweep.gate import conditions_in, gate
from robusweep.record import AttackOutcome, AttackScore, PointRecord, Stopped, TrialRecord, robust_accuracy
from robusweep.scores import Rate

OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]


def points(**stopped: Stopped) -> list[Point]:
    """``t000.00``: 90 % clean, 20 % robust; ``t000.01``: 60 % and 55 %."""
    records = []
    for name, n_clean, n_robust in (("t000.00", 90, 4), ("t000.01", 60, 11)):
        outcomes = [
            AttackOutcome(
                example_id=str(i), label=0, status="survived" if i < n_robust else "broken", n_queries=1, n_words=3
            )
            for i in range(20)
        ]
        records.append(
            PointRecord(
                id=name,
                params={},
                clean_accuracy=Rate.of(n_clean, 100),
                robust_accuracy=robust_accuracy({"pwws": outcomes}),
                attacks={"pwws": AttackScore.of(outcomes)},
                model_digest="m",
                stopped=stopped.get(name.replace(".", "_")),
            )
        )
    made: dict[str, Any] = {"name": "run", "number": 0, "status": "complete", "params": {}, "recipe": {}}
    return assess([TrialRecord(**made, recipe_digest="d", protocol_hash="p", points=records)], OBJECTIVES)


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("clean_accuracy >= 0.9", True),
        ("clean_accuracy > 0.9", False),
        ("robust_accuracy <= 0.2 and clean_accuracy >= 0.9", True),
        ("robust_accuracy >= 0.2 and clean_accuracy > 0.95", False),
        ("robust_accuracy.low >= 0.2", False),
        ("accuracy_under_attack.pwws.high > 0.2, n_flags < 1", True),
        ("train_seconds < 1e-3", True),
    ],
)
def test_all_conditions_must_hold(expression: str, passes: bool) -> None:
    found = gate(points(), [expression], "t000.00")
    assert found.passed is passes
    assert found.point == "t000.00"


def test_each_condition_says_what_was_there() -> None:
    found = gate(points(), ["clean_accuracy >= 0.95", "robust_accuracy >= 0.1"], "t000.00")
    assert [(one.condition, one.value, one.holds) for one in found.checked] == [
        ("clean_accuracy >= 0.95", 0.9, False),
        ("robust_accuracy >= 0.1", 0.2, True),
    ]


def test_any_takes_whichever_point_meets_them_together() -> None:
    assert gate(points(), ["robust_accuracy >= 0.5"], "any").point == "t000.01"
    assert gate(points(), ["clean_accuracy >= 0.85"], "any").point == "t000.00"
    assert not gate(points(), ["clean_accuracy >= 0.85", "robust_accuracy >= 0.5"], "any").passed


def test_any_leaves_out_points_that_a_race_has_stopped() -> None:
    stopped = Stopped(by="t000.00", n_examples=5, p_value=0.01, error=0.05)
    assert not gate(points(t000_01=stopped), ["robust_accuracy >= 0.5"], "any").passed
    with pytest.raises(EmptyFrontError):
        gate(points(t000_00=stopped, t000_01=stopped), ["robust_accuracy >= 0.5"], "any")


@pytest.mark.parametrize("wrong", ["robust", "robust_accuracy = 1", "robust_accuracy >= much", "> 3", "a >= nan", ""])
def test_what_is_no_condition_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="is no condition"):
        conditions_in([wrong])


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'clean_accuracy'"):
        gate(points(), ["clean_acuracy >= 0.1"])
