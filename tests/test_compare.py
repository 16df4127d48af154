"""Points against a reference: which one, on which examples, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from robusweep.compare import against_reference
from robusweep.front import Objective, Point, assess
from robusweep.record import (
    AttackOutcome,
    AttackScore,
    PointRecord,
    Status,
    Stopped,
    TrialRecord,
    robust_accuracy,
    write_text,
)
from robusweep.reference import HELD_OUT_ROBUST, ROBUST, reference_of, references_in
from robusweep.scores import Comparison, Rate, holm

OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
UNDER = "accuracy_under_attack."
SIGNS: Mapping[str, Status] = {"+": "survived", "-": "broken", "x": "misclassified"}
VANILLA = {"train": "vanilla"}


def outcomes(signs: str) -> list[AttackOutcome]:
    """One example for each sign: + survived, - broken, x wrong before."""
    return [
        AttackOutcome(example_id=str(i), label=0, status=SIGNS[sign], n_queries=9, n_words=5)
        for i, sign in enumerate(signs)
    ]


def write_points(
    run_dir: Path, made: Mapping[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]]
) -> list[Point]:
    """Point id -> (params, known attack -> signs, held-out attack -> signs), as a sweep leaves them."""
    records = []
    for number, (name, (params, known, held_out)) in enumerate(made.items()):
        for kind, signs in (known | held_out).items():
            rows = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes(signs))
            write_text(run_dir / f"trials/t{number:03d}/attacks/{name}.{kind}.jsonl", rows)
        point = PointRecord(
            id=name,
            params=params,
            clean_accuracy=Rate.of(80, 100),
            robust_accuracy=robust_accuracy({kind: outcomes(signs) for kind, signs in known.items()}),
            attacks={kind: AttackScore.of(outcomes(signs)) for kind, signs in known.items()},
            held_out={kind: AttackScore.of(outcomes(signs)) for kind, signs in held_out.items()},
            model_digest="m",
        )
        records.append(
            TrialRecord(
                name="run",
                number=number,
                status="complete",
                params=params,
                recipe={},
                recipe_digest="d",
                protocol_hash="p",
                points=[point],
            )
        )
    return assess(records, OBJECTIVES)


@pytest.fixture
def points(tmp_path: Path) -> list[Point]:
    """A reference, two points against it; the second attack and the held-out ones break other examples."""
    return write_points(
        tmp_path,
        {
            "t000.00": (VANILLA, {"a": "++--x+", "b": "+-+-x+"}, {"c": "+----x", "input_reduction": "------"}),
            "t001.00": ({"train": "pgd"}, {"a": "+++-+x", "b": "++++-x"}, {"c": "+++--x", "input_reduction": "------"}),
            "t002.00": ({"train": "vat"}, {"a": "++--x+", "b": "+-+-x+"}, {"c": "+----x", "input_reduction": "++++++"}),
        },
    )


def test_every_other_point_is_compared_example_by_example(tmp_path: Path, points: list[Point]) -> None:
    table = against_reference(tmp_path, points, VANILLA)
    assert table.references == ["t000.00"]
    assert [(row.point, row.reference) for row in table.rows] == [("t001.00", "t000.00"), ("t002.00", "t000.00")]
    one, other = table.rows
    assert list(one.comparisons) == [ROBUST, HELD_OUT_ROBUST, *(UNDER + k for k in ("a", "b", "c", "input_reduction"))]
    robust = one.comparisons[ROBUST]  # +++--x against +---x+
    assert robust == Comparison.of([1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1])  # type: ignore[list-item]
    assert (robust.n_only_first, robust.n_only_second, robust.first.n) == (2, 1, 6)
    assert one.clean == Comparison.of([True] * 5 + [False], [True] * 4 + [False, True])
    assert other.comparisons[ROBUST].difference == 0
    assert [row.holm_p_value for row in table.rows] == holm([row.comparisons[ROBUST].p_value for row in table.rows])


def test_clean_accuracy_is_compared_on_all_validation_texts_where_they_were_kept(
    tmp_path: Path, points: list[Point]
) -> None:
    for number, marks in ((0, "1101100000"), (1, "1111000000")):
        (tmp_path / f"trials/t00{number}/attacks/t00{number}.00.clean.txt").write_text(f"{marks}\n")
    row, other = against_reference(tmp_path, points, VANILLA).rows
    assert row.clean is not None
    assert (row.clean.first.n, row.clean.n_only_first, row.clean.n_only_second) == (10, 1, 1)
    assert other.clean is not None
    assert other.clean.first.n == 6, "its marks are gone: the attacked examples are left"


def test_held_out_robust_accuracy_is_over_the_attacks_that_turn_predictions(
    tmp_path: Path, points: list[Point]
) -> None:
    table = against_reference(tmp_path, points, VANILLA)
    assert table.held_out_robust == {"t000.00": Rate.of(1, 6), "t001.00": Rate.of(3, 6), "t002.00": Rate.of(1, 6)}
    assert table.rows[0].comparisons[HELD_OUT_ROBUST].difference == pytest.approx(2 / 6)
    assert table.rows[1].comparisons[HELD_OUT_ROBUST].difference == 0


def test_without_a_complete_reference_nothing_is_compared(tmp_path: Path, points: list[Point]) -> None:
    for found in (points[1:], []):
        table = against_reference(tmp_path, found, VANILLA)
        assert (table.values, table.references, table.rows, table.held_out_robust) == (VANILLA, [], [], {})


def test_a_point_whose_outcomes_are_gone_or_damaged_has_an_empty_row(tmp_path: Path, points: list[Point]) -> None:
    (tmp_path / "trials/t001/attacks/t001.00.b.jsonl").unlink()
    (tmp_path / "trials/t002/attacks/t002.00.a.jsonl").write_text("{")
    table = against_reference(tmp_path, points, VANILLA)
    assert [(row.comparisons, row.clean, row.holm_p_value) for row in table.rows] == [({}, None, None)] * 2
    assert set(table.held_out_robust) == {"t000.00"}


def test_a_stopped_point_is_compared_on_what_it_has_met(tmp_path: Path) -> None:
    points = write_points(
        tmp_path,
        {
            "t000.00": (VANILLA, {"a": "++++"}, {"c": "++++"}),
            "t001.00": ({"train": "pgd"}, {"a": "--"}, {}),
        },
    )
    row = against_reference(tmp_path, points, VANILLA).rows[0]
    assert set(row.comparisons) == {ROBUST, UNDER + "a"}
    assert row.comparisons[ROBUST].first.n == 2


def test_points_that_share_no_example_are_not_compared(tmp_path: Path) -> None:
    made: Any = {"t000.00": (VANILLA, {"a": "++"}, {}), "t001.00": ({"train": "pgd"}, {"a": "+-"}, {})}
    points = write_points(tmp_path, made)
    path = tmp_path / "trials/t001/attacks/t001.00.a.jsonl"
    path.write_text(path.read_text().replace('"example_id":"', '"example_id":"other'))
    row = against_reference(tmp_path, points, VANILLA).rows[0]
    assert (row.comparisons, row.clean, row.holm_p_value) == ({}, None, None)


def point(name: str, **params: Any) -> Point:
    rate = Rate.of(1, 2)
    return Point(
        id=name, trial=0, params=params, clean_accuracy=rate, robust_accuracy=rate, attacks={}, train_seconds=1.0,
        pareto=True, pareto_rank=1, knee=False, protocol_hash="p",
    )  # fmt: skip


def test_of_several_references_the_one_that_agrees_in_all_else_is_taken() -> None:
    made = [
        point("t1", train="vanilla", rank=4),
        point("t0", train="vanilla", rank=8, weight=1.0),
        point("t2", train="pgd"),
    ]
    references = references_in(made, VANILLA)
    assert [p.id for p in references] == ["t0", "t1"]
    assert reference_of(point("x", train="pgd", rank=4, weight=1.0), references, VANILLA).id == "t1"
    assert reference_of(point("x", train="pgd", rank=8, weight=0.5), references, VANILLA).id == "t0"
    assert reference_of(point("x", train="pgd", rank=2), references, VANILLA).id == "t0", "none agrees: the first"
    assert reference_of(point("x", train="pgd"), references, VANILLA).id == "t0", "nothing to agree on: the first"


def test_a_reference_that_a_race_has_stopped_comes_after_those_in_full() -> None:
    stopped = Stopped(by="t1", n_examples=3, p_value=0.01, error=0.05)
    made = [point("t0", train="vanilla").model_copy(update={"stopped": stopped}), point("t1", train="vanilla")]
    assert [p.id for p in references_in(made, VANILLA)] == ["t1", "t0"]
