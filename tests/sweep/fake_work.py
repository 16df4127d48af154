"""Workers that train nothing: importable by name in a spawned process, with a log of every call."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

from robusweep.assignment import Assignment
from robusweep.record import AttackOutcome, AttackScore, PointRecord, TrialRecord, robust_accuracy, write_text
from robusweep.scores import Rate

N = 20


def record_of(assignment: Assignment) -> TrialRecord:
    """A trial whose scores follow from its parameters: more weight and radius cost clean accuracy and gain
    robustness."""
    radius = float(assignment.params.get("adversarial.0.radius", 0.3))
    points = []
    for point in assignment.points:
        weight = float(point.params.get("mix.weight", 0.5))
        survived = round(N * min(1.0, 0.2 + 0.6 * weight * min(1.0, 2 * radius)))
        outcomes = [
            AttackOutcome(
                example_id=str(i), label=0, status="survived" if i < survived else "broken", n_queries=9, n_words=5
            )
            for i in range(N)
        ]
        lines = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes)
        write_text(assignment.trial_dir / "attacks" / f"{point.id}.deepwordbug.jsonl", lines)
        points.append(
            PointRecord(
                id=point.id,
                params=point.params,
                clean_accuracy=Rate.of(round(100 * (0.95 - 0.2 * weight * radius)), 100),
                robust_accuracy=robust_accuracy({"deepwordbug": outcomes}),
                attacks={"deepwordbug": AttackScore.of(outcomes)},
                model_digest="0",
            )
        )
    return TrialRecord(
        name=assignment.name,
        number=assignment.number,
        status="complete",
        params=assignment.params,
        recipe=assignment.recipe.model_dump(mode="json"),
        recipe_digest=assignment.recipe.trial_digest(),
        protocol_hash="fake",
        points=points,
    )


def _begin(assignment_json: str) -> Assignment:
    """Note in the calls log that this trial was begun, and take as long as the test asks."""
    assignment = Assignment.model_validate_json(assignment_json)
    with (Path(assignment.root) / "calls.log").open("a") as log:
        log.write(json.dumps({"number": assignment.number, "params": assignment.params}) + "\n")
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    return assignment


def works(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    record = record_of(assignment)
    write_text(assignment.trial_dir / "record.json", record.model_dump_json())
    return record.model_dump_json()


def fails_on_the_second(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    record = record_of(assignment)
    if assignment.number == 1:
        failed = {"status": "failed", "points": [], "error": "Traceback: it broke", "error_kind": "ValueError"}
        record = record.model_copy(update=failed)
    write_text(assignment.trial_dir / "record.json", record.model_dump_json())
    return record.model_dump_json()


def raises_on_the_second(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    if assignment.number == 1:
        raise RuntimeError("it broke")
    return record_of(assignment).model_dump_json()


def dies_on_the_second(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    if assignment.number == 1:
        os._exit(9)
    return record_of(assignment).model_dump_json()


def dies_once_on_the_second(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    died = Path(assignment.root) / "died"
    if assignment.number == 1 and not died.exists():
        died.touch()
        os._exit(9)
    return record_of(assignment).model_dump_json()


def dies_behind_its_record(assignment_json: str) -> str:
    """Killed between the record on disk and handing it back."""
    assignment = _begin(assignment_json)
    write_text(assignment.trial_dir / "record.json", record_of(assignment).model_dump_json())
    if assignment.number == 1:
        os._exit(9)
    return record_of(assignment).model_dump_json()


def finds_the_disk_full(assignment_json: str) -> str:
    """The second trial fails for want of space, until the test makes room."""
    assignment = _begin(assignment_json)
    if assignment.number == 1 and not (Path(assignment.root) / "room").exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(assignment.trial_dir / "record.json"))
    return record_of(assignment).model_dump_json()


def talks_nonsense(assignment_json: str) -> str:
    _begin(assignment_json)
    return '{"status": "complete"}'


def lacks_the_attack(assignment_json: str) -> str:
    """A complete record that does not hold the metric of the recipe's objective."""
    record = record_of(_begin(assignment_json))
    points = [p.model_copy(update={"attacks": {}}) for p in record.points]
    return record.model_copy(update={"points": points}).model_dump_json()


def never_ends_the_second(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    if assignment.number == 1:
        time.sleep(120)
    return record_of(assignment).model_dump_json()


def writes_nonsense(assignment_json: str) -> str:
    assignment = _begin(assignment_json)
    write_text(assignment.trial_dir / "record.json", '{"status": "complete"}')
    return '{"status": "complete"}'


def needs_a_mark(assignment_json: str) -> str:
    """Works where the environment variable is set that a runtime environment sets."""
    if os.environ.get("FAKE_MARK") != "seen":
        raise RuntimeError("no FAKE_MARK here")
    return works(assignment_json)
