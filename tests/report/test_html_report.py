from __future__ import annotations

import re
import time
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest

from robusweep.front import Objective, Point
from robusweep.record import FLAGS, Flag, StandIn, Stopped, TrialRecord
from robusweep.report import html_report
from robusweep.report.markdown import markdown_report
from robusweep.report.sentences import percent
from robusweep.scores import Rate

VOID = {"meta", "br", "wbr", "hr", "img", "input", "link"}
Report = dict[str, Any]
Make = Callable[..., Report]
Trials = Callable[..., list[TrialRecord]]


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order; collects attributes and text outside script and style."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def rows(page: str) -> dict[str, str]:
    """Point id -> its row of the table."""
    found = re.findall(r'<tr id="row-\d+" data-id="([^"]+)".*?</tr>', page)
    whole = re.findall(r'<tr id="row-\d+" data-id=.*?</tr>', page)
    return dict(zip(map(unescape, found), whole, strict=True))


def test_the_page_is_well_formed_and_needs_nothing_else(sweep: Report) -> None:
    page = html_report(**sweep)
    parser = parsed(page)
    links = [value or "" for _, key, value in parser.attributes if key in {"src", "href", "srcset", "action"}]
    assert links, "the figure links to the table"
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page
    assert "url(" not in page
    assert "http" not in page


def test_every_point_is_a_row_and_a_mark_and_its_front_flag_is_shown(sweep: Report, points: list[Point]) -> None:
    page = html_report(**sweep)
    table = rows(page)
    assert set(table) == {point.id for point in points}
    for point in points:
        assert ('class="front"' in table[point.id]) == point.pareto
        assert ("★" in table[point.id]) == point.knee
    chart = page[page.index('<svg class="chart"') : page.index("</svg>", page.index('<svg class="chart"'))]
    assert chart.count("<title>") == len(points)
    assert chart.count('<circle class="front"') + chart.count('<path class="knee"') == sum(p.pareto for p in points)
    assert chart.count('<circle class="dominated"') == sum(not p.pareto for p in points)


def test_every_link_of_a_figure_leads_to_the_row_of_its_point(sweep: Report) -> None:
    page = html_report(**sweep)
    ids = dict(re.findall(r'<tr id="row-(\d+)" data-id="([^"]+)"', page))
    links = re.findall(r'<a href="#row-(\d+)" data-row="\1" aria-label="[^"]*"><title>([^\n]+)\n', page)
    assert len(links) == 2 * len(ids), "one mark in the front figure, one in a panel"
    assert all(ids[row] == point_id for row, point_id in links)


def test_front_rows_come_first(sweep: Report, points: list[Point]) -> None:
    front = {point.id for point in points if point.pareto}
    order = list(rows(html_report(**sweep)))
    assert set(order[: len(front)]) == front


def test_notices_stand_above_the_figure_even_when_only_a_record_names_them(
    trials: Trials, report: Make, stand_in: StandIn
) -> None:
    records = [trials(1)[0].model_copy(update={"stand_ins": [stand_in]})]
    page = html_report(**report(records, notices=["look here"]))
    for text in ("look here", "the model hub can&#x27;t be reached"):
        assert page.index("<h1>") < page.index(text) < page.index('<svg class="chart"')


def test_the_intervals_shown_are_those_of_the_rates(sweep: Report, points: list[Point]) -> None:
    table = rows(html_report(**sweep))
    for point in points:
        rates = [point.clean_accuracy, point.robust_accuracy]
        for score in point.attacks.values():
            rates += [Rate.model_validate(score[key]) for key in ("accuracy_under_attack", "success_rate")]
        shown = re.findall(r'title="n = (\d+)">([^<]+)<', table[point.id])
        assert shown == [(str(rate.n), percent(rate)) for rate in rates]


def test_percent_writes_value_and_bounds_of_the_rate() -> None:
    rate = Rate.of(374, 400)
    value, low, high = map(float, re.fullmatch(r"([\d.]+) % \[([\d.]+), ([\d.]+)\]", percent(rate)).groups())  # type: ignore[union-attr]
    assert (value, low, high) == pytest.approx((100 * rate.value, 100 * rate.low, 100 * rate.high), abs=0.05)
    assert percent(Rate.of(0, 0)) == "no data"


def test_denominators_interval_and_caution_are_stated_in_words(sweep: Report) -> None:
    text = " ".join(parsed(html_report(**sweep)).text)
    for words in (
        "right under every known attack / all attacked examples",
        "right before and after this attack / all attacked examples",
        "turned wrong by this attack / examples that were right before it",
        "Wilson score interval at 95 %",
        "selected on validation data",
        "optimistic",
        "n = 400",
        sweep["points"][0].protocol_hash,
    ):
        assert words in text


