"""The comparison with a reference, in every kind of report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from test_html_report import parsed

from robusweep.front import Point
from robusweep.record import Stopped, TrialRecord
from robusweep.reference import HELD_OUT_ROBUST, ROBUST, AgainstReference, ReferenceTable
from robusweep.report import html_report, markdown_report, write_reports
from robusweep.report.sentences import percent
from robusweep.scores import Comparison, Rate

Report = dict[str, Any]
Make = Callable[..., Report]
EVIL = "<script>alert('x')</script>&\"'|"
ONE = Comparison.of([True] * 30 + [False] * 20, [True] * 18 + [False] * 12 + [True] * 2 + [False] * 18)  # +20 points
TWO = Comparison.of([True, False, True, False], [True, True, False, False])


def made(points: list[Point], **changes: Any) -> ReferenceTable:
    """The first point is the reference; the second is compared in full, the third has no outcomes."""
    one = AgainstReference(
        point=points[1].id,
        reference=points[0].id,
        clean=TWO,
        comparisons={
            ROBUST: ONE,
            HELD_OUT_ROBUST: TWO,
            "accuracy_under_attack.textfooler": ONE,
            "accuracy_under_attack.pwws": TWO,
        },
        holm_p_value=0.0125,
    )
    empty = AgainstReference(point=points[2].id, reference=points[0].id)
    rates = {points[0].id: Rate.of(11, 50), points[1].id: Rate.of(22, 50)}
    table = ReferenceTable(
        values={"train": "vanilla"}, references=[points[0].id], rows=[one, empty], held_out_robust=rates
    )
    return table.model_copy(update=changes)


@pytest.fixture
def compared(trials: Callable[..., list[TrialRecord]], report: Make) -> Report:
    """A report on three points, one of them the reference; pwws is held out."""
    records = []
    for trial, name in zip(trials(3, None), ("vanilla", "pgd", "vat"), strict=True):
        held_out = {"pwws": trial.points[0].attacks["deepwordbug"]}
        point = trial.points[0].model_copy(update={"params": {"train": name}, "held_out": held_out})
        records.append(trial.model_copy(update={"points": [point]}))
    arguments = report(records)
    return arguments | {"against": made(arguments["points"])}


def section(page: str) -> str:
    return page[page.index("<h2>Compared with") : page.index("<h2>All points")]


def html_rows(page: str) -> list[list[str]]:
    """The text of every cell of the comparison's body."""
    body = section(page).split("<tbody>")[1].split("</tbody>")[0]
    return [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in body.split("</tr>")[:-1]]


def heads_of(page: str) -> list[str]:
    """The group and the name of each column."""
    groups, names = re.findall(r"<tr>(.*?)</tr>", section(page).split("<tbody>")[0])
    wide = [(g, int(n)) for n, g in re.findall(r'<th class="group" colspan="(\d+)">(.*?)</th>', groups)]
    spread = [group for group, n in wide for _ in range(n)]
    plain = [re.sub(r"<wbr>|<small>.*?</small>", "", name) for name in re.findall(r"<th>(.*?)</th>", names)]
    return [unescape(f"{group}: {name}") for group, name in zip(spread, plain, strict=True)]


def test_the_page_compares_every_other_point_with_the_reference(compared: Report) -> None:
    page = html_report(**compared)
    parsed(page)
    assert "<h2>Compared with train = vanilla</h2>" in page
    rows = html_rows(page)
    assert rows[0][0] == compared["points"][0].id, "the reference comes first"
    assert {row[0] for row in rows} == {point.id for point in compared["points"]}
    heads = heads_of(page)
    row = dict(zip(heads, next(row for row in rows if row[0] == compared["points"][1].id), strict=True))
    assert row["searched: train"] == "pgd"
    assert row["training: seconds"] == "286"
    assert row["clean accuracy: rate"] == percent(compared["points"][1].clean_accuracy)
    assert row["clean accuracy, attacked texts: difference"].startswith("+0.0 [")
    for group in ("robust accuracy, known attacks", "under textfooler"):
        assert row[f"{group}: difference"] == f"+20.0 [{100 * ONE.low:+.1f}, {100 * ONE.high:+.1f}]"
        assert row[f"{group}: McNemar's p"] == f"{ONE.p_value:.2g}"
        assert row[f"{group}: wrong only here / there"] == "2 / 12"
    assert row["robust accuracy, known attacks: Holm's p"] == "0.013"
    assert row["robust accuracy, held-out attacks: rate"] == percent(Rate.of(22, 50))
    assert row["under pwws (held out): wrong only here / there"] == "1 / 1"
    assert row["under deepwordbug: difference"] == ""


