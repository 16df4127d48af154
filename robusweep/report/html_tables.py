"""The tables of the HTML report. Every text from recipes and records is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from robusweep.front import Objective, Point
from robusweep.record import AttackScore, TrialRecord
from robusweep.reference import ReferenceTable
from robusweep.report.against import Cell, Column, columns_of, shown_points
from robusweep.report.mixes import Mixed
from robusweep.report.mixing import SHARES, TAKING_PART, Section, WeightTable, notes_of, unaided_text
from robusweep.report.readings import attack_names, counted_costs, front_of, held_out_names, searched_keys, table_order
from robusweep.report.sentences import (
    BEST,
    FLAG,
    FRONT,
    INFEASIBLE,
    KNEE,
    count_text,
    n_text,
    percent,
    seconds_text,
    stopped_text,
    value_text,
    violated_text,
)
from robusweep.report.svg_shares import share_axis, share_histograms
from robusweep.report.tickets import TicketTable
from robusweep.scores import Rate


def points_table(points: Sequence[Point], objectives: Sequence[Objective], mixed: Mapping[str, Mixed]) -> str:
    """All points, the front first. Row ``row-<i>`` is what the figures link to."""
    numbers = {point.id: i for i, point in enumerate(front_of(points, objectives), 1)}
    keys, suites, costs = searched_keys(points), _suites(points), counted_costs(points)
    body = []
    for i, point in enumerate(table_order(points, objectives)):
        cells = [
            f'<td class="mark" data-value="{numbers.get(point.id, "")}">{_mark(point, numbers)}</td>',
            _id_cell(point, mixed.get(point.id)),
            *(_value_cell(point.params.get(key), given=key in point.params) for key in keys),
            _rate_cell(point.clean_accuracy),
            _rate_cell(point.robust_accuracy),
            *(
                cell
                for suite in suites
                for cell in _attack_cells(
                    suite.scores.get(point.id), note=unaided_text(mixed.get(point.id), suite.attack)
                )
            ),
            f'<td data-value="{point.train_seconds}">{seconds_text(point.train_seconds)}</td>',
            *(_count_cell(getattr(point, cost)) for cost in costs),
        ]
        front = ' class="front"' if point.pareto else ""
        body.append(f'<tr id="row-{i}" data-id="{escape(point.id)}"{front}>{"".join(cells)}</tr>')
    head = _points_head(points, keys, suites, costs)
    return f'<div class="scroll"><table class="points">{head}<tbody>{"".join(body)}</tbody></table></div>'


@dataclass(frozen=True)
class Suite:
    """One attack's columns: its name, the words for it, and its score by point id."""

    attack: str
    words: str
    scores: dict[str, AttackScore]


def _suites(points: Sequence[Point]) -> list[Suite]:
    known = [
        Suite(name, name, {p.id: AttackScore.model_validate(p.attacks[name]) for p in points if name in p.attacks})
        for name in attack_names(points)
    ]
    held_out = [
        Suite(
            name,
            f"{name} (held out)",
            {p.id: AttackScore.model_validate(p.held_out[name]) for p in points if name in p.held_out},
        )
        for name in held_out_names(points)
    ]
    return known + held_out


def _points_head(points: Sequence[Point], keys: Sequence[str], suites: Sequence[Suite], costs: Sequence[str]) -> str:
    groups = ['<th colspan="2">point</th>']
    if keys:
        groups.append(f'<th class="group" colspan="{len(keys)}">searched</th>')
    groups.append('<th class="group" colspan="2">accuracy</th>')
    groups += [f'<th class="group" colspan="3">{escape(suite.words)}</th>' for suite in suites]
    groups.append('<th class="group">training</th>')
    groups += [f'<th class="group" colspan="{len(costs)}">system</th>'] if costs else []
    heads = [
        "<th>front</th>",
        "<th>id</th>",
        *(f'<th class="key">{_breakable(key)}</th>' for key in keys),
        f"<th>clean<small>{n_text([p.clean_accuracy for p in points])}</small></th>",
        f"<th>robust<small>{n_text([p.robust_accuracy for p in points])}</small></th>",
    ]
    for suite in suites:
        under = n_text([score.accuracy_under_attack for score in suite.scores.values()])
        success = n_text([score.success_rate for score in suite.scores.values()])
        heads.append(f"<th>accuracy under attack<small>{under}</small></th>")
        heads.append(f"<th>success rate<small>{success}</small></th><th>median queries</th>")
    heads.append("<th>seconds</th>")
    heads += [f"<th>{cost.replace('_', ' ')}</th>" for cost in costs]
    return f"<thead><tr>{''.join(groups)}</tr><tr>{''.join(heads)}</tr></thead>"


def _breakable(key: str) -> str:
    return _wrapped(key).replace(".", ".<wbr>").replace("(", "(<wbr>")


def _wrapped(text: str) -> str:
    """A name that is too long for its line breaks behind an underscore."""
    return escape(text).replace("_", "_<wbr>")


def _mark(point: Point, numbers: Mapping[str, int]) -> str:
    if not point.pareto:
        return INFEASIBLE if point.violated else ""
    said = f"{KNEE if point.knee else FRONT} {numbers[point.id]}" + (" knee" if point.knee else "")
    return f"{said} {BEST} best" if point.best and not point.knee else said


def _id_cell(point: Point, mixed: Mixed | None) -> str:
    """The id; behind it in words: how it was mixed, its flags, and the reason why the point was stopped early."""
    notes = [*notes_of(mixed), *(f"{FLAG} {flag.name}" for flag in point.flags)]
    notes += [text for text in (stopped_text(point), violated_text(point)) if text]
    small = "".join(map(_small, notes))
    titles = "; ".join(f"{flag.name}: {flag.detail}" for flag in point.flags)
    title = f' title="{escape(titles)}"' if titles else ""
    return f'<td class="id" data-value="{escape(point.id)}"{title}>{escape(point.id)}{small}</td>'


