"""Bounds that points must meet, the order of objectives, and costs: what front, knee and picks make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from robusweep.cli import main
from robusweep.errors import EmptyFrontError, RecipeError
from robusweep.front import Constraint, Objective, Order, Point, assess, nearest_to_feasible, with_stand_ins
from robusweep.gate import gate
from robusweep.pick import pick
from robusweep.recipe import SweepPlan, load_recipe
from robusweep.record import AttackOutcome, AttackScore, PointRecord, StandIn, Stopped, TrialRecord, write_json
from robusweep.report import html_report, markdown_report
from robusweep.report.figures import front_png
from robusweep.report.terminal import front_table
from robusweep.scores import Rate, lexicographic_choice

Declare = Callable[..., SweepPlan]
TWO = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
CLEAN = Constraint(metric="clean_accuracy", at_least=0.85)
CHEAP = Constraint(metric="inference_flops", at_most=2e9)


def point(name: str, clean: int, robust: int, flops: int = 10**9, **fields: Any) -> PointRecord:
    outcomes = [
        AttackOutcome(example_id=str(i), label=0, status="survived" if i < robust else "broken", n_queries=9, n_words=5)
        for i in range(100)
    ]
    return PointRecord(
        id=name, params={"mix.weight": 0.5}, clean_accuracy=Rate.of(clean, 100), robust_accuracy=Rate.of(robust, 100),
        attacks={"pwws": AttackScore.of(outcomes)}, model_digest="m", inference_flops=flops, n_parameters=flops // 1000,
        **fields,
    )  # fmt: skip


def trial(*points: PointRecord) -> TrialRecord:
    plain: dict[str, Any] = {"params": {}, "recipe": {}, "recipe_digest": "d", "protocol_hash": "p"}
    return TrialRecord(name="s", number=0, status="complete", points=list(points), **plain)


def assessed(*points: PointRecord, order: Order = "pareto", objectives: list[Objective] = TWO) -> dict[str, Point]:
    found = assess([trial(*points)], objectives, constraints=[CLEAN, CHEAP], order=order)
    return {p.id: p for p in found}


# -------------------------------------------------------------------------------------------------- constraints
def test_what_meets_the_bounds_comes_before_what_does_not_by_how_far_it_is_off() -> None:
    found = assessed(
        point("a", 90, 10),
        point("b", 86, 40),
        point("c", 85, 5),  # at the bound, and dominated
        point("far", 50, 90),
        point("near", 80, 95),
        point("dear", 95, 95, 4 * 10**9),  # twice what is allowed: as far off as nothing else
        point("stopped", 99, 99, stopped=Stopped(by="a", n_examples=3, p_value=0.01, error=0.05)),
    )
    assert {name: p.pareto_rank for name, p in found.items()} == {
        "a": 1, "b": 1, "c": 2, "near": 3, "far": 4, "dear": 5, "stopped": 6,
    }  # fmt: skip
    assert [name for name, p in found.items() if p.pareto] == ["a", "b"]
    assert [name for name, p in found.items() if p.knee] == ["a"]
    assert found["near"].violated == ["clean_accuracy >= 0.85 (it is 0.8)"]
    assert found["dear"].violated == ["inference_flops <= 2000000000 (it is 4e+09)"]
    assert not any(found[name].violated for name in ("a", "b", "c", "stopped"))  # the last one is not judged


def test_where_no_point_meets_the_bounds_there_is_no_front_and_the_nearest_is_named() -> None:
    found = list(assessed(point("far", 50, 90), point("near", 80, 20)).values())
    assert not any(p.pareto or p.knee or p.best for p in found)
    said = nearest_to_feasible(found)
    assert said == "no point meets the constraints; near is nearest: clean_accuracy >= 0.85 (it is 0.8)"
    assert nearest_to_feasible([]) is None
    for rule in ("knee", "best"):
        with pytest.raises(
            EmptyFrontError, match=f"there is no {rule}: no point meets the constraints; near is nearest"
        ):
            pick(found, rule)
    assert pick(found, "far").id == "far"


def test_a_pick_by_accuracy_takes_no_point_that_misses_a_bound() -> None:
    found = list(assessed(point("a", 90, 10), point("near", 80, 95), point("dear", 95, 96, 4 * 10**9)).values())
    assert pick(found, "max_robust@clean>=0.1").id == "a"


def test_excesses_are_shares_of_the_bound_and_none_where_it_is_met() -> None:
    assert CLEAN.excess(0.85) == 0
    assert CLEAN.excess(0.0) == pytest.approx(1)
    assert CHEAP.excess(3e9) == pytest.approx(0.5)
    assert CHEAP.excess(1e9) < 0
    assert Constraint(metric="robust_accuracy", at_most=0.0).excess(0.25) == 0.25  # nothing to take a share of


@pytest.mark.parametrize("bounds", [{}, {"at_least": 0.1, "at_most": 0.2}])
def test_a_constraint_has_exactly_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="either at_least or at_most"):
        Constraint(metric="clean_accuracy", **bounds)


def test_a_constraint_on_an_attack_follows_its_stand_in() -> None:
    stand_in = StandIn(what="attack", asked="textfooler", used="textfooler_wordnet", reason="no files")
    bound = Constraint(metric="accuracy_under_attack.textfooler", at_least=0.2)
    assert with_stand_ins([bound], [stand_in])[0].metric == "accuracy_under_attack.textfooler_wordnet"


def test_a_record_without_costs_has_no_such_metric_and_a_bound_on_it_is_told_as_missing() -> None:
    old = point("a", 90, 10).model_copy(update={"inference_flops": None, "n_parameters": None})
    again = PointRecord.model_validate_json(old.model_dump_json(exclude={"inference_flops", "n_parameters"}))
    assert again == old
    assert {"inference_flops", "n_parameters"}.isdisjoint(again.metrics())
    assert point("a", 90, 10).metrics()["inference_flops"] == 1e9
    with pytest.raises(ValueError, match="metric 'inference_flops' is None"):
        assessed(old)
    (found,) = assess([trial(old)], TWO)
    assert found.pareto
    assert found.inference_flops is None


def test_a_cost_is_minimised_unless_the_recipe_says_otherwise() -> None:
    assert Objective(metric="n_parameters").goal == "min"
    assert Objective(metric="train_seconds", goal="max").goal == "max"
    assert Objective(metric="clean_accuracy").goal == "max"
    both = [TWO[1], Objective(metric="inference_flops")]
    found = assessed(point("a", 90, 10, 10**9), point("b", 90, 20, 2 * 10**9), point("c", 90, 9), objectives=both)
    assert [p.id for p in found.values() if p.pareto] == ["a", "b"]


def test_a_gate_may_ask_for_costs() -> None:
    found = list(assessed(point("a", 90, 10)).values())
    assert gate(found, ["inference_flops <= 1e9 and n_parameters < 2e6"]).passed


def test_a_gate_that_any_point_may_pass_leaves_out_what_misses_a_bound() -> None:
    found = list(assessed(point("a", 90, 10), point("near", 80, 95)).values())
    assert not gate(found, ["robust_accuracy > 0.5"], "any").passed
    with pytest.raises(EmptyFrontError, match="no point meets the constraints"):
        gate(found[1:], ["robust_accuracy > 0.5"], "any")


# -------------------------------------------------------------------------------------------------------- order
def test_each_objective_in_turn_keeps_what_is_within_its_tolerance_of_the_best_left() -> None:
    points = [[0.90, 0.10], [0.895, 0.30], [0.89, 0.30], [0.80, 0.90]]
    assert lexicographic_choice(points, ["max", "max"], [0.0, 0.0]) == 0
    assert lexicographic_choice(points, ["max", "max"], [0.01, 0.0]) == 1  # of two equal in the last, the better first
    assert lexicographic_choice(points, ["max", "max"], [0.5, 0.0]) == 3
    assert lexicographic_choice(points, ["min", "max"], [0.0, 0.0]) == 3
    assert lexicographic_choice([], ["max"], [0.0]) is None
    assert lexicographic_choice([[0.3], [0.3]], ["max"], [0.1]) == 0


def test_no_point_dominates_the_lexicographic_choice_whatever_the_tolerances() -> None:
    import random

    rng = random.Random(0)
    for _ in range(200):
        points = [[rng.randrange(6) / 10 for _ in range(3)] for _ in range(12)]
        chosen = points[lexicographic_choice(points, ["max"] * 3, [rng.choice([0, 0.1, 0.3]) for _ in range(3)]) or 0]
        assert not any(p != chosen and all(a >= b for a, b in zip(p, chosen, strict=True)) for p in points)


def test_the_order_decides_the_best_and_leaves_front_and_knee_as_they_are() -> None:
    points = [
        point("a", 95, 10),
        point("b", 94, 30),
        point("c", 90, 80),
        point("d", 86, 85),
        point("dear", 95, 90, 10**10),
    ]
    objectives = [Objective(metric="clean_accuracy", tolerance=0.01), TWO[1]]
    plain, ordered = assessed(*points), assessed(*points, order="lexicographic", objectives=objectives)
    assert [p.id for p in plain.values() if p.best] == [p.id for p in plain.values() if p.knee] == ["c"]
    assert [p.id for p in ordered.values() if p.best] == ["b"]
    assert [p.id for p in ordered.values() if p.knee] == ["c"]
    assert pick(list(ordered.values()), "best").id == "b"
    assert {n: p.pareto_rank for n, p in ordered.items()} == {n: p.pareto_rank for n, p in plain.items()}
    old = [p.model_copy(update={"best": False}) for p in plain.values()]  # a front of an earlier version
    assert pick(old, "best").id == "c"


# ------------------------------------------------------------------------------------------------------- recipe
RECIPE = """\
# Bounds and costs.
version: 1
name: small
data: {kind: csv, path: data.csv, n_train: 20, n_validation: 12, n_calibration: 6, n_test: 6}
adapter: {kind: lora, rank: 4}
train: {kind: standard}
adversarial: [{kind: pgd, radius: 0.3}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 4}
search: {space: space.yaml}
"""


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "space.yaml").write_text("# One grid.\nmix.weight: {grid: [0.0, 1.0], after: training}\n")
    return lambda *overrides: load_recipe(tmp_path / "recipe.yaml", list(overrides))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("search.constraints=[{metric: clean_acuracy, at_least: 0.9}]", "did you mean 'clean_accuracy'"),
        ("search.constraints=[{metric: accuracy_under_attack.pwws, at_least: 0.9}]", "unknown metric"),
        ("search.constraints=[{metric: clean_accuracy}]", "either at_least or at_most"),
        ("search.constraints=[{metric: clean_accuracy, at_least: high}]", "search.constraints.0.at_least"),
        ("search.constraints=[{metric: clean_accuracy, at_least: 0.9}, {metric: clean_accuracy, at_least: 0.9}]",
         "search.constraints.1.*listed already"),
        ("search.objectives=[{metric: clean_accuracy}, {metric: clean_accuracy}]", "is an objective already"),
        ("search.objectives=[{metric: clean_accuracy, tolerance: -0.1}]", "search.objectives.0.tolerance"),
        ("search.objectives=[{metric: clean_accuracy, reference_point: 1.5}]", r"1.5 is no rate \(allowed: 0 to 1\)"),
        ("search.objectives=[{metric: clean_accuracy, reference_point: 1.0}]", "no clean_accuracy is better than 1"),
        ("search.objectives=[{metric: n_parameters, reference_point: 0.0}]", "allowed: above 0"),
        ("search.objectives=[{metric: n_parameters, goal: max, reference_point: 9.0}]", "has no largest value"),
        ("search.order=first", "search.order"),
        ("search.stop={min_gain: 0.0}", "search.stop.min_gain"),
        ("search.stop={trials: 0}", "search.stop.trials"),
        ("search={space: space.yaml, stop: {}, objectives: [{metric: clean_accuracy}, {metric: n_parameters}]}",
         "search.stop: needs the hypervolume.*search.objectives.1.reference_point"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_with_its_key(declare: Declare, override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        declare(override)


def test_a_race_takes_only_bounds_that_who_wins_it_meets(declare: Declare) -> None:
    race = "attacks.race={}"
    declare(race, "search.constraints=[{metric: robust_accuracy, at_least: 0.2}]")
    with pytest.raises(RecipeError, match=r"attacks\.race.*the constraints also hold inference_flops <= 5"):
        declare(race, "search.constraints=[{metric: inference_flops, at_most: 5}]")


def test_early_stopping_takes_only_bounds_on_objectives(declare: Declare) -> None:
    mild, bound = "search.early_stopping=mild", "search.constraints=[{metric: n_parameters, at_most: 5}]"
    suite = ("data.n_validation=60", "data.n_train=20", "attacks.n_examples=40")
    with pytest.raises(RecipeError, match="n_parameters <= 5 bounds none of them: list n_parameters as an objective"):
        declare(*suite, mild, bound)
    declare(*suite, mild, bound, "search.objectives=[{metric: clean_accuracy}, {metric: n_parameters}]")
    with pytest.raises(RecipeError, match=r"clean_accuracy <= 0\.9 bounds none"):
        declare(*suite, mild, "search.constraints=[{metric: clean_accuracy, at_most: 0.9}]")


def test_bounds_make_another_sweep_and_what_is_only_shown_does_not(declare: Declare) -> None:
    plain = declare()
    assert "constraints" not in plain.identity()  # sweeps of earlier versions go on
    assert plain.identity()["objectives"] == [
        {"metric": m, "goal": "max"} for m in ("clean_accuracy", "robust_accuracy")
    ]
    shown = (
        "search.objectives=[{metric: clean_accuracy, tolerance: 0.1, reference_point: 0.5}, {metric: robust_accuracy}]"
    )
    for override in (shown, "search.order=lexicographic", "search.stop={trials: 3}", "search.budget.n_trials=9"):
        assert declare(override).sweep_digest() == plain.sweep_digest()
    assert declare("search.constraints=[{metric: n_parameters, at_most: 9}]").sweep_digest() != plain.sweep_digest()


# -------------------------------------------------------------------------------------------------------- shown
@pytest.fixture
def missed() -> list[Point]:
    objectives = [Objective(metric="clean_accuracy", tolerance=0.01), TWO[1]]
    points = [
        point("a", 95, 10),
        point("b", 94, 30),
        point("c", 90, 80, 2 * 10**9),
        point("d", 86, 85),
        point("off", 80, 90),
    ]
    return list(assessed(*points, order="lexicographic", objectives=objectives).values())


def test_reports_name_what_misses_a_bound_the_costs_and_the_best(missed: list[Point]) -> None:
    record = trial(point("a", 95, 10))
    given: dict[str, Any] = {"name": "s", "points": missed, "records": [record], "objectives": TWO, "notices": []}
    page = html_report(**given, recipe_yaml="", protocol={})
    assert "✗ misses clean_accuracy &gt;= 0.85 (it is 0.8)" in page.replace("<wbr>", "")
    assert 'class="infeasible"' in page
    assert "1 of them beyond a constraint, 4 on the front; knee: c l=0.5" in page
    assert "best by the order of the objectives: b l=0.5 with clean accuracy 94.0 %" in page
    assert '<td data-value="2000000000">2 G</td>' in page
    text = markdown_report(**given, recipe_yaml="", protocol={})
    assert "● 2 ◆" in text
    assert "| inference flops | n parameters |" in text


def test_a_report_without_any_point_within_the_bounds_says_so_first_and_draws_it(tmp_path: Path) -> None:
    found = list(assessed(point("far", 50, 90), point("near", 80, 20)).values())
    given: dict[str, Any] = {
        "name": "s",
        "points": found,
        "records": [trial()],
        "objectives": TWO,
        "notices": ["other"],
    }
    page = html_report(**given, recipe_yaml="", protocol={})
    assert "<li>no point meets the constraints; near is nearest" in page
    assert "2 of them beyond a constraint, 0 on the front." in page
    front_png(found, TWO, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_a_cost_as_an_axis_is_told_without_percent_or_seconds(missed: list[Point]) -> None:
    objectives = [TWO[1], Objective(metric="inference_flops")]
    given: dict[str, Any] = {
        "name": "s",
        "points": missed,
        "records": [trial()],
        "objectives": objectives,
        "notices": [],
    }
    page = html_report(**given, recipe_yaml="", protocol={})
    assert "inference flops ↑ better" not in page
    assert "inference flops ↓ better" in page
    assert "and inference flops 2 G" in page


def test_the_table_marks_them_and_shows_costs_that_differ(missed: list[Point]) -> None:
    from rich.console import Console

    console = Console(width=140)
    with console.capture() as held:
        console.print(front_table(missed, with_dominated=True))
    lines = held.get().splitlines()
    assert next(line for line in lines if " off " in line).startswith("✗")
    assert next(line for line in lines if " b " in line).startswith("●◆")
    assert "flops" in held.get()
    assert "clean_accuracy >= 0.85" in held.get()
    with console.capture() as held:
        console.print(front_table(missed[:1]))
    assert "flops" not in held.get()  # of one point, or of points that cost the same


def test_the_command_says_what_is_nearest_where_the_front_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = assessed(point("near", 80, 20)).values()
    run = tmp_path / "runs/one"
    write_json(run / "front.json", [p.model_dump(mode="json") for p in found])
    write_json(run / "sweep.json", {})
    monkeypatch.setattr("sys.argv", ["robusweep", "pareto", "one", "--root", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 5
    assert "no point meets the constraints; near is nearest" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["robusweep", "pareto", "one", "--all", "--json", "--root", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert '"violated"' in capsys.readouterr().out
