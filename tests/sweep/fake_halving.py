"""A worker that trains nothing and climbs the rungs of its sweep: importable by name in a spawned process."""

from __future__ import annotations

import fake_work

from robusweep.record import (
    AttackOutcome,
    AttackScore,
    PointRecord,
    Stopped,
    read_outcomes,
    robust_accuracy,
    write_text,
)
from robusweep.trial import _ladder

ATTACK = "deepwordbug"


def climbs(assignment_json: str) -> str:
    assignment = fake_work._begin(assignment_json)
    record = fake_work.record_of(assignment)
    folder = assignment.trial_dir / "attacks"
    outcomes = {p.id: _spread(read_outcomes(folder / f"{p.id}.{ATTACK}.jsonl")) for p in record.points}
    points = {p.id: _met(p, outcomes[p.id], assignment.recipe.attacks.n_examples) for p in record.points}
    running = list(points)
    if ladder := _ladder(assignment, record):
        for rung, n in enumerate(ladder.sizes, 1):
            found = ladder.decide(n, [_met(points[id_], outcomes[id_], n) for id_ in running])
            for id_ in running:
                if not found[id_].goes_on:
                    seen = found[id_].model_dump(include={"rank", "n_before", "n_points"})
                    why = Stopped(n_examples=n, reason="early_stopping", rung=rung, n_queries_saved=54, **seen)
                    points[id_] = _met(points[id_], outcomes[id_], n).model_copy(update={"stopped": why})
            running = [id_ for id_ in running if found[id_].goes_on]
    record = record.model_copy(update={"points": list(points.values())})
    write_text(assignment.trial_dir / "record.json", record.model_dump_json())
    return record.model_dump_json()


def _spread(outcomes: list[AttackOutcome]) -> list[AttackOutcome]:
    """The survivors in no order."""
    return [outcomes[7 * i % len(outcomes)] for i in range(len(outcomes))]


def _met(point: PointRecord, outcomes: list[AttackOutcome], n: int) -> PointRecord:
    suite = {ATTACK: outcomes[:n]}
    return point.model_copy(
        update={"robust_accuracy": robust_accuracy(suite), "attacks": {ATTACK: AttackScore.of(suite[ATTACK])}}
    )