def _value_cell(value: Any, *, given: bool) -> str:
    if not given:
        return '<td data-value=""></td>'
    kind = "" if isinstance(value, int | float) else ' class="text"'
    shown = _wrapped(value_text(value))
    return f'<td{kind} data-value="{escape(str(value))}">{shown}</td>'


def _rate_cell(rate: Rate, note: str = "") -> str:
    return f'<td data-value="{rate.value if rate.n else ""}" title="n = {rate.n}">{percent(rate)}{_small(note)}</td>'


def _count_cell(count: int | None) -> str:
    return '<td data-value=""></td>' if count is None else f'<td data-value="{count}">{count_text(count)}</td>'


def _attack_cells(score: AttackScore | None, *, note: str) -> list[str]:
    if score is None:
        return ['<td data-value=""></td>'] * 3
    queries = score.n_queries_median
    shown = "" if queries is None else f"{queries:,.4g}" if queries < 1000 else f"{queries:,.0f}"
    return [
        _rate_cell(score.accuracy_under_attack, note),
        _rate_cell(score.success_rate),
        f'<td data-value="{"" if queries is None else queries}">{shown}</td>',
    ]


def against_table(table: ReferenceTable, points: Sequence[Point], objectives: Sequence[Objective]) -> str:
    """The references, and every point that is compared with one."""
    return _columns_table(columns_of(table, points, objectives), shown_points(table, points, objectives))


def section_table(section: Section) -> str:
    return _columns_table(section.columns, section.points)


def tickets_table(table: TicketTable) -> str:
    return _columns_table(table.columns, [None] * len(table.columns[0].cells))


def weights_table(table: WeightTable, styles: Mapping[str, str]) -> str:
    """The weights of one point by source of the texts, the shares drawn. ``styles``: source -> class of its colour."""
    drawn = {SHARES: (share_axis(), share_histograms(table.profiles, styles))}
    return _columns_table(table.columns, [None] * len(table.profiles), drawn)


Drawn = Mapping[str, tuple[str, Sequence[str]]]  # head of a column -> what stands in its head and cells instead


def _columns_table(columns: Sequence[Column], points: Sequence[Point | None], drawn: Drawn | None = None) -> str:
    drawn = drawn or {}
    groups = [(group, len(list(members))) for group, members in groupby(column.group for column in columns)]
    top = "".join(f'<th class="group" colspan="{n}">{escape(group)}</th>' for group, n in groups)
    heads = "".join(
        f"<th>{_breakable(c.head)}{drawn[c.head][0] if c.head in drawn else _small(c.n)}</th>" for c in columns
    )
    body = []
    for i, point in enumerate(points):
        front = ' class="front"' if point is not None and point.pareto else ""
        cells = (_cell(c, c.cells[i], drawn[c.head][1][i] if c.head in drawn else "") for c in columns)
        body.append(f"<tr{front}>{''.join(cells)}</tr>")
    head = f"<thead><tr>{top}</tr><tr>{heads}</tr></thead>"
    return f'<div class="scroll"><table class="points">{head}<tbody>{"".join(body)}</tbody></table></div>'


def _cell(column: Column, cell: Cell, drawing: str) -> str:
    kind = "id" if column.head == "id" else "text" if column.is_text else "number"
    kind += " long" if column.head == TAKING_PART else ""
    mark = f" {cell.mark}" if cell.mark else ""
    shade = f' style="--share:{100 * cell.share:.0f}%"' if cell.share else ""
    return (
        f'<td class="{kind}{mark}{" shaded" if shade else ""}"{shade} data-value="{escape(str(cell.value))}">'
        f"{drawing or _wrapped(cell.text)}{_small(cell.note)}</td>"
    )


def _small(text: str) -> str:
    return f"<small>{_wrapped(text)}</small>" if text else ""


def stage_table(records: Sequence[TrialRecord]) -> str:
    """Seconds per stage, added up over the trials and over their points."""
    in_trials, in_points = _added(r.seconds for r in records), _added(p.seconds for r in records for p in r.points)
    rows = [
        (stage, *(seconds_text(each[stage]) if stage in each else "" for each in (in_trials, in_points)))
        for stage in dict.fromkeys([*in_trials, *in_points])
    ]
    return plain_table(("stage", "seconds, once a trial", "seconds, at each point"), rows, right=2) if rows else ""


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for stage, seconds in part.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def failures_table(records: Sequence[TrialRecord]) -> str:
    rows = []
    for record in records:
        if record.status == "failed":
            params = ", ".join(f"{key} = {value_text(value)}" for key, value in record.params.items())
            rows.append((str(record.number), params, record.error_kind or "", record.error or "not recorded"))
    return plain_table(("trial", "searched", "kind", "error"), rows)


def mapping_table(mapping: Mapping[str, Any]) -> str:
    """Keys and values; nested values as JSON."""
    shown = [
        (k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)) for k, v in mapping.items()
    ]
    return plain_table(("key", "value"), shown)


def environment_of(records: Sequence[TrialRecord]) -> dict[str, str]:
    """Every version named by any trial; where trials differ, all values."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in record.environment.items():
            found.setdefault(key, {})[value] = None
    return {key: " | ".join(values) for key, values in found.items()}


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> str:
    """A small table of text; the last ``right`` columns are set flush right."""
    first_right = len(heads) - right

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = ("" if i < first_right else ' class="right"' for i in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "".join(row("td", cells) for cells in rows)
    head = f"<thead>{row('th', heads)}</thead>"
    return f'<div class="scroll"><table class="plain">{head}<tbody>{body}</tbody></table></div>'
