"""The share of bootstrap samples in which a point is on the front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusweep.front import Objective, Point, assess
from robusweep.membership import front_probabilities, on_front
from robusweep.record import AttackOutcome, AttackScore, PointRecord, Stopped, TrialRecord, robust_accuracy, write_text
from robusweep.scores import Rate, pareto_ranks

OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]


def test_the_front_is_that_of_the_ranks() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 9, 80):
        values = rng.integers(0, 7, size=(n, 2)).astype(float)
        ranks = pareto_ranks(values.tolist(), ["max", "max"])
        assert on_front(values[:, 0], values[:, 1]).tolist() == [rank == 1 for rank in ranks]


def written(run_dir: Path, marks: dict[str, tuple[str, str]], **stopped: Stopped) -> list[Point]:
    """Point -> (clean marks of all texts, robust marks of the first ones), 1 being right."""
    records = []
    for number, (name, (clean, robust)) in enumerate(marks.items()):
        outcomes = [
            AttackOutcome(
                example_id=str(i), label=0, status="survived" if mark == "1" else "broken", n_queries=1, n_words=3
            )
            for i, mark in enumerate(robust)
        ]
        folder = run_dir / f"trials/t{number:03d}/attacks"
        write_text(folder / f"{name}.pwws.jsonl", "".join(o.model_dump_json() + "\n" for o in outcomes))
        write_text(folder / f"{name}.clean.txt", clean + "\n")
        point = PointRecord(
            id=name,
            params={},
            clean_accuracy=Rate.of(clean.count("1"), len(clean)),
            robust_accuracy=robust_accuracy({"pwws": outcomes}),
            attacks={"pwws": AttackScore.of(outcomes)},
            model_digest="m",
            stopped=stopped.get(name),
        )
        made: dict[str, Any] = {"name": "run", "number": number, "status": "complete", "params": {}, "recipe": {}}
        records.append(TrialRecord(**made, recipe_digest="d", protocol_hash="p", points=[point]))
    return assess(records, OBJECTIVES)


def test_who_is_right_wherever_another_is_and_more_is_always_on_the_front(tmp_path: Path) -> None:
    points = written(tmp_path, {"a": ("1111111111", "11110"), "b": ("1111111100", "10000")})
    found = front_probabilities(tmp_path, points)
    assert found["a"] == 1.0
    assert found["b"] < 0.1  # only where a sample holds none of the texts that tell them apart


def test_a_lead_of_one_text_is_no_certainty(tmp_path: Path) -> None:
    points = written(tmp_path, {"a": ("1" * 40, "1" * 11 + "0" * 9), "b": ("1" * 40, "0" * 10 + "1" * 10)})
    found = front_probabilities(tmp_path, points)
    assert 0.5 < found["a"] < 0.75
    assert 0.3 < found["b"] < 0.55
    assert found == front_probabilities(tmp_path, points), "the draws are always the same"


def test_points_without_outcomes_and_stopped_ones_are_left_out(tmp_path: Path) -> None:
    stopped = Stopped(by="a", n_examples=3, p_value=0.01, error=0.05)
    points = written(tmp_path, {"a": ("111", "110"), "b": ("110", "100"), "c": ("011", "000")}, b=stopped)
    (tmp_path / "trials/t002/attacks/c.clean.txt").unlink()
    assert front_probabilities(tmp_path, points).keys() == {"a"}
    assert front_probabilities(tmp_path / "elsewhere", points) == {}


@pytest.mark.parametrize("n_attacked", [3, 5])
def test_all_or_some_of_the_texts_may_have_been_attacked(tmp_path: Path, n_attacked: int) -> None:
    points = written(tmp_path, {"a": ("11111", "1" * n_attacked)})
    assert front_probabilities(tmp_path, points) == {"a": 1.0}