def test_clean_accuracy_on_all_texts_stands_beside_its_rate(compared: Report) -> None:
    table, n = compared["against"], compared["points"][1].clean_accuracy.n
    whole = Comparison.of([True] * n, [True] * (n - 1) + [False])
    rows = [row.model_copy(update={"clean": whole}) for row in table.rows]
    page = html_report(**compared | {"against": table.model_copy(update={"rows": rows})})
    row = dict(zip(heads_of(page), next(row for row in html_rows(page) if row[0] == rows[0].point), strict=True))
    assert row["clean accuracy: wrong only here / there"] == "0 / 1"
    assert "compared on all validation texts" in section(page)
    assert "was not kept" in section(html_report(**compared))


def test_denominators_stand_at_the_head_of_their_columns(compared: Report) -> None:
    shown = section(html_report(**compared))
    assert "difference<small>n = 50</small>" in shown
    assert "difference<small>n = 4</small>" in shown
    assert "rate<small>n = 400</small>" in shown
    points, rows = compared["points"], compared["against"].rows
    other = rows[1].model_copy(update={"comparisons": {ROBUST: TWO}})
    mixed = html_report(**(compared | {"against": made(points, rows=[rows[0], other])}))
    assert "difference<small>n = 4–50</small>" in section(mixed)
    assert "]<small>n = 4</small>" in section(mixed)


def test_what_is_paired_and_how_often_is_said_above_the_table(compared: Report) -> None:
    for text in (section(html_report(**compared)), markdown_report(**compared)):
        plain = unescape(text)
        assert f"Every other point is compared with {compared['points'][0].id}" in plain
        assert "1 comparison of robust accuracy under known attacks is made; Holm's p is corrected for all" in plain
        assert "clean accuracy of all validation texts is not paired" in plain
        assert f"Not compared, for want of outcomes on the same texts: {compared['points'][2].id}." in plain
        assert "Several points are references" not in plain
        assert "race has stopped" not in plain


def test_several_references_and_stopped_points_are_explained(compared: Report) -> None:
    points = compared["points"]
    stopped = points[1].model_copy(update={"stopped": Stopped(by="b", n_examples=32, p_value=0.001, error=0.05)})
    table = made(points, references=[points[0].id, points[2].id], rows=made(points).rows[:1])
    arguments = compared | {"points": [points[0], stopped, points[2]], "against": table}
    page = html_report(**arguments)
    assert "Several points are references" in page
    assert "so its p is too small" in page
    assert "stopped after 32 examples" in section(page)
    assert "point: compared with" in heads_of(page)


def test_before_a_reference_is_complete_there_is_a_sentence_and_no_table(compared: Report) -> None:
    arguments = compared | {"against": ReferenceTable(values={"train": "vanilla"})}
    page, text = html_report(**arguments), markdown_report(**arguments)
    assert "No complete point has train = vanilla yet" in section(page)
    assert "<table" not in section(page)
    assert "No complete point has train = vanilla yet" in text


def test_without_a_reference_no_report_speaks_of_one(sweep: Report, tmp_path: Path) -> None:
    assert "Compared with" not in html_report(**sweep)
    assert "Compared with" not in markdown_report(**sweep)
    write_reports(tmp_path, **sweep)
    assert json.loads((tmp_path / "report.json").read_text())["compared_with"] is None


def test_the_markdown_table_holds_what_the_page_holds_group_by_group(compared: Report) -> None:
    text = markdown_report(**compared)
    part = text[text.index("## Compared with train = vanilla") :]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    assert {len(row) for row in cells} == {len(cells[0])}
    assert cells[0][:2] == ["id", "train"]
    head = "robust accuracy, known attacks: rate; difference; McNemar's p; wrong only here / there; Holm's p"
    assert f"{head} (n = 200, n = 50)" in cells[0]
    texts = [[cell for cell in row if cell] for row in html_rows(html_report(**compared))]
    assert [[text for cell in row if cell for text in cell.split("; ")] for row in cells[2:]] == texts


def test_the_json_holds_the_comparisons_in_full(compared: Report, tmp_path: Path) -> None:
    write_reports(tmp_path, **compared)
    held = json.loads((tmp_path / "report.json").read_text())["compared_with"]
    assert ReferenceTable.model_validate(held) == compared["against"]


def test_text_in_the_comparison_is_escaped(compared: Report) -> None:
    points = [point.model_copy(update={"id": EVIL + point.id, "params": {EVIL: EVIL}}) for point in compared["points"]]
    table = made(points, values={EVIL: EVIL})
    arguments = compared | {"points": points, "against": table, "records": []}
    page = html_report(**arguments)
    assert page.count("<script>") == 1
    text = " ".join(parsed(section(page)).text)
    assert f"Compared with {EVIL} = {EVIL}" in text
    lines = [line for line in markdown_report(**arguments).splitlines() if line.startswith("| ")]
    assert "<script" not in "".join(lines)
    assert all("|" not in cell.replace("\\|", "") for line in lines for cell in line[2:-2].split(" | "))


def test_both_tables_sort_by_their_own_heads(compared: Report) -> None:
    page = html_report(**compared)
    assert page.count('<table class="points">') == 2
    assert 'for (const table of document.querySelectorAll("table.points"))' in page
