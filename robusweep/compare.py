"""Two scored points on the same examples: what differs, and how far the difference could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robusweep.assignment import trial_id
from robusweep.errors import MissingError, UsageError, nearest
from robusweep.front import UNDER_ATTACK
from robusweep.record import AttackOutcome, PointRecord, TrialRecord, read_outcomes, read_trials
from robusweep.scores import Comparison
from robusweep.sweep.status import find_run, read_points

ROBUST = "robust_accuracy"


@dataclass(frozen=True)
class Compared:
    """``rows``: robust accuracy first, then accuracy under each attack that both points have met, by metric."""

    first: str
    second: str
    protocol_hash: str
    n_examples: int
    rows: dict[str, Comparison]

    def as_json(self) -> dict[str, Any]:
        rows = {name: comparison.model_dump(mode="json") for name, comparison in self.rows.items()}
        return {
            "first": self.first,
            "second": self.second,
            "protocol_hash": self.protocol_hash,
            "n": self.n_examples,
            "comparisons": rows,
        }


@dataclass(frozen=True)
class _Scored:
    name: str
    folder: Path  # of its trial
    trial: TrialRecord
    point: PointRecord


def compare(root: Path, first: str, second: str) -> Compared:
    """Compare two points, each named ``RUN/POINT``; the point may be ``knee``.

    Of a point that a race has stopped, the examples it has met are compared. Raises ``UsageError`` for names that are
    not there and for points of different protocols, ``MissingError`` for outcomes that are gone.
    """
    one, two = _scored(root, first), _scored(root, second)
    hashes = [one.trial.protocol_hash, two.trial.protocol_hash]
    if hashes[0] != hashes[1]:
        raise UsageError(
            f"{one.name} and {two.name} were scored under different protocols ({hashes[0]} and {hashes[1]})",
            hint="numbers of different protocol hashes mean different things and are not compared",
        )
    outcomes = [_outcomes(one), _outcomes(two)]
    kinds = [kind for kind in outcomes[0] if kind in outcomes[1]]
    known = [kind for kind in kinds if kind in one.point.attacks]
    met = _met([each[kind] for each in outcomes for kind in known])
    stood = [{kind: _stood(each[kind]) for kind in kinds} for each in outcomes]
    rows = {ROBUST: Comparison.of(*([all(s[kind][i] for kind in known) for i in met] for s in stood))}
    for kind in kinds:
        both = _met([each[kind] for each in outcomes])
        rows[UNDER_ATTACK + kind] = Comparison.of(*([s[kind][i] for i in both] for s in stood))
    return Compared(one.name, two.name, hashes[0], len(met), rows)


def _scored(root: Path, named: str) -> _Scored:
    run, slash, name = named.rpartition("/")
    if not slash or not run or not name:
        raise UsageError(f"{named!r} names no point: write RUN/POINT, such as my-run/t003.01 or my-run/knee")
    run_dir = find_run(root, run)
    if name == "knee":
        name = next((point.id for point in read_points(run_dir) if point.knee), name)
    found = {point.id: (trial, point) for trial in read_trials(run_dir) for point in trial.points}
    if name not in found:
        near = nearest(name, found)
        raise UsageError(
            f"there is no point {name!r} in {run}",
            hint=f"did you mean {near!r}?" if near else f"robusweep pareto {run} --all lists them",
        )
    trial, point = found[name]
    return _Scored(f"{run_dir.name}/{name}", run_dir / "trials" / trial_id(trial.number), trial, point)


def _outcomes(scored: _Scored) -> dict[str, list[AttackOutcome]]:
    found = {}
    for kind in [*scored.point.attacks, *scored.point.held_out]:
        path = scored.folder / "attacks" / f"{scored.point.id}.{kind}.jsonl"
        found[kind] = read_outcomes(path)
        if not found[kind]:
            raise MissingError(f"the outcomes of {scored.name} under {kind} are gone: {path}")
    return found


def _stood(outcomes: Sequence[AttackOutcome]) -> dict[str, bool]:
    return {outcome.example_id: outcome.status == "survived" for outcome in outcomes}


def _met(suites: Sequence[Sequence[AttackOutcome]]) -> list[str]:
    """The examples that all of these have met, in order."""
    others = [{outcome.example_id for outcome in suite} for suite in suites[1:]]
    return [o.example_id for o in suites[0] if all(o.example_id in other for other in others)]
