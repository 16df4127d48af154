"""The words that the reports share: numbers as text, the summary, the honest reading, and the definitions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from robusweep.front import Objective, Point, n_epochs_saved, nearest_to_feasible, short_name
from robusweep.record import FLAGS, TrialRecord
from robusweep.report.readings import Axis, Measured, axes_of, best_of, bounds_of, knee_of, measured
from robusweep.scores import Rate

KNEE, FRONT, FLAG, PER_TEXT, BEST, INFEASIBLE = "★", "●", "⚑", "◐", "◆", "✗"

DEFINITIONS = {
    "clean accuracy": "right without any attack / all scored examples",
    "robust accuracy": "right under every known attack / all attacked examples; an example that is wrong "
    "before the attack counts as wrong",
    "accuracy under attack": "right before and after this attack / all attacked examples",
    "success rate": "turned wrong by this attack / examples that were right before it",
    "median queries": "texts that the attack asked the model about, median over examples that were right before",
    "train seconds": "what finding the ticket and training the adapters of the trial took, also where these were "
    "reused from the cache",
    "interval": "Wilson score interval at 95 %, for each rate by itself; n is the denominator",
    "flag": "a reason not to believe a number as it stands, measured on the model itself or on the attacks' outcomes",
    "stopped": "attacked no further: another point is at least as accurate on clean text and surely more robust (a "
    "race), or most points of all trials came before it on the same examples (early stopping), where it says so after "
    "as many epochs of training; its rates are over fewer examples, then those of half-trained adapters, and it is not "
    "on the front",
    "front": "the points that no other point beats: none is at least as good in every objective and better in one",
    "knee": "the front point with the largest sum of objectives, each scaled to [0, 1] over the front",
    "best": "with search.order: lexicographic, the point that is left when each objective in turn keeps the points "
    "within its tolerance of the best one left; else the knee",
    "infeasible": "scored in full, and beyond a bound of search.constraints: not on the front, and ranked behind all "
    "that meet the bounds, by how far it is off",
    "inference flops": "floating-point operations of the whole system for one text of validation's mean number of "
    "tokens, two for each multiplication with an addition in linear maps and attention",
    "n parameters": "numbers that the shipped system carries, adapters beside a base included",
    "hypervolume": "share of all that is possible that some point matches or beats: from the reference point to a rate "
    "of 1 and a cost of 0; infeasible and stopped points do not count",
}

CAUTION = (
    "The front was selected on validation data. The best of many points is partly lucky, so these numbers are "
    "optimistic until the front has been scored again on fresh data."
)


def percent(rate: Rate) -> str:
    """``93.5 % [91.0, 95.4]``; ``no data`` without a denominator."""
    if rate.n == 0:
        return "no data"
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def reading_text(reading: Measured, metric: str = "train_seconds") -> str:
    if isinstance(reading, Rate):
        return percent(reading)
    return f"{seconds_text(reading)} s" if metric == "train_seconds" else count_text(reading)


def count_text(count: float) -> str:
    """``1.23 G``: three digits and a power of a thousand."""
    for factor, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= factor:
            return f"{count / factor:.3g} {sign}"
    return f"{count:,.0f}"


def as_sentence(text: str | None) -> str | None:
    """With a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}." if text else None


def seconds_text(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.1f}"


def n_text(rates: Sequence[Rate]) -> str:
    """``n = 400``, or the range where the denominators differ."""
    counts = sorted({rate.n for rate in rates})
    if not counts:
        return "n = 0"
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]}–{counts[-1]}"


