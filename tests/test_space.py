"""The search space: kinds, conditions, corners, grids."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from robusweep.errors import RecipeError
from robusweep.space import Dimension, SearchSpace, load_space


def space(tmp_path: Path, text: str) -> SearchSpace:
    (tmp_path / "s.yaml").write_text(text)
    return load_space(tmp_path / "s.yaml")[0]


def made(**dimensions: dict[str, Any]) -> SearchSpace:
    return SearchSpace.model_validate({"dimensions": {k.replace("__", "."): v for k, v in dimensions.items()}})


@pytest.mark.parametrize(
    ("text", "corners"),
    [
        ("{choice: [4, 8, 16]}", [4, 8, 16]),
        ("{choice: [a, null, true, 0.5]}", ["a", None, True, 0.5]),
        ("{grid: [0.0, 0.5]}", [0.0, 0.5]),
        ("{uniform: [0, 1]}", [0.0, 1.0]),
        ("{log_uniform: [1e-5, 1e-3]}", [1e-5, 1e-3]),
        ("{choice: {plain: {kind: standard}, v1.2_b-c: {kind: pgd}}}", ["plain", "v1.2_b-c"]),
        ("{grid: {blocks: {kind: standard}}}", ["blocks"]),
        ("{integer: [1, 3]}", [1, 3]),
    ],
)
def test_corners_are_all_listed_values_or_both_bounds(tmp_path: Path, text: str, corners: list[Any]) -> None:
    found = space(tmp_path, f"k: {text}\n").dimensions["k"].corners()
    assert [(type(c), c) for c in found] == [(type(c), c) for c in corners]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "exactly one of"),
        ("{choice: [1], grid: [1]}", "given choice, grid"),
        ("{choice: []}", "at least 1"),
        ("{choice: [1, 1]}", "twice"),
        ("{choice: {}}", "at least 1"),
        ("{choice: {a: 5}}", "k.choice.a: must be a block of keys"),
        ("{grid: {a: null}}", "k.grid.a: must be a block of keys"),
        ("{grid: {a: [1]}}", "k.grid.a: must be a block of keys"),
        ("{grid: {blocks: {kind: pgd}, a: 1}}", "k.grid.a: must be a block of keys"),
        ("{grid: {a b: {kind: pgd}}}", "given 'a b'"),
        ("{grid: {-a: {kind: pgd}}}", "given '-a'"),
        (f"{{grid: {{{'a' * 81}: {{kind: pgd}}}}}}", "must match pattern"),
        ("{grid: {a: {kind: pgd}, a: {kind: pgd}}}", "the key is repeated"),
        ("{choice: {a: {kind: pgd}}, after: training}", "needs a grid"),
        ("{uniform: {a: {kind: pgd}}}", "must be a valid list"),
        ("{choice: 5}", "must be a valid list"),
        ("{grid: [0, 0.0]}", "twice"),
        ("{uniform: [1, 1]}", "below the upper bound"),
        ("{integer: [3, 1]}", "below the upper bound"),
        ("{uniform: [0, 1, 2]}", "at most 2"),
        ("{log_uniform: [0.0, 1]}", "above 0"),
        ("{integer: [1, 2.5]}", "integer"),
        ("{uniform: [0, 1e999]}", "finite"),
        ("{choice: [1], after: training}", "needs a grid"),
        ("{grid: [1], after: never}", "'training'"),
        ("{choice: [1], wen: {a: 1}}", "did you mean 'when'"),
        ("5", "expected a block"),
    ],
)
def test_a_dimension_that_says_nothing_sensible_is_refused_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError) as e:
        space(tmp_path, f"# comment\nadapter.rank: {text}\n")
    assert "s.yaml:2: adapter.rank" in str(e.value)
    assert says.replace("k.", "adapter.rank.") in str(e.value)


def test_true_and_one_are_two_values() -> None:
    assert Dimension(choice=[True, 1]).corners() == [True, 1]


def test_all_mistakes_of_a_space_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as e:
        space(tmp_path, "a: {choice: []}\nb: {integer: [2, 1]}\nc: 3\n")
    assert [n for n in (1, 2, 3) if f"s.yaml:{n}: " not in str(e.value)] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {choice: [1]}\nb: {choice: [1], when: {c: 1}}\n", "does not search"),
        ("a: {choice: [1]}\nb: {choice: [1], when: {a: 1}}\nc: {choice: [1], when: {b: 1}}\n", "conditional"),
        ("a: {grid: [1], after: training}\nb: {choice: [1], when: {a: 1}}\n", "before training"),
        ("a: {uniform: [0, 1]}\nb: {choice: [1], when: {a: 0.5}}\n", "without listed values"),
        ("a: {choice: [1, 2]}\nb: {choice: [1], when: {a: 3}}\n", "3 is none of the values"),
        ("a: {choice: [x, y]}\nb: {choice: [1], when: {a: [x, z]}}\n", "'z' is none of the values"),
        ("a: {choice: {pgd: {kind: pgd}}}\nb: {choice: [1], when: {a: pdg}}\n", "did you mean 'pgd'"),
        ("a: {choice: [1, 2]}\nb: {choice: [1], when: {a: true}}\n", "True is none of the values"),
        ("b: {choice: [1], when: {a: 1}}\na: {choice: [1]}\n", "decided later: put a above b"),
        ("a: {choice: [1], when: {a: 1}}\n", "itself conditional|decided later"),
    ],
)
def test_a_condition_names_a_searched_key_and_values_that_it_takes(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        space(tmp_path, text)


def test_a_dimension_holds_only_where_its_condition_is_met() -> None:
    dimension = Dimension(choice=[1], when={"a": ["x", "y"], "b": 2})
    assert dimension.holds({"a": "y", "b": 2})
    assert not dimension.holds({"a": "z", "b": 2})
    assert not dimension.holds({"a": "x"})
    assert Dimension(choice=[1]).holds({})


def test_corners_reach_every_value_and_every_pair_of_values() -> None:
    found = list(made(a={"choice": [1, 2, 3]}, b={"uniform": [0.0, 1.0]}, c={"grid": ["x", "y"]}).corners())
    values = [("a", v) for v in (1, 2, 3)] + [("b", v) for v in (0.0, 1.0)] + [("c", v) for v in ("x", "y")]
    assert all(any(corner == {k: v} for corner in found) for k, v in values)
    pairs = [(one, two) for one, two in combinations(values, 2) if one[0] != two[0]]
    assert all(any(corner == dict(pair) for corner in found) for pair in pairs)
    assert len(found) == len(values) + len(pairs)


def test_a_conditional_corner_comes_with_its_condition_and_never_against_it() -> None:
    found = list(made(a={"choice": ["x", "y"]}, b={"choice": [1, 2], "when": {"a": "y"}}).corners())
    assert {"a": "y", "b": 2} in found
    assert all(corner["a"] == "y" for corner in found if "b" in corner)


def test_dimensions_whose_conditions_exclude_each_other_make_no_corner() -> None:
    found = made(
        a={"choice": ["x", "y"]},
        b={"choice": [1, 2], "when": {"a": "x"}},
        c={"choice": [1, 2], "when": {"a": "y"}},
    ).corners()
    assert not any("b" in corner and "c" in corner for corner in found)


def test_after_training_values_are_all_combinations_in_a_fixed_order() -> None:
    searched = made(
        mix__weight={"grid": [0.0, 1.0], "after": "training"},
        mix__rule={"grid": ["a", "b"], "after": "training"},
        rank={"choice": [4, 8]},
    )
    points = searched.grid_points({"rank": 4})
    assert points == [{"mix.weight": w, "mix.rule": r} for w in (0.0, 1.0) for r in ("a", "b")]
    assert list(searched.training) == ["rank"]
    assert list(searched.after_training) == ["mix.weight", "mix.rule"]


def test_a_conditional_after_training_value_is_scored_only_where_it_holds() -> None:
    searched = made(
        kind={"choice": ["x", "y"]}, mix__weight={"grid": [0.0, 1.0], "after": "training", "when": {"kind": "x"}}
    )
    assert len(searched.grid_points({"kind": "x"})) == 2
    assert searched.grid_points({"kind": "y"}) == [{}]


def test_an_empty_space_has_one_point_and_no_corner() -> None:
    assert SearchSpace().grid_points({}) == [{}]
    assert list(SearchSpace().corners()) == []


def test_training_grids_are_walked_in_all_combinations() -> None:
    searched = made(a={"grid": [1, 2]}, b={"grid": ["x", "y"]}, c={"choice": [1, 2]})
    assert searched.training_grids() == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y")]
    assert made(c={"choice": [1, 2]}).training_grids() == [{}]


def test_an_after_training_value_may_depend_on_another() -> None:
    searched = made(
        mix={"grid": {"plain": {"kind": "uniform"}, "fixed": {"kind": "adpmixup"}}, "after": "training"},
        mix__weight={"grid": [0.0, 1.0], "after": "training", "when": {"mix": "fixed"}},
    )
    fixed = [{"mix": "fixed", "mix.weight": weight} for weight in (0.0, 1.0)]
    assert searched.grid_points({}) == [{"mix": "plain"}, *fixed]


BLOCKS = {"vanilla": {"kind": "standard"}, "pgd": {"kind": "pgd", "radius": None}}


def test_a_name_stands_for_its_block_in_the_recipe_alone() -> None:
    searched = made(train={"grid": BLOCKS}, train__radius={"uniform": [0.1, 1.0], "when": {"train": "pgd"}})
    params = {"train.radius": 0.2, "train": "pgd", "adapter.rank": 4}
    assert list(searched.in_recipe(params).items()) == [
        ("train", BLOCKS["pgd"]),  # first, although it was given last
        ("train.radius", 0.2),
        ("adapter.rank", 4),
    ]
    assert searched.training_grids() == [{"train": "vanilla"}, {"train": "pgd"}]
    assert {"train": "pgd", "train.radius": 1.0} in list(searched.corners())
    assert SearchSpace.model_validate(searched.model_dump(mode="json", exclude_none=True)) == searched


def test_the_kinds_of_trials_are_the_combinations_of_named_blocks() -> None:
    searched = made(
        train={"grid": BLOCKS},
        adapter={"choice": {"small": {"kind": "lora"}, "all": {"kind": "full"}}, "when": {"train": "pgd"}},
        train__n_epochs={"choice": [1, 2]},
        mix={"grid": {"plain": {"kind": "adpmixup"}}, "after": "training"},
    )
    assert searched.kinds_of_trials() == [
        {"train": "vanilla"},
        {"train": "pgd", "adapter": "small"},
        {"train": "pgd", "adapter": "all"},
    ]
    assert made(a={"grid": [1, 2]}).kinds_of_trials() == [{}]


def test_the_points_of_a_trial_may_depend_on_what_was_trained() -> None:
    mix: dict[str, Any] = {"grid": {"plain": {"kind": "uniform"}, "fixed": {"kind": "adpmixup"}}, "after": "training"}
    searched = made(train={"grid": BLOCKS}, mix=mix | {"when": {"train": "pgd"}})
    assert searched.n_points(1) == (1, 1)  # the first trial is the vanilla one
    assert searched.n_points(2) == (1, 2)
    chosen = made(train={"choice": BLOCKS}, mix=mix | {"when": {"train": "pgd"}})
    assert chosen.n_points(1) == (1, 2)  # a sampler may choose either
    assert made(train={"grid": BLOCKS}, mix=mix).n_points(5) == (2, 2)
    assert made(seed={"grid": [1, 2]}).n_points(5) == (1, 1)
