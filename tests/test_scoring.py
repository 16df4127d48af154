"""What several points of one trial do to each other: replayed texts, and a race. Victims are tables of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robusweep import scoring
from robusweep.assignment import PointPlan
from robusweep.attacks import Attack
from robusweep.examples import Example
from robusweep.mixing import TrainedSet
from robusweep.mixing.adpmixup import AdpMixup
from robusweep.race import Race
from robusweep.record import AttackOutcome, Flag, PointRecord, TrialRecord, read_outcomes, write_json
from robusweep.scores import Rate

N = 60
EXAMPLES = tuple(Example(f"text number {i}", 0) for i in range(N))
INDEX = {example.id: i for i, example in enumerate(EXAMPLES)}


class Table:
    """An evaluation: broken on examples from ``strength`` on, and by texts found against those in ``falls_for``."""

    temperature = 1.5

    def __init__(self, name: str, strength: int, clean: int = 95, *, falls_for: Sequence[str] = ()) -> None:
        self.name, self.strength, self.falls_for = name, strength, set(falls_for)
        self.clean_accuracy = Rate.of(clean, 100)
        self.clean_right = [i < clean for i in range(100)]
        self.attacked: list[tuple[str, int]] = []
        self.asked: list[str] = []

    def attack(self, attack: Attack, examples: Sequence[Example]) -> list[AttackOutcome]:
        self.attacked += [(attack.kind, INDEX[e.id]) for e in examples]
        return [self._outcome(attack, e) for e in examples]

    def _outcome(self, attack: Attack, example: Example) -> AttackOutcome:
        survived = INDEX[example.id] < self.strength
        plain: dict[str, Any] = {"example_id": example.id, "label": 0, "n_words": 3}
        if survived:
            return AttackOutcome(**plain, status="survived", n_queries=90)
        text = f"{attack.kind} of {self.name} on {example.text}"
        return AttackOutcome(**plain, status="broken", n_queries=30, n_words_changed=1, perturbed_text=text)

    def predictions(self, texts: Sequence[str]) -> list[int]:
        self.asked += texts
        return [int(any(f" of {name} on " in text for name in self.falls_for)) for text in texts]

    def flags(self, suite: Any, examples: Sequence[Example]) -> list[Flag]:
        assert all(len(outcomes) == len(examples) for _, outcomes in suite.values())
        return [Flag(name="saturated", detail="as measured")]


def named(kind: str, goal: str = "change_label") -> Any:
    return SimpleNamespace(kind=kind, goal=goal)


def scored(
    tables: Sequence[Table], folder: Path, monkeypatch: pytest.MonkeyPatch, **suite: Any
) -> dict[str, PointRecord]:
    known = suite.pop("known", [named("pwws")])
    attacks = SimpleNamespace(
        known=known,
        **(
            {
                "held_out": [],
                "replay": False,
                "adaptive": True,
                "static": False,
                "race": None,
                "n_examples": N,
                "calibrate": True,
            }
            | suite
        ),
    )
    ground = SimpleNamespace(
        recipe=SimpleNamespace(attacks=attacks, adapter=SimpleNamespace()),
        dataset=SimpleNamespace(validation=EXAMPLES),
        folder=folder,
        progress=SimpleNamespace(say=lambda _text: None, stage=_no_stage),
    )
    by_name = {table.name: table for table in tables}
    monkeypatch.setattr(scoring._Scoring, "_made", lambda _self, table: (table, None, table.name))
    monkeypatch.setattr(scoring._Scoring, "_system", lambda _self, contender: by_name[contender.plan.id])
    plans = [PointPlan(id=table.name, params={"mix.weight": 0.5}, mix=AdpMixup()) for table in tables]
    made: Any = ground
    adapters = TrainedSet([], {}, [], [], [])
    return {record.id: record for record in scoring.score(plans, adapters, "hash", made)}


def _no_stage(_name: str, _seconds: dict[str, float]) -> Any:
    from contextlib import nullcontext

    return nullcontext()


def survivors(folder: Path, point: str, kind: str = "pwws") -> int:
    return sum(o.status == "survived" for o in read_outcomes(folder / "attacks" / f"{point}.{kind}.jsonl"))


# ------------------------------------------------------------------------------------------------- racing
def test_a_dominated_point_is_attacked_no_further_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Table("good", 50), Table("bad", 5)
    held_out = [named("pruthi")]
    found = scored([bad, good], tmp_path, monkeypatch, race=Race(first=16), held_out=held_out)
    stopped = found["bad"].stopped
    assert stopped is not None
    assert (stopped.by, stopped.n_examples, stopped.error) == ("good", 16, 0.05)
    assert found["bad"].robust_accuracy.n == 16 == len(bad.attacked)
    assert found["bad"].held_out == {}
    assert found["bad"].flags == []
    assert found["good"].stopped is None
    assert found["good"].robust_accuracy == Rate.of(50, N)
    assert found["good"].held_out["pruthi"].accuracy_under_attack.n == N
    assert good.attacked == [("pwws", i) for i in range(N)] + [("pruthi", i) for i in range(N)], "nothing twice"


def test_a_cleaner_point_runs_on_and_without_a_race_all_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scored([Table("good", 50, 90), Table("bad", 5, 91)], tmp_path, monkeypatch, race=Race(first=16))
    assert [record.stopped for record in found.values()] == [None, None]
    found = scored([Table("good", 50), Table("bad", 5)], tmp_path, monkeypatch)
    assert [record.robust_accuracy.n for record in found.values()] == [N, N]


def test_a_finished_point_of_another_trial_under_the_same_protocol_stops_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("t000", "t001", "t002")]
    first = scored([Table("t000.00", 50)], folders[0], monkeypatch)["t000.00"]
    for folder, protocol_hash in ((folders[0], "hash"), (folders[2], "another")):
        record = TrialRecord.model_validate(
            {"name": "s", "number": 0, "status": "complete", "params": {}, "recipe": {}, "recipe_digest": "d"}
            | {"points": [first], "protocol_hash": protocol_hash}
        )
        write_json(folder / "record.json", record.model_dump(mode="json"))
    found = scored([Table("t001.00", 5)], folders[1], monkeypatch, race=Race(first=16))["t001.00"]
    assert found.stopped is not None
    assert found.stopped.by == "t000.00"
    write_json(folders[0] / "record.json", {"version": 0})  # of another version: no reason to fail
    alone = scored([Table("t001.00", 5)], folders[1], monkeypatch, race=Race(first=16))["t001.00"]
    assert alone.stopped is None


# ------------------------------------------------------------------------------------------------- replay
def test_a_text_found_against_one_point_breaks_another_at_one_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak, strong = Table("a", 20, falls_for=["a"]), Table("b", 50, falls_for=["a"])
    found = scored([weak, strong], tmp_path, monkeypatch, replay=True)
    assert found["a"].robust_accuracy == Rate.of(20, N)
    assert found["b"].robust_accuracy == Rate.of(20, N), "each text of a breaks b"
    assert len(strong.attacked) == 20, "what is broken already is not attacked"
    rows = read_outcomes(tmp_path / "attacks" / "b.pwws.jsonl")
    replayed = [o for o in rows if o.replayed]
    assert len(replayed) == 40
    assert {o.n_queries for o in replayed} == {1}
    assert all(record.replay for record in found.values())


def test_replay_is_symmetric_whoever_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the second point's attack finds is tried on the first, too."""
    first, second = Table("a", 50, falls_for=["b"]), Table("b", 20)
    found = scored([first, second], tmp_path, monkeypatch, replay=True)
    assert found["a"].robust_accuracy == Rate.of(20, N)
    swapped = [Table("b", 20), Table("a", 50, falls_for=["b"])]
    assert scored(swapped, tmp_path / "swapped", monkeypatch, replay=True)["a"].robust_accuracy == Rate.of(20, N)


