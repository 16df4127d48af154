"""The report in short, as Markdown: notices, the summary, the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from robusweep.front import UNDER_ATTACK, Objective, Point
from robusweep.record import TrialRecord
from robusweep.reference import ReferenceTable
from robusweep.report.against import Column, columns_of, sentences_of, title_of
from robusweep.report.readings import attack_names, front_of, measured, searched_keys
from robusweep.report.sentences import (
    CAUTION,
    DEFINITIONS,
    FLAG,
    FRONT,
    KNEE,
    all_notices,
    n_text,
    overlap_sentence,
    protocol_hashes,
    reading_text,
    seconds_text,
    summary_sentence,
    value_text,
)
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
) -> str:
    """Notices, summary, front, comparisons, failures and definitions: what fits into a comment or a chat."""
    parts = [f"# {_plain(name)}"]
    parts += [f"> **Note:** {_plain(notice)}" for notice in all_notices(notices, records, points)]
    parts.append(_plain(summary_sentence(points, records, objectives)))
    if points:
        parts.append(_front_table(points, objectives))
        parts += [text for text in (overlap_sentence(points, objectives), CAUTION) if text]
        terms = ("clean accuracy", "robust accuracy", "accuracy under attack", "interval")
        parts.append("\n".join(f"- {term}: {DEFINITIONS[term]}" for term in terms))
    if against is not None:
        parts.append(f"## {_plain(title_of(against))}")
        parts += map(_plain, sentences_of(against, points))
        parts += [_against_table(against, points, objectives)] if against.references else []
    failed = [record for record in records if record.status == "failed"]
    if failed:
        parts.append("\n".join(f"- trial {r.number} failed: {_plain(r.error or 'not recorded')}" for r in failed))
    hashes = ", ".join(f"`{each}`" for each in protocol_hashes(points, records))
    if hashes:
        name_of = f" ({_plain(str(protocol['name']))})" if "name" in protocol else ""
        parts.append(f"Protocol{name_of}: {hashes}")
    return "\n\n".join(parts) + "\n"


def _front_table(points: Sequence[Point], objectives: Sequence[Objective]) -> str:
    metrics = {"clean": "clean_accuracy", "robust": "robust_accuracy"}
    metrics |= {f"under {attack}": UNDER_ATTACK + attack for attack in attack_names(points)}
    front, keys = front_of(points, objectives), searched_keys(points)
    heads = ["front", "id", *keys]
    for words, metric in metrics.items():
        rates = [rate for rate in (measured(p, metric) for p in front) if isinstance(rate, Rate)]
        heads.append(f"{words} ({n_text(rates)})")
    heads.append("train seconds")
    rows = [heads, ["---"] * len(heads)]
    for number, point in enumerate(front, 1):
        params = [value_text(point.params[key]) if key in point.params else "" for key in keys]
        rates_text = [reading_text(measured(point, metric)) for metric in metrics.values()]
        mark = f"{KNEE if point.knee else FRONT} {number}"
        name = f"{point.id} {FLAG}" if point.flags else point.id
        rows.append([mark, name, *params, *rates_text, seconds_text(point.train_seconds)])
    return _table(rows)


def _against_table(table: ReferenceTable, points: Sequence[Point], objectives: Sequence[Objective]) -> str:
    """What the page has, with one column for all that is said of one rate."""
    heads, cells = [], []
    for (group, alone), members in groupby(columns_of(table, points, objectives), key=_column_of):
        columns = list(members)
        counts = dict.fromkeys(column.n for column in columns if column.n)
        denominators = f" ({', '.join(counts)})" if counts else ""
        heads.append(alone or f"{group}: {'; '.join(column.head for column in columns)}{denominators}")
        rows = zip(*(column.cells for column in columns), strict=True)
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
