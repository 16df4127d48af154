"""Early stopping across trials: who goes on at a rung, what a resume repeats, and what the record says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_scoring import N, Table, scored

from robusweep import scoring
from robusweep.errors import RecipeError
from robusweep.front import Objective, assess, metrics_of
from robusweep.halving import PRESETS, Halving, Ladder, Place, crowding, goes_on, places
from robusweep.race import Race
from robusweep.recipe import load_recipe
from robusweep.record import PointRecord, Stopped, TrialRecord
from robusweep.scores import Goal, Rate, pareto_ranks

MAX: list[Goal] = ["max", "max"]
EAGER = Halving(rungs=[10, 30], eta=2.0, min_points=1)


# --------------------------------------------------------------------------------------------- the rule
def test_places_by_rank_and_then_by_spread() -> None:
    """Front a b c d; b lies in the middle of a and c, d at the end; e and f behind it."""
    values = [[0.0, 1.0], [0.4, 0.6], [0.5, 0.5], [1.0, 0.0], [0.3, 0.5], [0.4, 0.4]]
    assert crowding(np.array(values[:4])).tolist() == [np.inf, 1.0, pytest.approx(1.2), np.inf]
    assert places(values, MAX) == [Place(1, 0), Place(1, 3), Place(1, 2), Place(1, 0), Place(2, 4), Place(2, 4)]


def test_equal_points_share_a_place_in_any_order() -> None:
    values = [[0.5, 0.5], [0.5, 0.5], [0.4, 0.4], [0.4, 0.4], [0.3, 0.3]]
    assert places(values, MAX) == [Place(1, 0), Place(1, 0), Place(2, 2), Place(2, 2), Place(3, 4)]
    assert places(values[::-1], MAX) == places(values, MAX)[::-1]
    assert places([], MAX) == []


def test_what_is_to_be_small_counts_the_other_way() -> None:
    assert [p.rank for p in places([[0.9, 10.0], [0.9, 20.0], [0.8, 30.0]], ["max", "min"])] == [1, 2, 3]
    assert [p.n_before for p in places([[3.0], [1.0], [2.0]], ["min"])] == [2, 0, 1]


@pytest.mark.parametrize(
    ("place", "n_points", "eta", "going"),
    [
        (Place(2, 4), 10, 2.0, True),  # the best 5 of 10
        (Place(2, 5), 10, 2.0, False),
        (Place(2, 3), 10, 3.0, True),  # the best 4 of 10: rounded up
        (Place(2, 4), 10, 3.0, False),
        (Place(1, 9), 10, 3.0, True),  # the front, however many it holds
        (Place(7, 6), 7, 2.0, True),  # seven are too few to judge by
        (Place(8, 7), 8, 2.0, False),
    ],
)
def test_the_front_and_the_best_share_go_on(place: Place, n_points: int, eta: float, going: bool) -> None:
    assert goes_on(place, n_points, Halving(eta=eta, min_points=8)) == going


def test_the_front_of_a_rung_is_never_stopped_and_a_share_always_goes_on() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 9, 40):
        values = rng.integers(0, 8, (n, 2)).tolist()
        going = [goes_on(place, n, Halving(eta=5.0, min_points=1)) for place in places(values, MAX)]
        assert all(g for g, rank in zip(going, pareto_ranks(values, MAX), strict=True) if rank == 1)
        assert sum(going) >= n / 5


def test_rungs_are_numbers_of_examples_or_fractions_of_them() -> None:
    assert Halving(rungs=[0.1, 0.25]).sizes(50) == [5, 13]
    assert Halving(rungs=[5, 40]).sizes(50) == [5, 40]
    assert Halving(rungs=[0.1, 0.9]).sizes(2) == [1], "a rung that leaves nothing is none"
    assert Halving(rungs=[0.5]).sizes(1) == []


# -------------------------------------------------------------------------------------------- the ladder
def point(name: str, clean: int, robust: int, n: int = 10) -> PointRecord:
    return PointRecord(
        id=name,
        params={},
        clean_accuracy=Rate.of(clean, 100),
        robust_accuracy=Rate.of(robust, n),
        attacks={},
        model_digest="",
    )


def ladder(folder: Path, trial: str = "t000", halving: Halving = EAGER, protocol: str = "p") -> Ladder:
    objectives = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
    return Ladder(halving, folder / "rungs", trial, protocol, N, objectives, lambda p: p.metrics())


def going(found: dict[str, Any]) -> dict[str, bool]:
    return {name: verdict.goes_on for name, verdict in found.items()}


def test_who_comes_first_goes_on_and_later_ones_meet_what_it_left(tmp_path: Path) -> None:
    weak, middle, strong = point("t000.00", 80, 2), point("t001.00", 85, 5), point("t002.00", 90, 8)
    assert going(ladder(tmp_path).decide(10, [weak])) == {"t000.00": True}, "alone"
    assert going(ladder(tmp_path, "t001").decide(10, [middle])) == {"t001.00": True}
    assert going(ladder(tmp_path, "t002").decide(10, [strong])) == {"t002.00": True}
    found = ladder(tmp_path, "t003").decide(10, [point("t003.00", 84, 4)])["t003.00"]
    assert (found.goes_on, found.rank, found.n_before, found.n_points) == (False, 3, 2, 4)
    other = tmp_path / "other order"
    for trial, one in (("t002", strong), ("t001", middle)):
        ladder(other, trial).decide(10, [one])
    assert going(ladder(other).decide(10, [weak])) == {"t000.00": False}


def test_the_points_of_a_trial_are_there_before_any_is_judged(tmp_path: Path) -> None:
    found = ladder(tmp_path).decide(10, [point("a", 80, 2), point("b", 90, 8), point("c", 70, 1)])
    assert going(found) == {"a": True, "b": True, "c": False}


def test_rungs_and_protocols_are_not_mixed(tmp_path: Path) -> None:
    ladder(tmp_path, "t000").decide(10, [point("a", 90, 8), point("b", 91, 8)])
    ladder(tmp_path, "t001", protocol="another").decide(10, [point("c", 92, 8), point("d", 93, 8)])
    assert ladder(tmp_path, "t002").decide(30, [point("e", 10, 1)])["e"].n_points == 1
    assert ladder(tmp_path, "t002").decide(10, [point("e", 10, 1)])["e"].n_points == 3


def test_what_was_decided_is_repeated_whatever_came_since(tmp_path: Path) -> None:
    first = ladder(tmp_path).decide(10, [point("a", 80, 2)])
    before = (tmp_path / "rungs/t000.jsonl").read_bytes()
    ladder(tmp_path, "t001").decide(10, [point(f"b{i}", 90 + i, 8) for i in range(4)])
    assert ladder(tmp_path).decide(10, [point("a", 80, 2)]) == first, "anew it would be stopped"
    assert (tmp_path / "rungs/t000.jsonl").read_bytes() == before
    (tmp_path / "rungs/t000.jsonl").unlink()
    assert going(ladder(tmp_path).decide(10, [point("a", 80, 2)])) == {"a": False}


def test_a_kill_between_value_and_verdict_leaves_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_self: Ladder, _n: int, _epochs: float | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ladder, "_placed", killed)
        with pytest.raises(KeyboardInterrupt):
            ladder(tmp_path).decide(10, [point("a", 90, 8)])
    assert ladder(tmp_path, "t001").decide(10, [point("b", 80, 2)])["b"].n_points == 2
    assert ladder(tmp_path).decide(10, [point("a", 90, 8)])["a"].goes_on
    lines = (tmp_path / "rungs/t000.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line))[0] for line in lines] == ["n_examples", "goes_on"], "a value, then its verdict"


def test_lines_that_are_none_of_ours_are_left_out(tmp_path: Path) -> None:
    ladder(tmp_path, "t001").decide(10, [point("b", 90, 8)])
    with (tmp_path / "rungs/t001.jsonl").open("a") as file:
        file.write('{"point": "c", "n_examples": 10, "values": [1.0, 1.0], "of": "a later version"}\n{"poi')
    (tmp_path / "rungs/t002.jsonl").write_bytes(b"\xff\x00 no JSON\n")
    assert ladder(tmp_path).decide(10, [point("a", 80, 2)])["a"].n_points == 2


# ------------------------------------------------------------------------------------- scoring with rungs
def climbed(
    tables: Sequence[Table], root: Path, monkeypatch: pytest.MonkeyPatch, number: int = 0, **suite: Any
) -> dict[str, PointRecord]:
    """The points of one trial of a sweep, scored with its rungs."""
    score = scoring.score
    rungs = ladder(root, f"t{number:03d}")
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score", lambda *arguments: score(*arguments, ladder=rungs))
        return scored(tables, root / f"trials/t{number:03d}", monkeypatch, **suite)


def test_a_point_behind_is_attacked_no_further_and_says_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [Table("a", 50, 90), Table("b", 40, 80), Table("c", 8, 70)]
    found = climbed(tables, tmp_path, monkeypatch)
    assert found["c"].stopped == Stopped(
        n_examples=10, reason="early_stopping", rung=1, rank=3, n_before=2, n_points=3, n_queries_saved=3900
    ), "8 survived at 90 queries, 2 broken at 30, and 50 examples are left"
    assert [found["c"].robust_accuracy.n, len(tables[2].attacked)] == [10, 10]
    assert (found["c"].held_out, found["c"].flags) == ({}, [])
    assert found["b"].stopped is not None
    assert (found["b"].stopped.rung, found["b"].stopped.n_examples) == (2, 30)
    assert found["b"].stopped.why == "rung 2, rank 2, 1 of 2 points before it"
    assert found["a"].stopped is None
    assert tables[0].attacked == [("pwws", i) for i in range(N)], "nothing twice"


def test_a_trial_meets_the_values_of_earlier_ones_and_may_end_with_no_point_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    climbed([Table("t000.00", 50, 90), Table("t000.01", 45, 95)], tmp_path, monkeypatch)
    late = [Table("t001.00", 5, 70), Table("t001.01", 4, 60)]
    found = climbed(late, tmp_path, monkeypatch, 1, held_out=[], static=True)
    assert [p.stopped.n_points for p in found.values() if p.stopped] == [4, 4]
    assert [len(table.attacked) for table in late] == [10, 10]
    assert (tmp_path / "trials/t001/attacks/t001.00.pwws.jsonl").is_file()
    trial = TrialRecord.model_validate(
        {"name": "s", "number": 1, "status": "complete", "params": {}, "recipe": {}, "recipe_digest": "d"}
        | {"points": [p.model_dump() for p in found.values()]}
    )
    points = assess([trial], [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")])
    assert [(p.pareto, p.knee) for p in points] == [(False, False)] * 2
    assert TrialRecord.model_validate_json(trial.model_dump_json()) == trial


def test_a_resumed_trial_has_the_same_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [("t000.00", 20, 90), ("t000.01", 10, 80)]
    first = climbed([Table(*t) for t in tables], tmp_path, monkeypatch)
    climbed([Table("t001.00", 60, 99), Table("t001.01", 59, 100)], tmp_path, monkeypatch, 1)
    assert climbed([Table(*t) for t in tables], tmp_path, monkeypatch) == first


def test_a_race_and_rungs_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [Table("a", 50, 90), Table("b", 2, 89), Table("c", 49, 80)]
    found = climbed(tables, tmp_path, monkeypatch, race=Race(first=16))
    assert {k: p.stopped and (p.stopped.reason, p.stopped.n_examples) for k, p in found.items()} == {
        "a": None,
        "b": ("race", 16),
        "c": ("early_stopping", 30),
    }


# ----------------------------------------------------------------------------------------------- records
def test_what_a_race_writes_is_what_it_wrote_before() -> None:
    old = '{"by":"t000.01","n_examples":16,"p_value":0.001,"error":0.05}'
    assert Stopped.model_validate_json(old).model_dump_json() == old
    assert Stopped.model_validate_json(old).why == "t000.01 is better (p = 0.001)"
    new = Stopped(n_examples=16, reason="early_stopping", rung=1, rank=2, n_before=3, n_points=4, n_queries_saved=0)
    assert Stopped.model_validate_json(new.model_dump_json()) == new


def test_without_early_stopping_nothing_is_left_at_rungs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [("a", 50, 90), ("b", 5, 80)]
    plain = scored([Table(*t) for t in tables], tmp_path / "trials/t000", monkeypatch)
    assert [p.stopped for p in plain.values()] == [None, None]
    assert not (tmp_path / "rungs").exists()
    raced = scored([Table(*t) for t in tables], tmp_path / "raced", monkeypatch, race=Race(first=16))
    assert raced["b"].stopped is not None
    assert set(raced["b"].stopped.model_dump()) == {"by", "n_examples", "p_value", "error"}


def test_objectives_of_the_trial_are_compared_too(tmp_path: Path) -> None:
    trial = TrialRecord(name="s", number=0, status="complete", params={}, recipe={}, recipe_digest="d")
    objectives = [Objective(metric="robust_accuracy"), Objective(metric="train_seconds", goal="min")]
    rungs = Ladder(EAGER, tmp_path, "t000", "p", N, objectives, lambda p: metrics_of(trial, p))
    rungs.decide(10, [point("a", 80, 4)])
    assert json.loads((tmp_path / "t000.jsonl").read_text().splitlines()[0])["values"] == [0.4, 0.0]


# ------------------------------------------------------------------------------------------- the recipe
RECIPE = """\
version: 1
name: small
data: {kind: bbc_news, n_train: 20, n_validation: 60, n_calibration: 4, n_test: 4}
adapter: {kind: lora}
train: {kind: standard}
attacks: {known: [deepwordbug], n_examples: 60}
search: {space: space.yaml, early_stopping: off}
"""


def declared(folder: Path, *overrides: str) -> Halving | None:
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "space.yaml").write_text("adapter.rank: {choice: [4, 8]}\n")
    search = load_recipe(folder / "recipe.yaml", list(overrides)).recipe.search
    assert search is not None
    return search.early_stopping


def test_a_preset_is_a_name_for_a_block_and_off_is_the_default(tmp_path: Path) -> None:
    assert declared(tmp_path) is None
    for name, block in PRESETS.items():
        assert declared(tmp_path, f"search.early_stopping={name}") == block
    found = declared(tmp_path, "search.early_stopping={rungs: [6, 20], eta: 4}")
    assert found == Halving(rungs=[6, 20], eta=4)
    mild, strong = PRESETS["mild"], PRESETS["strong"]
    assert mild is not None
    assert strong is not None
    assert (mild.eta, strong.eta) == (2, 3)
    assert strong.rungs[0] < mild.rungs[0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "strnog",
            "search.early_stopping: unknown preset 'strnog'; did you mean 'strong'? (allowed: off, mild, strong, or a "
            "block), given 'strnog'",
        ),
        ("7", "search.early_stopping: must be off, mild, strong, or a block, given 7"),
        ("{rungs: [20, 10]}", "search.early_stopping.rungs: rungs must increase: 20, 10"),
        ("{rungs: [10, 10]}", "search.early_stopping.rungs: rungs must increase: 10, 10"),
        (
            "{rungs: [10, 60]}",
            "search.early_stopping.rungs: 60 is not less than attacks.n_examples (60): nothing is left to save",
        ),
        (
            "{rungs: [0.1, 20]}",
            "search.early_stopping.rungs: rungs are numbers of examples or fractions of them, not both: 0.1, 20",
        ),
        (
            "{rungs: [2.5]}",
            "search.early_stopping.rungs: a rung is a whole number of examples, or a fraction of them between 0 and 1, "
            "not 2.5",
        ),
        ("{eta: 1}", "search.early_stopping.eta: must be greater than 1, given 1"),
        ("{kind: asha}", "search.early_stopping.kind: must be 'halving', given 'asha'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, given: str, says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        declared(tmp_path, f"search.early_stopping={given}")
    assert says in refused.value.message.splitlines()[0]


def test_replay_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        declared(tmp_path, "search.early_stopping=mild", "attacks.replay=true")
    assert (
        "search.early_stopping: compares points by outcomes that no other point has touched: leave out "
        "early_stopping, or attacks.replay" in refused.value.message
    )
