"""Two scored points on the same examples: what differs, and how far the difference could be chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robusweep.assignment import trial_id
from robusweep.attacks import attack_kinds
from robusweep.errors import MissingError, UsageError, nearest
from robusweep.front import UNDER_ATTACK, Point
from robusweep.record import AttackOutcome, PointRecord, TrialRecord, read_clean, read_outcomes, read_trials
from robusweep.reference import (
    HELD_OUT_ROBUST,
    ROBUST,
    AgainstReference,
    ReferenceTable,
    reference_of,
    references_in,
)
from robusweep.scores import Comparison, Rate, holm
from robusweep.sweep.status import find_run, read_points

CLEAN = "clean_accuracy"
Suite = Mapping[str, Sequence[AttackOutcome]]  # attack -> what it did to each example


@dataclass(frozen=True)
class Compared:
    """``rows`` by metric: clean accuracy on the validation texts, robust accuracy under known and under held-out
    attacks, then accuracy under each attack, on the attacked ones."""

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

    Of a point that was stopped early, the examples it has met are compared. Raises ``UsageError`` for names that are
    not there, for points of different protocols and for half-trained ones, ``MissingError`` for outcomes that are gone.
    """
    one, two = _scored(root, first), _scored(root, second)
    hashes = [one.trial.protocol_hash, two.trial.protocol_hash]
    if hashes[0] != hashes[1]:
        raise UsageError(
            f"{one.name} and {two.name} were scored under different protocols ({hashes[0]} and {hashes[1]})",
            hint="numbers of different protocol hashes mean different things and are not compared",
        )
    rows = _comparisons(_outcomes(one), _outcomes(two), known=one.point.attacks)
    if ROBUST not in rows:
        raise UsageError(f"{one.name} and {two.name} share no attacked example")
    clean = _clean(*((scored.folder / "attacks", scored.point.id) for scored in (one, two)))
    rows = ({CLEAN: clean} if clean else {}) | rows
    return Compared(one.name, two.name, hashes[0], rows[ROBUST].first.n, rows)


def against_reference(run_dir: Path, points: Sequence[Point], values: Mapping[str, Any]) -> ReferenceTable:
    """Every point of a run that has not these values, compared with one that has; what lacks outcomes stays empty.

    Points that were stopped before their training was over are left out.
    """
    points = [point for point in points if not point.half_trained]
    references = references_in(points, values)
    ids = [point.id for point in references]
    suites = {point.id: _suite(run_dir, point) for point in points} if references else {}
    rows = []
    for point in points:
        if references and point.id not in ids:
            other = reference_of(point, references, values)
            one, two = suites[point.id], suites[other.id]
            rows.append(
                AgainstReference(
                    point=point.id,
                    reference=other.id,
                    clean=_clean(*((_folder(run_dir, p), p.id) for p in (point, other))) or _clean_attacked(one, two),
                    comparisons=_comparisons(one, two, known=point.attacks),
                )
            )
    robust = [i for i, row in enumerate(rows) if ROBUST in row.comparisons]
    for i, p_value in zip(robust, holm([rows[i].comparisons[ROBUST].p_value for i in robust]), strict=True):
        rows[i] = rows[i].model_copy(update={"holm_p_value": p_value})
    return ReferenceTable(
        values=dict(values),
        references=ids,
        rows=rows,
        held_out_robust={p.id: rate for p in points if p.held_out and (rate := _held_out(suites.get(p.id, {}), p))},
    )


def _folder(run_dir: Path, point: Point) -> Path:
    return run_dir / "trials" / trial_id(point.trial) / "attacks"


def _suite(run_dir: Path, point: Point) -> Suite:
    """What each attack did to a point; nothing at all where the outcomes of one of them are gone."""
    folder = _folder(run_dir, point)
    found = {kind: read_outcomes(folder / f"{point.id}.{kind}.jsonl") for kind in [*point.attacks, *point.held_out]}
    return found if all(found.values()) else {}


def _held_out(suite: Suite, point: Point) -> Rate | None:
    """Right under every held-out attack, per example / all; None where outcomes are gone."""
    kinds = _turning(point.held_out)
    if not kinds or any(kind not in suite for kind in kinds):
        return None
    stood = [_stood(suite[kind]) for kind in kinds]
    met = _met([suite[kind] for kind in kinds])
    return Rate.of(sum(all(s[i] for s in stood) for i in met), len(met))


def _turning(kinds: Collection[str]) -> list[str]:
    """The attacks that try to turn a prediction wrong; the others say nothing of robustness."""
    known = attack_kinds()
    return [kind for kind in kinds if kind not in known or known[kind].goal == "change_label"]


def _clean(one: tuple[Path, str], two: tuple[Path, str]) -> Comparison | None:
    """Who is right before any attack, on all validation texts; each is a folder and a point whose marks lie there.

    None where they are gone, as in runs of earlier versions.
    """
    first, second = (read_clean(*each) for each in (one, two))
    return Comparison.of(first, second) if first and second and len(first) == len(second) else None


def _clean_attacked(one: Suite, two: Suite) -> Comparison | None:
    """The same, on the examples of the first attack that both have met."""
    kind = next((kind for kind in one if kind in two), None)
    met = _met([one[kind], two[kind]]) if kind else []
    if kind is None or not met:
        return None
    right = [{o.example_id: o.status != "misclassified" for o in suite[kind]} for suite in (one, two)]
    return Comparison.of(*([each[i] for i in met] for each in right))


def _comparisons(one: Suite, two: Suite, *, known: Collection[str]) -> dict[str, Comparison]:
    """By metric, each on the examples that both have met under all its attacks; nothing where there are none."""
    kinds = [kind for kind in one if kind in two]
    metrics = {
        ROBUST: [k for k in kinds if k in known],
        HELD_OUT_ROBUST: _turning([k for k in kinds if k not in known]),
    }
    metrics |= {UNDER_ATTACK + kind: [kind] for kind in kinds}
    stood = [{kind: _stood(suite[kind]) for kind in kinds} for suite in (one, two)]
    rows = {}
    for metric, attacks in metrics.items():
        if met := _met([suite[kind] for suite in (one, two) for kind in attacks]):
            rows[metric] = Comparison.of(*([all(s[kind][i] for kind in attacks) for i in met] for s in stood))
    return rows


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
    if point.stopped is not None and point.stopped.in_training:
        raise UsageError(f"{named} was stopped {point.stopped.when}: there is no trained model of it to compare")
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
    return [o.example_id for o in suites[0] if all(o.example_id in other for other in others)] if suites else []
