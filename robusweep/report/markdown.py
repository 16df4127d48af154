"""The report in short, as Markdown: notices, the summary, the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from robusweep.front import UNDER_ATTACK, Objective, Point, short_name
from robusweep.hypervolume import History
from robusweep.record import TrialRecord
from robusweep.reference import ReferenceTable
from robusweep.report.against import Column, columns_of, sentences_of, title_of
from robusweep.report.mixes import Mixed, mixed_points
from robusweep.report.mixing import (
    WEIGHTS_SAID,
    WEIGHTS_TITLE,
    mixing_sections,
    notes_of,
    unaided_text,
    weight_tables,
)
from robusweep.report.readings import attack_names, counted_costs, front_of, measured, searched_keys, table_order
from robusweep.report.sentences import (
    BEST,
    CAUTION,
    DEFINITIONS,
    FLAG,
    FRONT,
    KNEE,
    PER_TEXT,
    all_notices,
    as_sentence,
    count_text,
    n_text,
    overlap_sentence,
    protocol_hashes,
    reading_text,
    seconds_text,
    summary_sentence,
    value_text,
)
from robusweep.report.tickets import Mask, ticket_tables, ticketed_trials
from robusweep.scores import Rate


def markdown_report(
    *,
    name: str,
    points: Sequence[Point],
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    recipe_yaml: str,  # noqa: ARG001 - takes what html_report takes; the recipe stays with the HTML
    notices: Sequence[str],
    protocol: Mapping[str, object],
    against: ReferenceTable | None = None,
    space: Mapping[str, Any] | None = None,
    masks: Mapping[int, Mask] | None = None,
    history: History | None = None,
) -> str:
    """Notices, summary, front, comparisons, mixing, failures and definitions: what fits into a comment or a chat."""
    mixed = mixed_points(points, records, space or {})
    parts = [f"# {_plain(name)}"]
    parts += [f"> **Note:** {_plain(notice)}" for notice in all_notices(notices, records, points)]
    parts.append(_plain(summary_sentence(points, records, objectives)))
    if points:
        parts.append(_front_table(points, objectives, mixed))
        noted = [(p, notes_of(mixed.get(p.id))) for p in table_order(points, objectives)]
        notes = [f"- {_plain(short_name(p.id, p.params))}: {'; '.join(words)}" for p, words in noted if words]
        parts += ["\n".join(notes)] if notes else []
        grown = as_sentence(history.sentence()) if history else None
        parts += [text for text in (overlap_sentence(points, objectives), grown, CAUTION) if text]
        parts += [f"The sweep ended before its budget was spent: {history.ended}."] if history and history.ended else []
        terms = ("clean accuracy", "robust accuracy", "accuracy under attack", "interval")
        parts.append("\n".join(f"- {term}: {DEFINITIONS[term]}" for term in terms))
    if against is not None:
        parts.append(f"## {_plain(title_of(against))}")
        parts += map(_plain, sentences_of(against, points))
        parts += [_columns_table(columns_of(against, points, objectives))] if against.references else []
    for section in mixing_sections(mixed, points, objectives):
        parts += [f"## {_plain(section.title)}", *map(_plain, section.sentences), _columns_table(section.columns)]
    for i, table in enumerate(weight_tables(mixed, points, objectives)):
        parts += [] if i else [f"## {WEIGHTS_TITLE}", WEIGHTS_SAID]
        parts += [f"### {_plain(short_name(table.point.id, table.point.params))}", _columns_table(table.columns)]
    for ticket_table in ticket_tables(ticketed_trials(records, masks or {})):
        words = map(_plain, ticket_table.sentences)
        parts += [f"## {_plain(ticket_table.title)}", *words, _columns_table(ticket_table.columns)]
    failed = [record for record in records if record.status == "failed"]
    if failed:
        parts.append("\n".join(f"- trial {r.number} failed: {_plain(r.error or 'not recorded')}" for r in failed))
    hashes = ", ".join(f"`{each}`" for each in protocol_hashes(points, records))
    if hashes:
        name_of = f" ({_plain(str(protocol['name']))})" if "name" in protocol else ""
        parts.append(f"Protocol{name_of}: {hashes}")
    return "\n\n".join(parts) + "\n"


def _front_table(points: Sequence[Point], objectives: Sequence[Objective], mixed: Mapping[str, Mixed]) -> str:
    metrics = {"clean": "clean_accuracy", "robust": "robust_accuracy"}
    metrics |= {f"under {attack}": UNDER_ATTACK + attack for attack in attack_names(points)}
    front, keys = front_of(points, objectives), searched_keys(points)
    heads = ["front", "id", *keys]
    for words, metric in metrics.items():
        rates = [rate for rate in (measured(p, metric) for p in front) if isinstance(rate, Rate)]
        heads.append(f"{words} ({n_text(rates)})")
    costs = counted_costs(front)
    heads += ["train seconds", *(cost.replace("_", " ") for cost in costs)]
    rows = [heads, ["---"] * len(heads)]
    for number, point in enumerate(front, 1):
        params = [value_text(point.params[key]) if key in point.params else "" for key in keys]
        rates_text = [_reading(point, metric, mixed.get(point.id)) for metric in metrics.values()]
        mark = f"{KNEE if point.knee else FRONT} {number}" + (f" {BEST}" if point.best and not point.knee else "")
        per_text = point.id in mixed and mixed[point.id].scored.per_text
        name = " ".join([point.id, *([FLAG] if point.flags else []), *([PER_TEXT] if per_text else [])])
        counts = ["" if (c := getattr(point, cost)) is None else count_text(c) for cost in costs]
        rows.append([mark, name, *params, *rates_text, seconds_text(point.train_seconds), *counts])
    return _table(rows)


def _reading(point: Point, metric: str, mixed: Mixed | None) -> str:
    alone = unaided_text(mixed, metric.removeprefix(UNDER_ATTACK))
    return reading_text(measured(point, metric)) + (f" ({alone})" if alone else "")


def _columns_table(columns: Sequence[Column]) -> str:
    """What the page has, with one column for all that is said of one rate."""
    heads, cells = [], []
    for (group, alone), members in groupby(columns, key=_column_of):
        of_rate = list(members)
        counts = dict.fromkeys(column.n for column in of_rate if column.n)
        denominators = f" ({', '.join(counts)})" if counts else ""
        heads.append(alone or f"{group}: {'; '.join(column.head for column in of_rate)}{denominators}")
        rows = zip(*(column.cells for column in of_rate), strict=True)
        cells.append(["; ".join(f"{c.text} {c.note}".strip() for c in row if c.text) for row in rows])
    return _table([heads, ["---"] * len(heads), *map(list, zip(*cells, strict=True))])


def _column_of(column: Column) -> tuple[str, str]:
    return column.group, column.head if column.group in {"point", "searched"} else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in rows)


def _plain(text: str) -> str:
    """One line of text that Markdown takes as text: no line break, no cell border, no HTML."""
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
