"""What the reports say of trials that stand on tickets."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from test_html_report import parsed

from robusweep.front import Point
from robusweep.record import PointRecord, TicketRecord, TrialRecord
from robusweep.report import html_report, markdown_report, write_reports
from robusweep.report.tickets import (
    DISTANCES,
    TITLE,
    Mask,
    distance_trials,
    equal_sizes,
    names_of,
    overlap,
    series_of,
    ticket_masks,
    ticketed_trials,
    tickets_summary,
)
from robusweep.scores import Rate

Report = dict[str, Any]
Make = Callable[..., Report]
Trials = Callable[..., list[TrialRecord]]
AGREEMENT = "Agreement of tickets of equal size"
SHAPE = (2, 4, 8)
EARLY = {"kind": "early_bird", "adversary": "freelb", "n_steps": 5, "threshold": 0.1, "window": 5}
LOT: dict[str, Any] = {"kind": "random"}
SEARCH = {"n_steps": 40, "seconds": 61.5, "n_forward": 200, "n_backward": 200}
SPECS: list[tuple[dict[str, Any] | None, float, float, bool]] = [  # block, densities, whether the search was cached
    (EARLY, 0.5, 0.5, False),
    (EARLY, 0.75, 0.75, True),
    (EARLY | {"adversary": "pgd"}, 0.5, 0.5, False),
    (LOT, 0.5, 0.5, False),
    (LOT, 0.75, 0.75, False),
    (None, 1.0, 1.0, False),
]


def ticket(block: dict[str, Any], heads: float, neurons: float, *, cached: bool) -> TicketRecord:
    searched = block["kind"] == "early_bird"
    more: dict[str, Any] = {
        "gap": 3,
        "step": 6,
        "stop_step": 16,
        "distances": [[0.5, 0.25], [0.125, 0.2], [0.0, 0.09], [0.0, 0.05]],
        "search": SEARCH,
        "cached": cached,
        "fallback": "last" if block.get("adversary") == "pgd" else None,
    }
    return TicketRecord(
        kind=block["kind"], head_density=heads, neuron_density=neurons, n_removed=round(1e6 * (1 - neurons)),
        **(more if searched else {}),
    )  # fmt: skip


def mask(seed: int, density: float) -> Mask:
    """Every unit from a place on that depends on the seed, round the end of the row."""

    def row(n: int) -> str:
        kept = round(density * n)
        return "".join("1" if (i - seed) % n < kept else "0" for i in range(n))

    n_layers, n_heads, n_neurons = SHAPE
    return Mask(row(n_layers * n_heads), row(n_layers * n_neurons), SHAPE)


def written(one: Mask) -> str:
    n_layers, n_heads, n_neurons = one.shape
    rows = {"heads": (one.heads, n_heads), "neurons": (one.neurons, n_neurons)}
    cut = {what: [text[i * n : (i + 1) * n] for i in range(n_layers)] for what, (text, n) in rows.items()}
    return json.dumps({"shape": list(one.shape), **cut})


@pytest.fixture
def records(trials: Trials) -> list[TrialRecord]:
    """Searched tickets of two sizes and two adversaries, tickets by lot, and a trial on the whole network."""
    found = []
    for i, (block, heads, neurons, cached) in enumerate(SPECS):
        plain = trials(1, None)[0]
        (scored,) = plain.points
        name = f"{(block or LOT).get('adversary', 'lot')}_{round(100 * heads)}"
        changed: dict[str, Any] = {
            "id": f"t{i:03d}.00",
            "params": {"ticket": name},
            "robust_accuracy": Rate.of(40 + i, 200),
        }
        resolved = None if block is None else block | {"head_density": heads, "neuron_density": neurons}
        found.append(
            plain.model_copy(
                update={
                    "number": i,
                    "recipe": {"name": "tickets", "ticket": resolved},
                    "ticket": None if block is None else ticket(block, heads, neurons, cached=cached),
                    "points": [scored.model_copy(update=changed)],
                }
            )
        )
    return found


@pytest.fixture
def masks() -> dict[int, Mask]:
    return {0: mask(0, 0.5), 1: mask(0, 0.75), 2: mask(1, 0.5), 3: mask(4, 0.5), 4: mask(2, 0.75)}


@pytest.fixture
def tickets(records: list[TrialRecord], masks: dict[int, Mask], report: Make) -> Report:
    return report(records, masks=masks)


def part(page: str, title: str) -> str:
    """From one heading of the page to the next."""
    return page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<wbr>|<title>.*?</title>", "", html, flags=re.DOTALL)))


# ---------------------------------------------------------------------------------------------- what is read
def test_masks_are_read_from_the_folders_of_the_trials_and_what_holds_none_is_left_out(
    masks: dict[int, Mask], tmp_path: Path
) -> None:
    texts = {0: written(masks[0]), 3: "{", 4: '{"shape": [1, 2, 2], "heads": ["1"], "neurons": ["11"]}',
             5: '{"shape": [1, 1, 1], "heads": ["2"], "neurons": ["1"]}', 6: "[]", 12: written(masks[2])}  # fmt: skip
    for number, text in texts.items():
        path = tmp_path / f"trials/t{number:03d}/ticket/masks.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert ticket_masks(tmp_path) == {0: masks[0], 12: masks[2]}


def test_the_masks_that_a_trial_writes_are_read(tmp_path: Path) -> None:
    import numpy as np

    from robusweep.tickets import Masks

    rng = np.random.default_rng(0)
    heads, neurons = rng.random((2, 4)) < 0.7, rng.random((2, 8)) < 0.7
    kept = Masks(heads | np.eye(2, 4, dtype=bool), neurons | np.eye(2, 8, dtype=bool))
    path = tmp_path / "trials/t007/ticket/masks.json"
    path.parent.mkdir(parents=True)
    kept.write(path)
    found = ticket_masks(tmp_path)[7]
    assert found.shape == kept.shape
    assert found.density == pytest.approx(kept.density)
    assert found.neurons == "".join("01"[int(one)] for one in kept.neurons.ravel())


def test_overlap_is_one_minus_the_distance_and_chance_is_that_of_the_densities() -> None:
    a, b = Mask("1100", "11110000", (1, 4, 8)), Mask("1010", "11000000", (1, 4, 8))
    same, found = overlap(a, a), overlap(a, b)
    assert (same.heads, same.neurons) == (1.0, 1.0)
    assert (found.heads, found.neurons) == (0.5, 0.75)
    assert found.heads_by_chance == 0.5
    assert found.neurons_by_chance == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)
    assert overlap(b, a) == found
    with pytest.raises(ValueError, match="do not compare"):
        overlap(a, Mask("1100", "11110000", (2, 2, 4)))


def test_chance_is_what_random_masks_agree_in() -> None:
    import numpy as np

    rng = np.random.default_rng(0)

    def drawn(density: float) -> Mask:
        kept = rng.permutation(400) < 400 * density
        text = "".join("01"[int(one)] for one in kept)
        return Mask(text, text, (1, 400, 400))

    found = [overlap(drawn(0.8), drawn(0.6)) for _ in range(300)]
    assert np.mean([each.heads for each in found]) == pytest.approx(found[0].heads_by_chance, abs=0.01)


def test_only_tickets_of_one_size_are_compared_and_each_ticket_once(
    records: list[TrialRecord], masks: dict[int, Mask]
) -> None:
    again = records[0].model_copy(update={"number": 9})  # another training on the first ticket
    trials = ticketed_trials([*records, again], masks | {9: masks[0]})
    pairs = [(a.trial.number, b.trial.number) for a, b in equal_sizes(trials)]
    assert pairs == [(0, 2), (0, 3), (1, 4), (2, 3)]
    assert equal_sizes(ticketed_trials(records, {})) == []


def test_tickets_are_named_by_kind_and_by_what_sets_them_apart(records: list[TrialRecord]) -> None:
    names = names_of(ticketed_trials(records, {}))
    assert names == {
        0: "early_bird (adversary = freelb)",
        1: "early_bird (adversary = freelb)",
        2: "early_bird (adversary = pgd)",
        3: "random",
        4: "random",
        5: "dense",
    }


def test_a_ticket_that_removes_nothing_is_the_dense_network(records: list[TrialRecord]) -> None:
    lot = ticket(LOT, 1.0, 1.0, cached=False)
    whole = records[3].model_copy(update={"number": 6, "ticket": lot})
    trials = ticketed_trials([*records, whole], {})
    assert names_of(trials)[6] == "dense"
    assert trials[-1].kept == 1.0


def test_a_series_holds_one_make_of_ticket_by_rising_size_and_the_dense_one_comes_last(tickets: Report) -> None:
    series = series_of(ticketed_trials(tickets["records"], {}), tickets["points"])
    assert [(each.name, each.kept) for each in series] == [
        ("early_bird (adversary = freelb)", [0.5, 0.75]),
        ("early_bird (adversary = pgd)", [0.5]),
        ("random", [0.5, 0.75]),
        ("dense", [1.0]),
    ]
    assert [p.id for p in series[0].points] == ["t000.00", "t001.00"]
    assert [each.is_dense for each in series] == [False, False, False, True]


def test_what_else_is_searched_parts_the_series_unless_it_has_many_values(tickets: Report) -> None:
    trials = ticketed_trials(tickets["records"], {})

    def named(values: list[Any]) -> list[str]:
        points = [p.model_copy(update={"params": p.params | {"train": v}})
                  for p, v in zip(tickets["points"], values, strict=True)]  # fmt: skip
        return [each.name for each in series_of(trials, points)]

    assert named(["vanilla"] * 5 + ["freelb"]) == [
        "early_bird (adversary = freelb), train = vanilla",
        "early_bird (adversary = pgd), train = vanilla",
        "random, train = vanilla",
        "dense, train = freelb",
    ]
    assert named(list(range(6))) == named(["vanilla"] * 6)


def test_the_share_kept_weighs_neurons_twice() -> None:
    one = ticket(LOT, 0.83, 0.6, cached=False)
    (found,) = ticketed_trials([TrialRecord(name="x", number=0, status="complete", params={}, recipe={},
                                            recipe_digest="", ticket=one)], {})  # fmt: skip
    assert found.kept == pytest.approx((0.83 + 2 * 0.6) / 3)


# --------------------------------------------------------------------------------------------- what is shown
def test_a_sweep_without_tickets_says_nothing_of_them(sweep: Report, tmp_path: Path) -> None:
    page, text = html_report(**sweep), markdown_report(**sweep)
    for title in (TITLE, DISTANCES, AGREEMENT):
        assert f"<h2>{title}</h2>" not in page
        assert f"## {title}" not in text
    paths = write_reports(tmp_path, **sweep)
    assert "density.png" not in {path.name for path in paths}
    assert "tickets" not in json.loads((tmp_path / "report.json").read_text())


def test_the_page_is_well_formed_and_shows_every_part(tickets: Report) -> None:
    page = html_report(**tickets)
    parsed(page)
    for title in (TITLE, DISTANCES, AGREEMENT):
        assert page.count(f"<h2>{title}</h2>") == 1
    assert "nan" not in page


def test_each_point_is_drawn_once_in_either_panel_and_leads_to_its_row(tickets: Report) -> None:
    page = html_report(**tickets)
    own = part(page, TITLE)
    ids = dict(re.findall(r'<tr id="row-(\d+)" data-id="([^"]+)"', page))
    links = re.findall(r'<a href="#row-(\d+)" data-row="\1" aria-label="[^"]*"><title>([^\n]+)\n(\S+)\n', own)
    assert sorted(ids[row] for row, _, _ in links) == sorted([*ids.values()] * 2)
    names = names_of(ticketed_trials(tickets["records"], {}))
    for row, name, point_id in links:
        assert ids[row] == point_id
        assert name == names[int(point_id[1:4])]


def test_bars_span_the_intervals_and_stand_side_by_side(tickets: Report) -> None:
    own = part(html_report(**tickets), TITLE)
    robust = own.split("<figcaption>robust accuracy (%)</figcaption>")[1].split("</svg>")[0]
    bars = re.findall(r'<path class="whisker [^"]*" d="M([\d.]+) ([\d.]+)V([\d.]+)"/>', robust)
    assert len(bars) == len(tickets["points"])
    assert len({x for x, _, _ in bars}) == len(bars)
    heights = sorted(float(low) - float(high) for _, low, high in bars)
    rates = sorted(p.robust_accuracy.high - p.robust_accuracy.low for p in tickets["points"])
    scale = heights[-1] / rates[-1]
    assert scale > 0
    assert heights == pytest.approx([scale * rate for rate in rates], abs=0.25)


def test_the_whole_network_has_a_line_across_and_no_line_of_its_own(tickets: Report) -> None:
    own = part(html_report(**tickets), TITLE)
    assert own.count('class="reference"') == 2
    assert own.count('<circle class="dot whole"') == 3  # one in the legend
    assert 'class="line whole"' not in own


def test_points_of_one_size_are_not_joined(tickets: Report) -> None:
    lines = '<path class="line attack0" d="M'
    assert part(html_report(**tickets), TITLE).count(lines) == 3  # the legend and two panels
    trials = [r.model_copy(update={"ticket": ticket(EARLY, 0.5, 0.5, cached=False)}) if r.number == 1 else r
              for r in tickets["records"]]  # fmt: skip
    assert part(html_report(**(tickets | {"records": trials})), TITLE).count(lines) == 1


def test_every_search_has_a_panel_with_its_distances_threshold_and_gap(tickets: Report) -> None:
    own = part(html_report(**tickets), DISTANCES)
    panels = own.split('<figure class="panel">')[1:]
    assert len(panels) == 3
    first = panels[0]
    assert "t000: early_bird (adversary = freelb), 50.0 % of heads, 50.0 % of neurons" in first
    assert len(re.findall(r"heads: [\d.]+ % differ between gaps", first)) == 4
    assert "heads: 12.5 % differ between gaps 2 and 3" in first
    assert "neurons: 9.0 % differ between gaps 3 and 4" in first
    assert first.count('class="threshold"') == 1
    assert "drawn at gap 3, after 6 steps<" in first
    assert "never settled" not in first
    assert "never settled" in panels[2]


def test_where_nothing_is_waited_for_there_is_no_threshold(tickets: Report) -> None:
    trials = [
        r.model_copy(update={"recipe": {"ticket": {**r.recipe["ticket"], "threshold": None}}}) if r.ticket else r
        for r in tickets["records"]
    ]
    own = part(html_report(**(tickets | {"records": trials})), DISTANCES)
    assert 'class="drawn"' in own
    assert "threshold" not in own


def test_trials_on_one_ticket_share_a_panel(records: list[TrialRecord]) -> None:
    again = records[0].model_copy(update={"number": 9})
    groups = distance_trials(ticketed_trials([*records, again], {}))
    assert [[one.id for one in group] for group in groups] == [["t000", "t009"], ["t001"], ["t002"]]


def test_the_table_tells_sizes_when_it_was_drawn_and_what_it_took(tickets: Report) -> None:
    own = part(html_report(**tickets), TITLE)
    rows = [" ".join(text_of(row).split()) for row in re.findall(r"<tr>(<td.*?)</tr>", own)]
    assert len(rows) == 5
    assert rows[0] == "t000 early_bird (adversary = freelb) 50.0 % 50.0 % 500,000 3 6 16 61.5 400"
    assert rows[1].endswith(" 3 6 16 61.5 cached 400")
    assert rows[2].endswith(" 3 never settled 6 16 61.5 400")
    assert rows[3] == "t003 random 50.0 % 50.0 % 500,000"
    said = text_of(own)
    assert "1 of 3 searched tickets came from a search that the trial found in the cache" in said
    assert "1 of them never settled" in said


def test_without_a_search_nothing_is_said_of_one(records: list[TrialRecord], report: Make) -> None:
    page = html_report(**report(records[3:]))
    own = part(page, TITLE)
    assert "search" not in text_of(own.split("</figure></div>")[1])
    assert f"<h2>{DISTANCES}</h2>" not in page


def test_the_agreement_is_shown_beside_what_chance_gives(tickets: Report) -> None:
    own = part(html_report(**tickets), AGREEMENT)
    rows = [text_of(row).split() for row in re.findall(r"<tr>(<td.*?)</tr>", own)]
    assert len(rows) == 4
    assert rows[0][-4:] == ["0.750", "0.500", "0.875", "0.500"]
    assert "--share:50%" in own
    assert "--share:75%" in own


# -------------------------------------------------------------------------------------- other kinds of report
def test_markdown_and_page_carry_the_same_tables(tickets: Report) -> None:
    page, text = html_report(**tickets), markdown_report(**tickets)
    for title in (TITLE, AGREEMENT):
        table = text.split(f"## {title}\n")[1].split("\n## ")[0]
        cells = re.findall(r'<td class="(?:number|text)[^>]*>([^<]+)<', part(page, title))
        assert len(cells) > 12
        assert [cell for cell in map(unescape, cells) if cell.replace("_", "") not in table.replace("_", "")] == []
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_the_files_hold_the_same_numbers_and_the_figure(
    tickets: Report, masks: dict[int, Mask], tmp_path: Path
) -> None:
    for number, one in masks.items():
        path = tmp_path / f"trials/t{number:03d}/ticket/masks.json"
        path.parent.mkdir(parents=True)
        path.write_text(written(one))
    paths = write_reports(tmp_path, **{key: value for key, value in tickets.items() if key != "masks"})
    assert paths[-1] == tmp_path / "figures/density.png"
    assert paths[-1].read_bytes().startswith(b"\x89PNG")
    held = json.loads((tmp_path / "report.json").read_text())["tickets"]
    assert held == json.loads(json.dumps(tickets_summary(ticketed_trials(tickets["records"], masks))))
    told = {each["trial"]: each for each in held["trials"]}
    assert sorted(told) == [0, 1, 2, 3, 4]
    for record in tickets["records"]:
        if record.ticket:
            assert told[record.number] == told[record.number] | record.ticket.model_dump(mode="json")
    assert [each["trials"] for each in held["overlap"]] == [[0, 2], [0, 3], [1, 4], [2, 3]]
    assert held["overlap"][0]["heads"] == 0.75


def test_names_from_records_are_escaped_here_too(tickets: Report) -> None:
    evil = "<script>alert('x')</script>"
    trials = [
        r.model_copy(update={"ticket": r.ticket.model_copy(update={"kind": evil})}) if r.ticket else r
        for r in tickets["records"]
    ]
    page = html_report(**(tickets | {"records": trials}))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_failed_trials_and_trials_without_a_point_do_no_harm(
    tickets: Report, fail: Callable[[int, str], TrialRecord]
) -> None:
    page = html_report(**(tickets | {"records": [*tickets["records"], fail(7, "no memory")], "points": []}))
    parsed(page)
    assert f"<h2>{TITLE}</h2>" in page
    assert isinstance(tickets["points"][0], Point)
    assert isinstance(tickets["records"][0].points[0], PointRecord)


def test_hundreds_of_different_tickets_are_named_and_shown_in_seconds(report: Make, records: list[TrialRecord]) -> None:
    n_layers, n_heads, n_neurons = shape = (12, 12, 3072)
    many, masks = [], {}
    for i in range(300):
        block = EARLY | {"l1_neurons": i / 1000, "head_density": 0.5, "neuron_density": 0.5}
        (scored,) = records[0].points
        changed = {"id": f"t{i:03d}.00", "params": {"ticket.l1_neurons": i / 1000}}
        points = [scored.model_copy(update=changed)]
        many.append(records[0].model_copy(update={"number": i, "recipe": {"ticket": block}, "points": points}))
        row = "01" * (n_layers * n_neurons // 2)
        masks[i] = Mask(row[: n_layers * n_heads], row[i:] + row[:i], shape)
    arguments = report(many, masks=masks)
    start = time.perf_counter()
    page, text = html_report(**arguments), markdown_report(**arguments)
    assert time.perf_counter() - start < 10
    assert "Shown are the first 60 of 44,850 pairs." in page
    assert "Shown are the first 60 of 44,850 pairs." in text
    assert page.count('<figure class="panel">') == 2 + 60
    assert "t299" in part(page, TITLE)
    assert [each.name for each in series_of(ticketed_trials(many, masks), arguments["points"])] == ["early_bird"]
