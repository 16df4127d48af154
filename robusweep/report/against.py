"""The table that compares every point with a reference: its words and columns, whatever writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from robusweep.front import UNDER_ATTACK, Objective, Point
from robusweep.record import Stopped
from robusweep.reference import HELD_OUT_ROBUST, ROBUST, ReferenceTable
from robusweep.report.readings import attack_names, held_out_names, searched_keys, table_order
from robusweep.report.sentences import counted, n_text, percent, seconds_text, stopped_text, value_text
from robusweep.scores import Comparison, Rate


@dataclass(frozen=True)
class Cell:
    """``value``: what the cell is sorted by; ``note``: what stands below its text in small letters; ``share``: how
    deep the cell is coloured, from 0 to 1."""

    text: str = ""
    value: str | float = ""
    note: str = ""
    share: float = 0.0
    mark: Literal["", "tinted", "framed"] = ""


_ON_ALL = "Clean accuracy is compared on all validation texts."
_ON_ATTACKED = (
    "The clean accuracy of all validation texts is not paired: which of them a point got right was not kept, so the "
    "two rates stand with their own intervals, and the difference is on attacked texts."
)


@dataclass(frozen=True)
class Column:
    group: str
    head: str
    cells: list[Cell]
    n: str = ""  # the denominator, where it is one for all cells
    is_text: bool = False


def title_of(table: ReferenceTable) -> str:
    return f"Compared with {_values_text(table)}"


def _values_text(table: ReferenceTable) -> str:
    return ", ".join(f"{key} = {value_text(value)}" for key, value in table.values.items())


def sentences_of(table: ReferenceTable, points: Sequence[Point]) -> list[str]:
    """What is compared how, how often, and what to be careful with."""
    if not table.references:
        return [f"No complete point has {_values_text(table)} yet, so nothing is compared."]
    n_robust = sum(ROBUST in row.comparisons for row in table.rows)
    said = [
        f"Every other point is compared with {table.references[0]}, on the attacked texts that both have met. "
        "Differences are in points, this one minus the reference, with a 95 % interval for pairs (Newcombe) and the "
        "exact p of McNemar's test. A text that is wrong before the attack counts as wrong under it.",
        _ON_ALL if _all_paired(table, points) else _ON_ATTACKED,
        f"{counted(n_robust, 'comparison')} of robust accuracy under known attacks {'is' if n_robust == 1 else 'are'} "
        "made; Holm's p is corrected for all of them. No other p is corrected.",
    ]
    if len(table.references) > 1:
        said.append(
            "Several points are references: a point meets the one that agrees with it in all else that is searched, "
            f"where there is one, else {table.references[0]}."
        )
    ids = {row.point for row in table.rows} | set(table.references)
    if stopped := [point.stopped for point in points if point.stopped is not None and point.id in ids]:
        said.append(
            f"A point that {_stoppers(stopped)} is compared on the texts that it met until then. It was stopped "
            "because it did badly on them, so its p is too small."
        )
    if empty := [row.point for row in table.rows if not row.comparisons]:
        said.append(f"Not compared, for want of outcomes on the same texts: {', '.join(empty)}.")
    return said


def _all_paired(table: ReferenceTable, points: Sequence[Point]) -> bool:
    """Whether clean accuracy is compared on all validation texts, in every row where it is compared at all."""
    n = {point.id: point.clean_accuracy.n for point in points}
    return all(row.clean.first.n == n.get(row.point) for row in table.rows if row.clean is not None)


def _stoppers(stopped: Sequence[Stopped]) -> str:
    said = {"race": "the race has stopped", "early_stopping": "was stopped early"}
    return " or ".join(said[reason] for reason in sorted({s.reason for s in stopped}, reverse=True))


def columns_of(table: ReferenceTable, points: Sequence[Point], objectives: Sequence[Objective]) -> list[Column]:
    """Column by column, each with one cell for each of ``shown_points``."""
    shown = shown_points(table, points, objectives)
    rows = {row.point: row for row in table.rows}
    found = [Column("point", "id", [Cell(p.id, p.id, stopped_text(p) or "") for p in shown])]
    if len(table.references) > 1:
        others = [rows[p.id].reference if p.id in rows else "" for p in shown]
        found.append(Column("point", "compared with", [Cell(other, other) for other in others]))
    for key in searched_keys(shown):
        values = [value_text(p.params[key]) if key in p.params else "" for p in shown]
        found.append(Column("searched", key, [Cell(value, value) for value in values], is_text=True))
    found.append(Column("training", "seconds", [Cell(seconds_text(p.train_seconds), p.train_seconds) for p in shown]))

    def paired(group: str, metric: str) -> list[Column]:
        return _paired(group, [rows[p.id].comparisons.get(metric) if p.id in rows else None for p in shown])

    clean = [rows[p.id].clean if p.id in rows else None for p in shown]
    found.append(_rates("clean accuracy", [p.clean_accuracy for p in shown]))
    found += _paired("clean accuracy" if _all_paired(table, points) else "clean accuracy, attacked texts", clean)
    known = "robust accuracy, known attacks"
    found.append(_rates(known, [p.robust_accuracy for p in shown]))
    found += paired(known, ROBUST)
    corrected = [rows[p.id].holm_p_value if p.id in rows else None for p in shown]
    found.append(Column(known, "Holm's p", [Cell() if p is None else Cell(_p_text(p), p) for p in corrected]))
    if table.held_out_robust:
        held_out = "robust accuracy, held-out attacks"
        found.append(_rates(held_out, [table.held_out_robust.get(p.id) for p in shown]))
        found += paired(held_out, HELD_OUT_ROBUST)
    for name in attack_names(shown):
        found += paired(f"under {name}", UNDER_ATTACK + name)
    for name in held_out_names(shown):
        found += paired(f"under {name} (held out)", UNDER_ATTACK + name)
    return found


def shown_points(table: ReferenceTable, points: Sequence[Point], objectives: Sequence[Objective]) -> list[Point]:
    """The references, then what is compared with them, the front first."""
    by_id = {point.id: point for point in points}
    compared = {row.point for row in table.rows}
    references = [by_id[name] for name in table.references if name in by_id]
    return references + [point for point in table_order(points, objectives) if point.id in compared]


def _rates(group: str, rates: Sequence[Rate | None]) -> Column:
    cells = [Cell() if rate is None else Cell(percent(rate), rate.value if rate.n else "") for rate in rates]
    return Column(group, "rate", cells, n_text([rate for rate in rates if rate is not None]))


def _paired(group: str, found: Sequence[Comparison | None]) -> list[Column]:
    """Difference, p-value and how often only one of the two is wrong; empty where nothing was compared."""

    def column(head: str, cell: Callable[[Comparison], Cell], n: str = "") -> Column:
        return Column(group, head, [Cell() if c is None else cell(c) for c in found], n)

    same_n = n_text([c.first for c in found if c is not None])
    return [
        column("difference", lambda c: Cell(_difference_text(c), c.difference, _n_note(c, same_n)), same_n),
        column("McNemar's p", lambda c: Cell(_p_text(c.p_value), c.p_value)),
        column("wrong only here / there", lambda c: Cell(f"{c.n_only_second} / {c.n_only_first}", c.n_only_second)),
    ]


def _n_note(comparison: Comparison, head: str) -> str:
    """The denominator, where the head of the column gives a range."""
    own = n_text([comparison.first])
    return "" if own == head else own


def _difference_text(comparison: Comparison) -> str:
    """``+12.5 [+3.1, +21.0]``, in points."""
    return f"{100 * comparison.difference:+.1f} [{100 * comparison.low:+.1f}, {100 * comparison.high:+.1f}]"


def _p_text(p_value: float) -> str:
    return f"{p_value:.2g}"