def value_text(value: Any) -> str:
    """A searched value as a person reads it; everything but numbers and text as JSON, as in the recipe."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def all_notices(notices: Sequence[str], records: Sequence[TrialRecord], points: Sequence[Point]) -> list[str]:
    """The given notices, each stand-in that a record names, and what makes numbers doubtful, once each."""
    stand_ins = (s.notice() for record in records for s in record.stand_ins)
    replay = ["texts found against one point were tried on the others of its trial: rates hold for such a suite only"]
    missed = [text] if (text := nearest_to_feasible(points)) else []
    found = [*missed, *notices, *stand_ins, *flag_notices(points), *(replay if any(p.replay for p in points) else [])]
    return list(dict.fromkeys(found))


def flag_notices(points: Sequence[Point]) -> list[str]:
    """One line for each flag that any point has: its meaning, how many points, and what was measured on one."""
    found: dict[str, list[Point]] = {}
    for point in points:
        for flag in point.flags:
            found.setdefault(flag.name, []).append(point)
    lines = []
    for name, flagged in found.items():
        detail = next(flag.detail for flag in flagged[0].flags if flag.name == name)
        where = flagged[0].id if len(flagged) == 1 else f"{len(flagged)} of {len(points)} points, as {flagged[0].id}"
        lines.append(f"{FLAG} {name} at {where}: {FLAGS.get(name, 'of a later version')} ({detail})")
    return lines


def stopped_text(point: Point) -> str | None:
    """Why and when a point was stopped; None when it was not."""
    stopped = point.stopped
    if stopped is None:
        return None
    return f"stopped {stopped.when}: {stopped.why}"


def violated_text(point: Point) -> str | None:
    """Which constraints it misses; None where it meets all."""
    return f"{INFEASIBLE} misses {', '.join(point.violated)}" if point.violated else None


def protocol_hashes(points: Sequence[Point], records: Sequence[TrialRecord]) -> list[str]:
    hashes = [*(p.protocol_hash for p in points), *(r.protocol_hash for r in records)]
    return [h for h in dict.fromkeys(hashes) if h]


def summary_sentence(points: Sequence[Point], records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> str:
    """One sentence: what was run, what came of it, and the knee."""
    n_failed = sum(record.status == "failed" for record in records)
    trained = sum(record.n_trained for record in records)
    reused = sum(len(record.adapters) for record in records) - trained
    text = f"{counted(len(records), 'trial')} trained {counted(trained, 'adapter')}"
    if reused:
        text += f" and reused {reused} from the cache"
    if n_ended := sum(adapter.epochs is not None for record in records for adapter in record.adapters):
        text += f" ({n_ended} of them not to the end)"
    if n_failed:
        text += f", {'all' if n_failed == len(records) > 1 else n_failed} failed"
    if not points:
        return f"{text}; no point was scored, so there is no front."
    early = _stopped_summary(points)
    n_missed = sum(bool(p.violated) for p in points)
    missed = f", {n_missed} of them beyond a constraint" if n_missed else ""
    text += f", {counted(len(points), 'point')} scored{early}{missed}, {sum(p.pareto for p in points)} on the front"
    best = knee_of(points)
    if best is None:
        return f"{text}."
    readings = [f"{a.label} {reading_text(measured(best, a.metric), a.metric)}" for a in axes_of(objectives)]
    text += f"; knee: {short_name(best.id, best.params)} with {' and '.join(readings)}"
    if (chosen := best_of(points)) is not None:
        readings = [f"{Axis(o.metric).label} {reading_text(measured(chosen, o.metric), o.metric)}" for o in objectives]
        text += (
            f"; best by the order of the objectives: {short_name(chosen.id, chosen.params)} with {', '.join(readings)}"
        )
    return f"{text}."


def _stopped_summary(points: Sequence[Point]) -> str:
    """In brackets: how many points were stopped by what, and how many queries that saved; empty when none was."""
    stopped = [p.stopped for p in points if p.stopped is not None]
    n_race = sum(s.reason == "race" for s in stopped)
    n_saved = sum(s.n_queries_saved or 0 for s in stopped)
    texts = [f"{n_race} of them stopped early by the race"] if n_race else []
    if n_race < len(stopped):
        n_half, n_epochs = sum(p.half_trained for p in points), n_epochs_saved(points)
        half = f", {n_half} before their training was over" if n_half else ""
        epochs = f" and {counted(n_epochs, 'epoch')} of training" if n_epochs else ""
        texts.append(
            f"{len(stopped) - n_race} of them stopped early as they fell behind other trials' points{half}, which "
            f"saved about {n_saved:,} queries of known attacks{epochs}"
        )
    return f" ({', '.join(texts)})" if texts else ""


def overlap_sentence(points: Sequence[Point], objectives: Sequence[Objective]) -> str | None:
    """How many front points the intervals can't tell from the knee; None without a knee."""
    best = knee_of(points)
    if best is None:
        return None
    others = [p for p in points if p.pareto and p is not best]
    if not others:
        return "The front is a single point."
    rates = [axis for axis in axes_of(objectives) if axis.is_rate]
    overlapping = [[overlap(measured(p, a.metric), measured(best, a.metric)) for a in rates] for p in others]
    counts = [f"in {axis.label} for {sum(row[i] for row in overlapping)}" for i, axis in enumerate(rates)]
    if len(rates) > 1:
        counts.append(f"in both for {sum(all(row) for row in overlapping)}")
    return (
        f"Of {counted(len(others), 'other front point')}, the 95 % interval overlaps the knee's {', '.join(counts)}. "
        "Where intervals overlap, this sweep alone does not show which point is better."
    )


def overlap(a: Measured, b: Measured) -> bool:
    (a_low, a_high), (b_low, b_high) = bounds_of(a), bounds_of(b)
    return a_low <= b_high and b_low <= a_high


def axes_sentence(objectives: Sequence[Objective]) -> str | None:
    """What the figure leaves out or adds, when the objectives are not two."""
    x, y = axes_of(objectives)
    if len(objectives) > 2:
        rest = ", ".join(o.metric for o in objectives[2:])
        return (
            f"x and y are the first two of {len(objectives)} objectives; not drawn: {rest}. A front point below "
            "the line is on the front for what is not drawn."
        )
    if len(objectives) == 1:
        drawn = f"{x.label} and {y.label}"
        return f"There is one objective, {objectives[0].metric}; the front is its best value. Drawn are {drawn}."
    return None