def test_a_replayed_text_that_fails_proves_nothing_and_costs_its_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak, strong = Table("a", 20), Table("b", 30)
    found = scored([weak, strong], tmp_path, monkeypatch, replay=True)
    assert found["b"].robust_accuracy == Rate.of(30, N)
    rows = {INDEX[o.example_id]: o for o in read_outcomes(tmp_path / "attacks" / "b.pwws.jsonl")}
    assert [rows[i].n_queries for i in (0, 25, 40)] == [90, 91, 31]
    assert not any(o.replayed for o in rows.values())


def test_only_texts_of_the_same_attack_are_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [named("pwws"), named("pruthi")]
    strong = Table("b", 50, falls_for=["a"])
    scored([Table("a", 20), strong], tmp_path, monkeypatch, replay=True, known=known)
    assert all(text.startswith(("pwws of a", "pruthi of a", "text number")) for text in strong.asked)
    assert survivors(tmp_path, "b", "pruthi") == 20
    for kind in ("pwws", "pruthi"):
        rows = read_outcomes(tmp_path / "attacks" / f"b.{kind}.jsonl")
        assert all(str(o.perturbed_text).startswith(f"{kind} of") for o in rows if o.status == "broken")


def test_what_keeps_the_answer_of_one_point_is_not_replayed_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reduced text that another point labels otherwise is no success of input reduction."""
    held_out = [named("input_reduction", "keep_label")]
    strong = Table("b", 50, falls_for=["a"])
    found = scored([Table("a", 20), strong], tmp_path, monkeypatch, replay=True, held_out=held_out)
    assert found["b"].robust_accuracy == Rate.of(20, N), "pwws is replayed"
    assert found["b"].held_out["input_reduction"].accuracy_under_attack == Rate.of(50, N)
    assert not any(text.startswith("input_reduction of") for text in strong.asked)


def test_without_replay_points_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strong = Table("b", 50, falls_for=["a"])
    found = scored([Table("a", 20), strong], tmp_path, monkeypatch)
    assert found["b"].robust_accuracy == Rate.of(50, N)
    assert strong.asked == []
    assert not found["b"].replay
    assert found["b"].flags == [Flag(name="saturated", detail="as measured")]