def test_text_from_recipes_and_records_is_escaped(
    trials: Trials, report: Make, fail: Callable[[int, str], TrialRecord]
) -> None:
    evil = "<script>alert('x')</script>&\"'"
    done = trials(1)[0]
    named = done.points[0].model_copy(update={"id": evil, "params": {evil: evil, "mix.weight": 0.0}})
    attacked = named.model_copy(update={"attacks": {evil: named.attacks["textfooler"]}})
    done = done.model_copy(update={"points": [attacked], "data": {evil: evil}, "environment": {evil: evil}})
    changes = {"name": evil, "recipe_yaml": evil, "notices": [evil], "protocol": {evil: [evil]}}
    page = html_report(**report([done, fail(7, evil)], **changes))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    parser = parsed(page)
    assert evil in parser.text, "what is escaped is still shown"


def test_the_summary_counts_trials_adapters_points_and_front(sweep: Report) -> None:
    text = " ".join(parsed(html_report(**sweep)).text)
    front = sum(point.pareto for point in sweep["points"])
    assert (
        f"5 trials trained 6 adapters and reused 2 from the cache, 1 failed, 24 points scored, {front} on the" in text
    )


def test_without_a_point_there_is_no_figure_and_the_failure_is_told(
    report: Make, fail: Callable[[int, str], TrialRecord]
) -> None:
    empty, failed = html_report(**report([])), html_report(**report([fail(0, "out of memory"), fail(1, "no data")]))
    for page in (empty, failed):
        assert "no point was scored" in " ".join(parsed(page).text)
        assert "<svg" not in page
    assert "out of memory" in failed
    assert "2 trials trained 0 adapters, all failed" in failed


def test_one_point_without_a_weight_is_the_front_and_has_no_curves(trials: Trials, report: Make) -> None:
    page = html_report(**report(trials(1, None)))
    parsed(page)
    assert "1 point scored, 1 on the front" in page
    assert "Over the mixing weight" not in page
    assert "The front is a single point." in page


def test_equal_points_share_one_number_label(trials: Trials, report: Make) -> None:
    first = trials(1)[0]
    same = [p.model_copy(update={"id": f"p{i}"}) for i, p in enumerate([first.points[0]] * 5)]
    page = html_report(**report([first.model_copy(update={"points": same})]))
    parsed(page)
    assert re.findall(r'class="number"[^>]*>([^<]+)<', page) == ["1–5 knee"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["robust_accuracy"], "There is one objective, robust_accuracy"),
        (["clean_accuracy"], "There is one objective, clean_accuracy"),
        (["clean_accuracy", "robust_accuracy", "train_seconds"], "first two of 3 objectives; not drawn: train_seconds"),
        (["train_seconds", "accuracy_under_attack.textfooler"], "train seconds ← better"),
    ],
)
def test_other_numbers_of_objectives_are_drawn_and_named(
    trials: Trials, report: Make, metrics: list[str], said: str
) -> None:
    objectives = [Objective(metric=m, goal="min" if m == "train_seconds" else "max") for m in metrics]
    page = html_report(**report(trials(3), objectives))
    parsed(page)
    assert said in page


def test_long_names_and_values_stay_text(trials: Trials, report: Make) -> None:
    done = trials(1)[0]
    params = {"a" * 120 + "." + "b" * 120: ["x" * 200, None], "mix.weight": 0.5}
    done = done.model_copy(update={"points": [done.points[0].model_copy(update={"params": params})]})
    assert "x" * 200 in "".join(parsed(html_report(**report([done]))).text)


def test_five_hundred_points_take_less_than_two_seconds(trials: Trials, report: Make) -> None:
    arguments = report(trials(84))
    start = time.perf_counter()
    page = html_report(**arguments)
    assert time.perf_counter() - start < 2
    assert len(rows(page)) == len(arguments["points"]) == 504
    parsed(page)


DOUBTS = {
    "flags": [Flag(name="saturated", detail="mean largest probability 0.9999 & more")],
    "replay": True,
    "stopped": Stopped(by="t001.w0.4", n_examples=48, p_value=1e-7, error=0.05),
}


def test_what_makes_a_number_doubtful_stands_before_it(sweep: Report, points: list[Point]) -> None:
    doubtful = points[0].model_copy(update=DOUBTS | {"pareto": False, "knee": False})
    page = html_report(**(sweep | {"points": [doubtful, *points[1:]]}))
    parsed(page)
    notices = page[page.index('class="notices"') : page.index('class="lead"')]
    assert f"saturated at {doubtful.id}" in notices
    assert FLAGS["saturated"] in unescape(notices)
    assert "0.9999 &amp; more" in notices
    assert "tried on the others of its trial" in notices
    row = rows(page)[doubtful.id]
    assert "saturated" in row
    assert "stopped after 48 examples: t001.w0.4 is better (p = 1e-07)" in unescape(row)
    assert "1 of them stopped early by the race" in page
    text = markdown_report(
        **(sweep | {"points": [points[0].model_copy(update={"flags": DOUBTS["flags"]}), *points[1:]]})
    )
    assert f"saturated at {points[0].id}" in text


def test_without_flags_nothing_is_said_of_them(sweep: Report) -> None:
    page = html_report(**sweep)
    assert "\u2691" not in page
    assert "stopped early" not in page
