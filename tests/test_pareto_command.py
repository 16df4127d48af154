"""``robusweep pareto``: rates that stand apart from the front's, and tables that fit the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robusweep.cli import main
from robusweep.front import Objective, assess
from robusweep.record import AttackOutcome, AttackScore, PointRecord, TrialRecord, write_json
from robusweep.scores import Rate

N = 300
STATIC = {"textfooler_wordnet": Rate.of(49, 214), "deepwordbug": Rate.of(20, 203), "pwws": Rate.of(0, 171)}
UNAIDED = {"textfooler_wordnet": Rate.of(51, N), "deepwordbug": Rate.of(74, N), "pwws": Rate.of(80, N)}
Pareto = Callable[..., str]


def under(n_survived: int) -> AttackScore:
    rows = [
        AttackOutcome(
            example_id=str(i), label=0, status="survived" if i < n_survived else "broken", n_queries=9, n_words=5
        )
        for i in range(N)
    ]
    return AttackScore.of(rows)


def point(i: int, name: str) -> PointRecord:
    apart = {"clean": {}, "fixed": {"static": STATIC}, "entropy": {"static": STATIC, "unaided": UNAIDED}}[name]
    return PointRecord(
        id=f"t000.{i:02d}",
        params={"mix": name, "adapter.rank": 8},
        clean_accuracy=Rate.of(300 + i, 400),
        robust_accuracy=Rate.of(30 - i, N),
        attacks={"textfooler_wordnet": under(42), "deepwordbug": under(74)},
        held_out={"pwws": under(67)},
        model_digest=name,
        inference_flops=10**9 * (i + 1),
        per_text=bool(apart.get("unaided")),
        **apart,
    )


@pytest.fixture
def pareto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pareto:
    """What ``robusweep pareto`` prints of a run of three points in a terminal so wide."""
    points = [point(i, name) for i, name in enumerate(("clean", "fixed", "entropy"))]
    record = TrialRecord.model_validate(
        {"name": "done", "number": 0, "status": "complete", "params": {}, "recipe": {}, "recipe_digest": "d"}
        | {"protocol_hash": "p", "points": [one.model_dump() for one in points]}
    )
    ranked = assess([record], [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")])
    write_json(tmp_path / "runs/done/front.json", [one.model_dump(mode="json") for one in ranked])
    write_json(tmp_path / "runs/done/sweep.json", {})

    def call(*options: str, columns: int = 140) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["robusweep", "pareto", "done", "--root", str(tmp_path), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        return said.out

    return call


def test_the_json_holds_static_and_unaided_rates_where_the_record_has_them(pareto: Pareto) -> None:
    found = {one["id"]: one for one in json.loads(pareto("--all", "--json"))}
    for which, rates in (("static", STATIC), ("unaided", UNAIDED)):
        dumped = {attack: rate.model_dump() for attack, rate in rates.items()}
        assert found["t000.02"][which] == dumped
        assert found["t000.00"][which] == {}
    assert found["t000.01"]["unaided"] == {}


def test_a_front_of_an_earlier_version_has_no_such_rates(pareto: Pareto, tmp_path: Path) -> None:
    path = tmp_path / "runs/done/front.json"
    old = [{k: v for k, v in one.items() if k not in ("static", "unaided")} for one in json.loads(path.read_text())]
    write_json(path, old)
    assert {str(one["static"]) + str(one["unaided"]) for one in json.loads(pareto("--all", "--json"))} == {"{}{}"}


def test_tables_of_their_own_show_them_when_they_are_asked_for(pareto: Pareto) -> None:
    assert "clean adapter" not in pareto()
    assert "by itself" not in pareto()
    static = pareto("--static").partition("clean adapter")[2].splitlines()
    rows = {line.split()[0]: line for line in static if line.startswith("t000")}
    assert rows.keys() == {"t000.01", "t000.02"}, "the others were given no such texts"
    assert "22.9 [17.8, 29.0]" in rows["t000.01"]
    assert "pwws, held out %" in "".join(static)
    assert "n = 214" in "".join(static)
    unaided = pareto("--unaided").partition("by itself")[2].splitlines()
    rows = {line.split()[0]: line for line in unaided if line.startswith("t000")}
    assert rows.keys() == {"t000.02"}
    assert "17.0 [13.2, 21.7] -3.0" in rows["t000.02"], "42 of 300 are left of 51"
    assert "+0.0" in rows["t000.02"]
    assert "26.7 [22.0, 31.9] -4.3" in rows["t000.02"], "of a held-out attack, too"


def test_where_there_is_nothing_of_the_kind_a_line_says_why(pareto: Pareto) -> None:
    said = pareto("--pick", "t000.00", "--static", "--unaided")
    assert "attacks.static is off" in said
    assert "attacks.adaptive is off" in said


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_every_width_shows_all_ids_parameters_and_rates(pareto: Pareto, columns: int) -> None:
    shown = pareto("--static", "--unaided", columns=columns)
    assert max(map(len, shown.splitlines())) <= columns
    front = shown.partition("On texts")[0]
    assert all(f"t000.{i:02d}" in front for i in range(3))
    assert "…" not in shown
    assert "mix=entropy" in front.replace("\n", "")
    for rate in ("75.5", "[71.1, 79.5]", "14.0", "[10.5, 18.4]", "24.7", "[20.1, 29.8]"):
        assert rate in front
    assert ("flops" in front) is (columns >= 100)
    assert ("costs: in a wider terminal" in front) is (columns < 100)
    assert ("75.5 [71.1, 79.5]" in front) is (columns >= 120)
