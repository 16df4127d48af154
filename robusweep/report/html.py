"""The report as one HTML file that needs nothing else: style, script and figures are inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from robusweep.front import Objective, Point, short_name
from robusweep.hypervolume import History
from robusweep.record import TrialRecord
from robusweep.reference import ReferenceTable
from robusweep.report.against import sentences_of, title_of
from robusweep.report.html_tables import (
    against_table,
    environment_of,
    failures_table,
    mapping_table,
    points_table,
    section_table,
    stage_table,
    tickets_table,
    weights_table,
)
from robusweep.report.mixes import Mixed, mixed_points
from robusweep.report.mixing import FRAMED_SAID, WEIGHTS_SAID, WEIGHTS_TITLE, mixing_sections, weight_tables
from robusweep.report.page import CSS, JS
from robusweep.report.readings import (
    N_BANDS_MOST,
    WEIGHT,
    attack_names,
    held_out_names,
    line_names,
    table_order,
    weight_curves,
)
from robusweep.report.sentences import (
    CAUTION,
    DEFINITIONS,
    all_notices,
    as_sentence,
    axes_sentence,
    counted,
    overlap_sentence,
    protocol_hashes,
    summary_sentence,
)
from robusweep.report.svg_front import N_CROSSES_MOST, front_legend, front_svg
from robusweep.report.svg_growth import growth_svg
from robusweep.report.svg_tickets import density_panels, distance_panels
from robusweep.report.svg_weights import style_of, weight_panels
from robusweep.report.tickets import (
    DISTANCES,
    TITLE,
    Mask,
    Ticketed,
    density_sentence,
    distance_sentences,
    distance_trials,
    series_of,
    ticket_tables,
    ticketed_trials,
)

N_TABLES_OPEN = 6  # further tables of weights are folded away


def html_report(
    *,
    name: str,
    points: Sequence[Point],
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    recipe_yaml: str,
    notices: Sequence[str],
    protocol: Mapping[str, object],
    against: ReferenceTable | None = None,
    space: Mapping[str, Any] | None = None,
    masks: Mapping[int, Mask] | None = None,
    history: History | None = None,
) -> str:
    """The whole page. ``protocol`` is what the protocol hash was taken of; ``recipe_yaml`` is shown as given.

    ``space``: the search space as the sweep's description holds it. ``masks``: those of each trial with a ticket.
    ``history``: how the sweep's hypervolume grew.
    """
    mixed = mixed_points(points, records, space or {})
    parts = [
        f"<h1>{escape(name)}</h1>",
        _notices(all_notices(notices, records, points)),
        f'<p class="lead">{escape(summary_sentence(points, records, objectives))}</p>',
        _front(points, objectives),
        _history(history),
        _against(against, points, objectives),
        _weights(points, objectives, mixed),
        _points(points, objectives, mixed),
        _mixing(points, objectives, mixed),
        _tickets(points, objectives, ticketed_trials(records, masks or {})),
        _cost(records),
        _failures(records),
        _protocol(protocol, protocol_hashes(points, records)),
        f"<h2>Recipe</h2><details><summary>as YAML</summary><pre>{escape(recipe_yaml)}</pre></details>",
        _environment(records),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · robusweep</title><style>{CSS}</style></head>\n"
        f"<body>{body}\n<script>{JS}</script></body></html>\n"
    )


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    return f'<div class="notices" role="note"><p>Read this first</p><ul>{items}</ul></div>'


def _front(points: Sequence[Point], objectives: Sequence[Objective]) -> str:
    if not points:
        return ""
    notes = [overlap_sentence(points, objectives), axes_sentence(objectives), CAUTION.replace("`", "")]
    if len(points) > N_CROSSES_MOST:
        notes.append("Intervals are drawn for the front only.")
    text = "".join(f"<p>{escape(note)}</p>" for note in notes if note)
    return (
        f"<h2>Front</h2><figure>{front_legend(points)}{front_svg(points, objectives)}<figcaption>"
        f"Numbers are those of the table. Point at a mark for its values.</figcaption></figure>{text}"
    )


def _history(history: History | None) -> str:
    if history is None or not (grown := as_sentence(history.sentence())):
        return ""
    ended = f"<p>The sweep ended before its budget was spent: {escape(history.ended)}.</p>" if history.ended else ""
    text = f"<h2>Hypervolume over finished trials</h2><p>{escape(grown)}</p>{ended}"
    return text + (f"<figure>{growth_svg(history)}</figure>" if history.hypervolume is not None else "")


def _against(against: ReferenceTable | None, points: Sequence[Point], objectives: Sequence[Objective]) -> str:
    if against is None:
        return ""
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences_of(against, points))
    table = against_table(against, points, objectives) if against.references else ""
    return f"<h2>{escape(title_of(against))}</h2>{text}{table}"


def _weights(points: Sequence[Point], objectives: Sequence[Objective], mixed: Mapping[str, Mixed]) -> str:
    rows = {point.id: i for i, point in enumerate(table_order(points, objectives))}
    panels = weight_panels(mixed, rows)
    if not panels:
        return ""
    more = " Held-out attacks are dashed." if held_out_names(points) else ""
    if len(line_names(weight_curves(mixed))) > N_BANDS_MOST:
        more += " Attacks have no bands here; the table has their intervals."
    return (
        f"<h2>Over the mixing weight</h2><p>One panel for each trained configuration, all on one scale: rates in % "
        f"against {WEIGHT}, 0 for the clean adapter alone and 1 for the adversarial. Bands are 95 % intervals; a "
        f"red foot marks a point on the front.{more}</p>{panels}"
    )


def _points(points: Sequence[Point], objectives: Sequence[Objective], mixed: Mapping[str, Mixed]) -> str:
    if not points:
        return ""
    return (
        f'<h2>All points</h2><p class="soft">{counted(len(points), "point")}, the front first. Each rate with its '
        f"95 % interval.</p>{points_table(points, objectives, mixed)}"
    )


def _mixing(points: Sequence[Point], objectives: Sequence[Objective], mixed: Mapping[str, Mixed]) -> str:
    parts = []
    for section in mixing_sections(mixed, points, objectives):
        text = "".join(f"<p>{escape(sentence)}</p>" for sentence in section.sentences)
        parts.append(f"<h2>{escape(section.title)}</h2>{text}{section_table(section)}")
    return "".join(parts) + _text_weights(points, objectives, mixed)


def _text_weights(points: Sequence[Point], objectives: Sequence[Objective], mixed: Mapping[str, Mixed]) -> str:
    attacks = [*attack_names(points), *held_out_names(points)]
    styles = {"clean": "clean"} | {attack: style_of(i + 2) for i, attack in enumerate(attacks)}
    tables = []
    for table in weight_tables(mixed, points, objectives):
        name = escape(short_name(table.point.id, table.point.params))
        tables.append(f'<figure class="weights"><figcaption>{name}</figcaption>{weights_table(table, styles)}</figure>')
    if not tables:
        return ""
    more = ""
    if len(tables) > N_TABLES_OPEN:
        rest = "".join(tables[N_TABLES_OPEN:])
        more = f"<details><summary>{len(tables) - N_TABLES_OPEN} more</summary>{rest}</details>"
    return f"<h2>{WEIGHTS_TITLE}</h2><p>{WEIGHTS_SAID} {FRAMED_SAID}</p>{''.join(tables[:N_TABLES_OPEN])}{more}"


def _tickets(points: Sequence[Point], objectives: Sequence[Objective], trials: Sequence[Ticketed]) -> str:
    if not trials:
        return ""
    rows = {point.id: i for i, point in enumerate(table_order(points, objectives))}
    series, groups, tables = series_of(trials, points), distance_trials(trials), ticket_tables(trials)
    parts = [f"<h2>{TITLE}</h2>"]
    parts += [f"<p>{density_sentence()}</p>{density_panels(series, rows)}"] if series else []
    for i, table in enumerate(tables):
        parts += [f"<h2>{escape(table.title)}</h2>"] if i else []
        parts += [f"<p>{escape(sentence)}</p>" for sentence in table.sentences]
        parts.append(tickets_table(table))
    if groups:
        text = "".join(f"<p>{escape(sentence)}</p>" for sentence in distance_sentences(trials))
        parts.append(f"<h2>{DISTANCES}</h2>{text}{distance_panels(groups, trials)}")
    return "".join(parts)


def _cost(records: Sequence[TrialRecord]) -> str:
    adapters = [adapter for record in records for adapter in record.adapters]
    spent = sum(adapter.train_seconds for adapter in adapters if not adapter.cached)
    spared = sum(adapter.train_seconds for adapter in adapters if adapter.cached)
    reused = sum(adapter.cached for adapter in adapters)
    lines = [f"{counted(len(adapters) - reused, 'adapter')} trained in {spent:,.0f} s."]
    if reused:
        lines.append(f"{counted(reused, 'adapter')} reused from the cache, which spared {spared:,.0f} s.")
    lines.append(_queries(records))
    return f"<h2>Cost</h2><p>{' '.join(line for line in lines if line)}</p>{stage_table(records)}"


def _queries(records: Sequence[TrialRecord]) -> str:
    suites = [s for r in records for p in r.points for s in (*p.attacks.values(), *p.held_out.values())]
    return f"{sum(score.n_queries for score in suites):,} queries in all." if suites else ""


def _failures(records: Sequence[TrialRecord]) -> str:
    failed = [record for record in records if record.status == "failed"]
    return f"<h2>Failed trials</h2>{failures_table(failed)}" if failed else ""


def _protocol(protocol: Mapping[str, object], hashes: Sequence[str]) -> str:
    words = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in DEFINITIONS.items())
    marks = ", ".join(f"<code>{escape(each)}</code>" for each in hashes) or "none, nothing was scored"
    return (
        f"<h2>Protocol</h2><p>Protocol hash: {marks}. Numbers with different hashes must not be compared.</p>"
        f"{mapping_table(protocol) if protocol else ''}<h2>How the numbers are defined</h2><dl>{words}</dl>"
    )


def _environment(records: Sequence[TrialRecord]) -> str:
    data = next((record.data for record in records if record.data), {})
    versions = environment_of(records)
    text = f"<h2>Data</h2>{mapping_table(data)}" if data else ""
    return text + (f"<h2>Versions and environment</h2>{mapping_table(versions)}" if versions else "")
