"""The front of a sweep, from its trial records."""

from __future__ import annotations

from typing import Any

import pytest

from robusweep.errors import UsageError
from robusweep.front import Objective, assess, short_name, with_stand_ins
from robusweep.record import (
    AttackOutcome,
    AttackScore,
    Flag,
    PointRecord,
    StandIn,
    Status,
    Stopped,
    TrialRecord,
)
from robusweep.scores import Rate

OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]


def point(name: str, clean: int, robust: int) -> PointRecord:
    """``robust`` of 100 examples survive the attack, ``clean`` are right before it."""
    statuses: list[Status] = ["survived"] * robust + ["broken"] * (clean - robust) + ["misclassified"] * (100 - clean)
    outcomes = [
        AttackOutcome(example_id=str(i), label=0, status=s, n_queries=9, n_words=5) for i, s in enumerate(statuses)
    ]
    score = AttackScore.of(outcomes)
    return PointRecord(
        id=name, params={"mix.weight": 0.5}, clean_accuracy=Rate.of(clean, 100), robust_accuracy=Rate.of(robust, 100),
        attacks={"deepwordbug": score}, held_out={"pwws": score}, model_digest="m",
    )  # fmt: skip


def trial(number: int, points: list[PointRecord], **fields: Any) -> TrialRecord:
    plain = {"name": "s", "number": number, "status": "complete", "params": {}, "recipe": {}, "recipe_digest": "d"}
    return TrialRecord.model_validate(plain | {"points": points} | fields)


def test_points_that_nothing_beats_are_on_the_front_and_one_of_them_is_the_knee() -> None:
    records = [trial(0, [point("a", 90, 10), point("b", 85, 60)]), trial(1, [point("c", 80, 50), point("d", 70, 70)])]
    points = {p.id: p for p in assess(records, OBJECTIVES)}
    assert {p.id: p.pareto_rank for p in points.values()} == {"a": 1, "b": 1, "c": 2, "d": 1}
    assert [p.id for p in points.values() if p.pareto] == ["a", "b", "d"]
    assert [p.id for p in points.values() if p.knee] == ["b"]
    assert points["c"].trial == 1


def test_a_failed_trial_has_no_points_whatever_its_record_holds() -> None:
    assert assess([trial(0, [point("a", 99, 99)], status="failed")], OBJECTIVES) == []
    assert assess([], OBJECTIVES) == []


def test_an_objective_may_be_minimised_or_be_one_attack() -> None:
    records = [trial(0, [point("a", 90, 10)]), trial(1, [point("b", 80, 10)])]
    least = assess(records, [Objective(metric="clean_accuracy", goal="min")])
    assert [p.id for p in least if p.pareto] == ["b"]
    attack = assess(records, [Objective(metric="accuracy_under_attack.deepwordbug")])
    assert [p.pareto for p in attack] == [True, True]


def test_a_held_out_attack_can_select_nothing() -> None:
    with pytest.raises(ValueError, match=r"'accuracy_under_attack\.pwws'"):
        assess([trial(0, [point("a", 90, 10)])], [Objective(metric="accuracy_under_attack.pwws")])


def test_points_of_different_protocols_are_not_compared() -> None:
    records = [trial(0, [point("a", 90, 10)], protocol_hash="x"), trial(1, [point("b", 80, 20)], protocol_hash="y")]
    with pytest.raises(UsageError, match="protocols"):
        assess(records, OBJECTIVES)


def test_a_point_carries_the_run_that_shows_it() -> None:
    points = assess([trial(0, [point("a", 90, 10), point("b", 80, 20)])], OBJECTIVES, {"a": "run7"})
    assert [p.run_id for p in points] == ["run7", None]


def test_a_short_name_says_the_trial_and_the_searched_values() -> None:
    params = {"mix.weight": 0.7, "adversarial.0.radius": 0.0912345, "adapter.rank": 8, "a.new": "x"}
    assert short_name("t015.03", params) == "t015 l=0.7 eps=0.0912 r=8 new=x"
    assert short_name("t001.00", {"train.step_size": None}) == "t001 step_size=null"
    assert short_name("t000.00", {"train": "vanilla", "adversarial.0": "pgd"}) == "t000 train=vanilla adversarial.0=pgd"


STOPPED = Stopped(by="a", n_examples=32, p_value=0.001, error=0.05)


def test_a_point_that_a_race_has_stopped_ranks_last_whatever_it_scored_so_far() -> None:
    best_so_far = point("z", 99, 99).model_copy(update={"stopped": STOPPED})
    records = [trial(0, [point("a", 90, 40), point("b", 80, 30), best_so_far])]
    points = {p.id: p for p in assess(records, OBJECTIVES)}
    assert {p.id: p.pareto_rank for p in points.values()} == {"a": 1, "b": 2, "z": 3}
    assert not points["z"].pareto
    assert points["a"].knee
    assert points["z"].stopped == STOPPED


def test_flags_and_replay_of_a_point_are_carried_along() -> None:
    flag = Flag(name="saturated", detail="mean largest probability 1.0")
    flagged = point("a", 90, 40).model_copy(update={"flags": [flag], "replay": True})
    found = assess([trial(0, [flagged])], OBJECTIVES)[0]
    assert (found.flags, found.replay) == ([flag], True)


def test_an_objective_follows_an_attack_to_its_stand_in() -> None:
    stand_in = StandIn(what="attack", asked="textfooler", used="textfooler_wordnet", reason="not here")
    asked = [Objective(metric="accuracy_under_attack.textfooler"), *OBJECTIVES]
    used = with_stand_ins(asked, [stand_in])
    assert [o.metric for o in used] == ["accuracy_under_attack.textfooler_wordnet", *(o.metric for o in OBJECTIVES)]
