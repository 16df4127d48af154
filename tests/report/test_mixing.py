"""What the reports say of points that are mixed in many ways."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from robusweep.front import Point
from robusweep.mixing.adpmixup import AdpMixup
from robusweep.record import PointRecord, StandIn, Stopped, TrialRecord
from robusweep.report import html_report, markdown_report, write_reports
from robusweep.report.mixes import DEFAULTS, Mixed, differing_adapters, mixed_points
from robusweep.report.mixing import mixing_sections, unaided_text, weight_tables
from robusweep.report.readings import curve_lines, weight_curves
from robusweep.report.sentences import percent

Report = dict[str, Any]
Make = Callable[..., Report]
Trials = Callable[..., list[TrialRecord]]
TITLES = (
    "Adaptive attack",
    "Texts made against the clean adapter",
    "Accuracy under known and unknown attacks",
    "Known and unknown texts made against the clean adapter",
    "Weights for each text",
)


@pytest.fixture
def mixed(mixing: Report) -> dict[str, Mixed]:
    """By the name of the block."""
    found = mixed_points(mixing["points"], mixing["records"], mixing["space"])
    assert len(found) == len(mixing["points"])
    return {each.point.params["mix"]: each for each in found.values()}


def part(page: str, title: str) -> str:
    """From one heading of the page to the next."""
    return page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<wbr>|<title>.*?</title>", "", html)))


def changed(report: Report, name: str, **update: Any) -> Report:
    """The report with another record of the point of this block."""
    (record,) = report["records"]
    points = [p.model_copy(update=update) if p.params["mix"] == name else p for p in record.points]
    return report | {"records": [record.model_copy(update={"points": points})]}


# ---------------------------------------------------------------------------------------------- what is read
def test_what_a_named_block_leaves_out_is_what_the_mixer_takes() -> None:
    plain = AdpMixup().model_dump()
    assert {key: plain[key] for key in DEFAULTS} == DEFAULTS


def test_only_fixed_weights_of_all_adapters_are_points_of_the_curve(mixed: dict[str, Mixed]) -> None:
    (curve,) = weight_curves({each.point.id: each for each in mixed.values()})
    assert [point.params["mix"] for point in curve.points] == ["clean", "half", "adversarial"]
    assert curve.weights == [0.0, 0.5, 1.0]
    assert curve.params == {}


def test_a_weight_inside_a_named_block_is_the_searched_one(mixing: Report) -> None:
    points = [p.model_copy(update={"params": {"mix.weight": 0.1 * i, "mix": "half"}}) for i, p in
              enumerate(mixing["points"][:3])]  # fmt: skip
    (curve,) = weight_curves(mixed_points(points, mixing["records"], mixing["space"]))
    assert curve.weights == pytest.approx([0.0, 0.1, 0.2])


def test_spaces_of_named_blocks_are_curves_of_their_own(mixing: Report) -> None:
    factors = {f"f{i}": {"kind": "adpmixup", "weight": i / 2, "space": "factors"} for i in range(2)}
    space = {"mix": {"grid": {**mixing["space"]["mix"]["grid"], **factors}}}
    renamed = {"uniform": "f0", "ratio": "f1"}
    points = [
        p.model_copy(update={"params": {"mix": renamed.get(p.params["mix"], p.params["mix"])}})
        for p in mixing["points"]
    ]
    curves = weight_curves(mixed_points(points, mixing["records"], space))
    assert [(curve.params, curve.weights) for curve in curves] == [
        ({"mix.space": "factors"}, [0.0, 0.5]),
        ({}, [0.0, 0.5, 1.0]),
    ]


def test_a_curve_has_a_line_for_every_attack_and_none_where_it_did_not_run(mixing: Report) -> None:
    first, *rest = mixing["points"]
    stopped = first.model_copy(update={"held_out": {}})
    (curve,) = weight_curves(mixed_points([stopped, *rest], mixing["records"], mixing["space"]))
    lines = {line.name: line for line in curve_lines(curve)}
    assert list(lines) == [
        "clean accuracy",
        "robust accuracy",
        "accuracy under textfooler",
        "accuracy under deepwordbug",
        "accuracy under pwws (held out)",
    ]
    assert [line.is_held_out for line in lines.values()] == [False] * 4 + [True]
    there = [rate is not None for rate in lines["accuracy under pwws (held out)"].rates]
    assert sorted(there) == [False, True, True]
    assert "nan" not in html_report(**(mixing | {"points": [stopped, *rest]}))


def test_which_adapters_took_part(mixed: dict[str, Mixed]) -> None:
    names = {block: [each.name_of(view) for view in each.took_part] for block, each in mixed.items()}
    word, character = "augment(textfooler)", "augment(deepwordbug)"
    assert names == {
        "clean": ["clean"],
        "half": ["clean", word, character],
        "adversarial": [word, character],
        "word_only": [word],
        "character_only": [character],
        "chosen": ["clean", word, character],
        "ratio": ["clean", word, character],
        "uniform": ["clean", word, character],
    }


def test_an_attack_is_known_to_the_adapters_that_were_trained_on_its_texts(mixed: dict[str, Mixed]) -> None:
    attacks = ("textfooler", "deepwordbug", "pwws")
    known = {name: [a for a in attacks if mixed[name].knows(a)] for name in ("clean", "word_only", "adversarial")}
    assert known == {"clean": [], "word_only": ["textfooler"], "adversarial": ["textfooler", "deepwordbug"]}


def test_a_stand_in_of_an_attack_is_known_under_its_own_name(mixing: Report) -> None:
    (record,) = mixing["records"]
    stand_in = StandIn(what="attack", asked="textfooler", used="pwws", reason="no counter-fitted vectors")
    found = mixed_points(mixing["points"], [record.model_copy(update={"stand_ins": [stand_in]})], mixing["space"])
    word_only = next(each for each in found.values() if each.point.params["mix"] == "word_only")
    assert word_only.knows("pwws")
    assert not word_only.knows("textfooler")


def test_only_points_that_differ_in_nothing_but_their_adapters_are_set_against_each_other(
    mixed: dict[str, Mixed],
) -> None:
    (group,) = differing_adapters(mixed)
    assert [each.point.params["mix"] for each in group] == ["adversarial", "word_only", "character_only"]


def test_methods_with_one_name_are_told_apart(mixing: Report) -> None:
    (record,) = mixing["records"]
    recipe = record.recipe | {"adversarial": [{"kind": "pgd"}, {"kind": "pgd"}]}
    found = mixed_points(mixing["points"], [record.model_copy(update={"recipe": recipe})], mixing["space"])
    names = [adapter.name for adapter in next(iter(found.values())).adapters.values()]
    assert names == ["pgd, adversarial.0", "pgd, adversarial.1"]


# --------------------------------------------------------------------------------------------- what is shown
def test_a_sweep_without_any_of_it_says_nothing_of_it(sweep: Report, tmp_path: Path) -> None:
    page, text = html_report(**sweep), markdown_report(**sweep)
    for title in TITLES:
        assert title not in page
        assert title not in text
    for mark in ("◐", "held out", "chose "):
        assert mark not in page
        assert mark not in text
    write_reports(tmp_path, **sweep)
    assert "mixing" not in json.loads((tmp_path / "report.json").read_text())


def test_held_out_attacks_are_dashed_and_known_ones_are_not(mixing: Report) -> None:
    curves = part(html_report(**mixing), "Over the mixing weight")
    assert re.findall(r'<path class="line (attack\d[^"]*)" d="M[^1]', curves) == ["attack0", "attack1", "attack2 held"]
    assert "Held-out attacks are dashed." in curves


def test_static_rates_stand_in_columns_of_their_own(mixing: Report) -> None:
    page = html_report(**mixing)
    own, main = text_of(part(page, TITLES[1])), text_of(part(page, "All points"))
    (record,) = mixing["records"]
    for scored in record.points:
        for rate in scored.static.values():
            assert percent(rate) in own
    assert "n = 61" in own
    assert "n = 61" not in main
    assert "pwws (held out)" in own
    assert "an attack that aims at the point itself is in the main table" in own
    assert "the clean adapter itself" in own


def test_both_accuracies_are_shown_only_where_texts_that_break_adapters_broke_more(
    mixing: Report, mixed: dict[str, Mixed]
) -> None:
    shown = {attack: unaided_text(mixed["ratio"], attack) for attack in ("textfooler", "deepwordbug", "pwws")}
    assert shown == {"textfooler": "", "deepwordbug": "by itself 50.5 %", "pwws": ""}
    page = html_report(**mixing)
    assert page.count("by itself 50.5 %") == 1
    own = text_of(part(page, "Adaptive attack"))
    (record,) = mixing["records"]
    (ratio,) = [p for p in record.points if p.per_text]
    assert percent(ratio.unaided["deepwordbug"]) in own
    assert percent(ratio.attacks["deepwordbug"].accuracy_under_attack) in own
    assert "at 1 of 1 point" in own
    assert "other points" not in own


def test_how_many_more_the_adaptive_attack_broke_is_counted(mixing: Report, mixed: dict[str, Mixed]) -> None:
    found = mixed_points(mixing["points"], mixing["records"], mixing["space"])
    section = mixing_sections(found, mixing["points"], mixing["objectives"])[0]
    more = {column.group: column.cells[0].text for column in section.columns if column.head == "more broken"}
    assert more == {"textfooler": "0", "deepwordbug": "8", "pwws (held out)": "0"}


def test_points_mixed_per_text_and_chosen_weights_are_marked(mixing: Report) -> None:
    page, text = html_report(**mixing), markdown_report(**mixing)
    main = text_of(part(page, "All points"))
    assert main.count("◐ mixed per text") == 1
    assert main.count("grid_validation chose 0.4") == 1
    assert "- t000 mix=chosen: grid_validation chose 0.4" in text


def test_on_the_front_the_markdown_has_the_mark_and_both_accuracies(mixing: Report) -> None:
    points = [p.model_copy(update={"pareto": p.params["mix"] == "ratio", "knee": False}) for p in mixing["points"]]
    (row,) = [line for line in markdown_report(**(mixing | {"points": points})).splitlines() if line.startswith("| ●")]
    assert "| t000.06 ◐ |" in row
    assert row.count("(by itself 50.5 %)") == 1


def test_every_source_of_texts_has_a_histogram_that_adds_up(mixing: Report) -> None:
    own = part(html_report(**mixing), "Weights for each text")
    rows = re.findall(r"<tr>(<td.*?)</tr>", own)
    assert len(rows) == 3
    for row, n in zip(rows, (3, 2, 1), strict=True):
        counts = re.findall(r"<title>[\d.]+ to [\w .]+: (\d+) of (\d+) texts</title>", row)
        assert sum(int(count) for count, _ in counts) == n
        assert {of for _, of in counts} == {str(n)}
    assert "to under 0.2: 1 of 3 texts" in rows[0]
    assert "0.9 to 1: 1 of 3 texts" in rows[0]


def test_the_mean_weights_and_the_largest_adapter_are_told_by_source(mixing: Report) -> None:
    found = mixed_points(mixing["points"], mixing["records"], mixing["space"])
    (table,) = weight_tables(found, mixing["points"], mixing["objectives"])
    columns = {(column.group, column.head): column.cells for column in table.columns}
    word, character = "augment(textfooler)", "augment(deepwordbug)"
    assert [cell.text for cell in columns["texts", "of"]] == ["clean texts", "textfooler", "pwws (held out)"]
    means = [columns["mean weight", head] for head in ("clean", word, character)]
    assert all(sum(float(cells[i].value) for cells in means) == pytest.approx(1) for i in range(3))
    largest = columns["largest of the adversarial", word]
    assert [cell.text for cell in largest] == ["2 of 3", "1 of 2", "1 of 1"]
    assert [cell.mark for cell in largest] == ["", "framed", ""]


def test_with_one_adversarial_adapter_none_is_the_largest(mixing: Report) -> None:
    (record,) = mixing["records"]
    (ratio,) = [p for p in record.points if p.per_text]
    one = {
        name: profile.model_copy(update={"names": ["clean", "adversarial.1"], "mean": [0.25, 0.75], "largest": [1]})
        for name, profile in ratio.profiles.items()
    }
    page = html_report(**changed(mixing, "ratio", profiles=one))
    own = part(page, "Weights for each text")
    assert "largest of the adversarial" not in own
    assert "augment(deepwordbug)" in text_of(own), "an adapter keeps its name where another is left out"


def test_the_matrix_marks_the_attacks_that_the_adapters_do_not_know(mixing: Report) -> None:
    found = mixed_points(mixing["points"], mixing["records"], mixing["space"])
    sections = {s.title: s for s in mixing_sections(found, mixing["points"], mixing["objectives"])}
    assert list(sections) == list(TITLES[:4])
    for title in TITLES[2:4]:
        columns = {column.group: column for column in sections[title].columns}
        parts = [cell.text for cell in columns["adapters"].cells]
        assert parts == ["augment(textfooler) + augment(deepwordbug)", "augment(textfooler)", "augment(deepwordbug)"]
        unknown = {g: [c.note == "unknown" for c in columns[g].cells] for g in columns if g not in ("adapters",)}
        assert unknown["textfooler"] == [False, False, True]
        assert unknown["deepwordbug"] == [False, True, False]
        assert unknown["pwws (held out)"] == [True, True, True]


def test_rates_over_different_numbers_of_texts_carry_their_own_denominator(mixing: Report) -> None:
    from robusweep.scores import Rate

    own = text_of(part(html_report(**changed(mixing, "half", static={"textfooler": Rate.of(3, 9)})), TITLES[1]))
    assert "n = 9–61" in own
    assert re.search(r"n = 9\s", own)


def test_texts_of_another_trial_are_said_to_be_others(mixing: Report) -> None:
    words = "Each trial has a clean adapter of its own"
    assert words not in html_report(**mixing)
    (record,) = mixing["records"]
    points = [p.model_copy(update={"id": f"t001.{i:02d}"}) for i, p in enumerate(record.points)]
    second = record.model_copy(update={"number": 1, "points": points})
    others = [p.model_copy(update={"id": p.id.replace("t000", "t001"), "trial": 1}) for p in mixing["points"]]
    both = mixing | {"records": [record, second], "points": [*mixing["points"], *others]}
    assert words in html_report(**both)


# -------------------------------------------------------------------------------------- other kinds of report
def test_markdown_and_page_carry_the_same_tables(mixing: Report) -> None:
    page, text = html_report(**mixing), markdown_report(**mixing)
    for title in TITLES:
        assert f"## {title}" in text
        own = text_of(part(page, title))
        table = text.split(f"## {title}\n")[1].split("\n## ")[0]
        for shown in re.findall(r"[\d.]+ % \[[\d., ]+\]|\d+ of \d+|unknown", own):
            assert shown in table
    assert {line.count("|") for line in text.split("## Adaptive attack")[1].split("## ")[0].splitlines()
            if line.startswith("| ")} == {6}  # fmt: skip


def test_the_json_carries_the_same_numbers(mixing: Report, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"space": mixing["space"]}))
    write_reports(tmp_path, **{key: value for key, value in mixing.items() if key != "space"})
    held = json.loads((tmp_path / "report.json").read_text())["mixing"]
    (record,) = mixing["records"]
    assert set(held["points"]) == {point.id for point in record.points}
    for scored in record.points:
        told = held["points"][scored.id]
        for name in ("static", "unaided", "profiles", "chosen_weight", "per_text"):
            assert told[name] == scored.model_dump(mode="json")[name]
    assert held["differ_in_adapters"] == [["t000.02", "t000.03", "t000.04"]]
    word_only = held["points"]["t000.03"]
    assert word_only["took_part"] == {"adversarial.0": "augment(textfooler)"}
    assert word_only["unknown_attacks"] == ["deepwordbug", "pwws"]
    assert (tmp_path / "figures" / "weight_curves.png").is_file()


def test_names_from_records_are_escaped_here_too(mixing: Report) -> None:
    evil = "<script>alert('x')</script>"
    (record,) = mixing["records"]
    recipe = record.recipe | {"adversarial": [{"kind": evil, "attack": evil}, {"kind": "pgd"}]}
    points = [
        p.model_copy(update={"static": {evil: p.static["pwws"]}, "attacks": p.attacks | {evil: p.attacks["textfooler"]},
                             "profiles": {k.replace("pwws", evil): v for k, v in p.profiles.items()}})
        for p in record.points
    ]  # fmt: skip
    shown = [p.model_copy(update={"attacks": p.attacks | {evil: p.attacks["textfooler"]}}) for p in mixing["points"]]
    record = record.model_copy(update={"recipe": recipe, "points": points})
    page = html_report(**(mixing | {"records": [record], "points": shown}))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_a_stopped_point_and_a_point_without_its_record_do_no_harm(mixing: Report) -> None:
    stopped = Stopped(by="t000.00", n_examples=48, p_value=1e-7, error=0.05)
    first, *rest = changed(mixing, "clean", static={}, held_out={}, stopped=stopped)["records"][0].points
    record = mixing["records"][0].model_copy(update={"points": [first, *rest[1:]]})
    page = html_report(**(mixing | {"records": [record]}))
    assert "t000.01" in page
    assert isinstance(first, PointRecord)
    assert all(isinstance(point, Point) for point in mixing["points"])
