"""Commands that only read: they load no tensor library, answer at once, and keep the shape of their JSON."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from robusweep import __version__
from robusweep.cli import main
from robusweep.front import Objective, Point, assess
from robusweep.hub import hub_reachable
from robusweep.recipe import load_recipe
from robusweep.record import (
    AttackOutcome,
    AttackScore,
    PointRecord,
    Status,
    TrialRecord,
    robust_accuracy,
    write_json,
    write_text,
)
from robusweep.scores import Rate

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "textattack", "ray", "mlflow", "optuna", "pandas", "matplotlib", "datasets")
POINT = {
    *("id", "params", "clean_accuracy", "robust_accuracy", "attacks", "train_seconds", "pareto", "knee", "run_id"),
}
RATE = {"value", "low", "high", "n"}
OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
WEIGHTS = {0.0: (90, 20), 0.5: (85, 60), 0.7: (80, 50), 1.0: (70, 70)}  # weight: (right, right under attack) of 100

RECIPE = """\
# A small recipe.
version: 1
name: small
data: {kind: csv, path: data/reviews.csv, n_train: 20, n_validation: 12, n_calibration: 6, n_test: 6}
model: {base: ./encoder}  # a folder
adapter: {kind: lora, rank: 4}
train: {kind: standard}
adversarial: [{kind: pgd, radius: 0.3}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 4}
search:
  space: "../spaces/small.yaml"
  budget: {n_trials: 2}
"""
SPACE = "# robusweep run recipes/small.yaml\nmix.weight: {grid: [0.0, 0.5, 0.7, 1.0], after: training}\n"

WRAPPED = """
import sys
from robusweep.cli import main
try:
    main()
finally:
    loaded = sorted(name for name in sys.argv[0].split(",") if name in sys.modules)
    print("LOADED", *loaded, file=sys.stderr)
"""

Command = Callable[..., "tuple[int, str, str]"]


def outcomes(right: int, robust: int) -> list[AttackOutcome]:
    statuses: list[Status] = ["survived"] * robust + ["broken"] * (right - robust) + ["misclassified"] * (100 - right)
    return [AttackOutcome(example_id=str(i), label=0, status=s, n_queries=9, n_words=5) for i, s in enumerate(statuses)]


def trial(number: int) -> TrialRecord:
    points = [
        PointRecord(
            id=f"t{number:03d}.{i:02d}",
            params={"mix.weight": weight},
            clean_accuracy=Rate.of(right - number, 100),
            robust_accuracy=robust_accuracy({"deepwordbug": outcomes(right, robust)}),
            attacks={"deepwordbug": AttackScore.of(outcomes(right, robust))},
            model_digest="m",
        )
        for i, (weight, (right, robust)) in enumerate(WEIGHTS.items())
    ]
    return TrialRecord(
        name="done", number=number, status="complete", params={}, recipe={}, recipe_digest="d", protocol_hash="p",
        points=points,
    )  # fmt: skip


def write_run(root: Path, recipe: Path, name: str, records: list[TrialRecord]) -> list[Point]:
    """A run folder as a sweep leaves it."""
    plan, run_dir = load_recipe(recipe), root / "runs" / name
    points = assess(records, OBJECTIVES)
    write_json(run_dir / "sweep.json", plan.identity())
    text = yaml.safe_dump(plan.recipe.model_dump(mode="json"), sort_keys=False)
    write_text(run_dir / "recipe.resolved.yaml", text)
    write_json(run_dir / "front.json", [point.model_dump(mode="json") for point in points])
    for record in records:
        folder = run_dir / "trials" / f"t{record.number:03d}"
        write_json(folder / "record.json", record.model_dump(mode="json"))
        write_text(folder / "log.txt", "12:00:00 data\n12:00:01 done\n")
        for point, (right, robust) in zip(record.points, WEIGHTS.values(), strict=True):
            rows = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes(right, robust))
            write_text(folder / "attacks" / f"{point.id}.deepwordbug.jsonl", rows)
    return points


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its space, data and model folder, a run ``done`` and a run ``begun``, as the working folder."""
    files = {
        "recipes/small.yaml": RECIPE,
        "spaces/small.yaml": SPACE,
        "recipes/data/reviews.csv": "text,label\n" + "".join(f"text number {i},{i % 2}\n" for i in range(60)),
        "recipes/encoder/config.json": "{}",
        "recipes/encoder/model.safetensors": "",
    }
    for name, text in files.items():
        write_text(tmp_path / name, text)
    write_run(tmp_path, tmp_path / "recipes/small.yaml", "done", [trial(0), trial(1)])
    write_run(tmp_path, tmp_path / "recipes/small.yaml", "begun", [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub_reachable.cache_clear()
    return tmp_path


@pytest.fixture
def command(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robusweep", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def answer(command: Command, *args: str) -> Any:
    """The one JSON value on stdout of a command that ends well."""
    code, out, err = command(*args)
    assert (code, err) == (0, "")
    return json.loads(out)


LIGHT = [
    "validate recipes/small.yaml",
    "validate recipes/small.yaml --json",
    "ls",
    "ls attacks --json",
    "show recipes/small.yaml",
    "show recipes/small.yaml --resolved",
    "show pgd",
    "pareto done",
    "pareto done --json",
    "compare done/t000.00 done/knee",
    "compare done/t000.00 done/t001.01 --json",
    "gate done clean_accuracy>=0.1",
    "status done",
    "cache ls",
    "cache prune --older-than 1 --json",
    "schema",
    "schema --space",
    "cp recipes/small.yaml mine.yaml",
    "--version",
]


@pytest.mark.parametrize("line", LIGHT, ids=[line.replace(" ", "_").replace("/", "-") for line in LIGHT])
def test_a_reading_command_loads_no_tensor_library_and_costs_little(project: Path, line: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = WRAPPED.replace("sys.argv[0]", repr(",".join(HEAVY)))
    ended = subprocess.run(
        [sys.executable, "-c", code, *line.split()], capture_output=True, text=True, check=False, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "LOADED\n"
    assert ended.stdout.strip()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_the_wrapper_sees_a_library_that_is_loaded(project: Path) -> None:
    code = "import optuna\n" + WRAPPED.replace("sys.argv[0]", repr(",".join(HEAVY)))
    ended = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert "LOADED optuna" in ended.stderr


def test_the_version_is_the_packages(command: Command) -> None:
    assert command("--version") == (0, f"robusweep {__version__}\n", "")


def test_pareto_gives_the_front_alone_with_its_rates_and_counts(command: Command) -> None:
    front = answer(command, "pareto", "done", "--json")
    assert [point["params"]["mix.weight"] for point in front] == [0.0, 0.5, 1.0]
    for point in front:
        assert set(point) >= POINT
        assert point["pareto"] is True
        assert set(point["attacks"]) == {"deepwordbug"}
        score = point["attacks"]["deepwordbug"]
        assert {"accuracy_under_attack", "success_rate", "n_queries_median"} <= set(score)
        rates = [point["clean_accuracy"], point["robust_accuracy"]]
        for rate in [*rates, score["accuracy_under_attack"], score["success_rate"]]:
            assert set(rate) == RATE
            assert rate["low"] <= rate["value"] <= rate["high"]
        assert point["run_id"] is None
    assert sum(point["knee"] for point in front) == 1


def test_pareto_all_gives_dominated_points_too(command: Command) -> None:
    points = answer(command, "pareto", "done", "--all", "--json")
    assert len(points) == 2 * len(WEIGHTS)
    assert {point["pareto"] for point in points} == {True, False}


def test_pareto_pick_gives_one_point(command: Command) -> None:
    (knee,) = answer(command, "pareto", "done", "--pick", "knee", "--json")
    assert knee["knee"]
    assert knee["params"] == {"mix.weight": 0.5}
    (other,) = answer(command, "pareto", "done", "--pick", "t001.02", "--json")
    assert other["id"] == "t001.02"
    code, _, said = command("pareto", "done", "--pick", "t009.00")
    assert code == 2
    assert "'t009.00'" in said


def test_pareto_shows_the_table_with_intervals(command: Command) -> None:
    code, shown, _ = command("pareto", "done")
    assert code == 0
    assert [text for text in ("t000.00", "t000.01", "t000.03", "90.0", "85.0", "n = 100") if text not in shown] == []
    assert "t001" not in shown


@pytest.mark.parametrize("verb", ["pareto", "status", "report"])
def test_a_run_that_is_not_there_is_named_with_the_nearest(command: Command, verb: str) -> None:
    code, out, said = command(verb, "doen")
    assert (code, out) == (2, "")
    assert "no run 'doen'" in said
    assert "did you mean 'done'" in said


def test_without_any_run_the_hint_says_so(command: Command, project: Path) -> None:
    shutil.rmtree(project / "runs")
    code, _, said = command("pareto", "done")
    assert code == 2
    assert "none yet" in said


def test_a_run_without_points_has_an_exit_code_of_its_own(command: Command) -> None:
    for args in (["begun"], ["begun", "--json"], ["begun", "--all"]):
        code, out, said = command("pareto", *args)
        assert (code, out) == (5, "")
        assert "no completed point" in said


def test_a_run_may_be_given_by_its_folder_or_below_a_root(command: Command, project: Path, tmp_path: Path) -> None:
    by_name = answer(command, "pareto", "done", "--json")
    assert answer(command, "pareto", "runs/done", "--json") == by_name
    assert answer(command, "pareto", "done", "--json", "--root", str(project)) == by_name


def test_status_shows_trials_points_and_what_became_of_them(command: Command, project: Path) -> None:
    write_text(project / "runs/done/trials/t002/log.txt", "12:00:02 train clean\n")
    found = answer(command, "status", "done", "--json")
    assert (found["name"], found["running"], found["n_points"], found["n_front"]) == ("done", False, 8, 3)
    assert [(t["id"], t["state"]) for t in found["trials"]] == [
        ("t000", "complete"), ("t001", "complete"), ("t002", "interrupted"),
    ]  # fmt: skip
    assert found["trials"][2]["last"].endswith("train clean")


def test_report_writes_the_reports_again_from_the_records(command: Command, project: Path) -> None:
    code, out, said = command("report", "done")
    assert (code, said) == (0, "")
    written = [project / line for line in out.split()]
    assert {"report.html", "report.md", "report.json"} <= {path.name for path in written}
    assert all(path.stat().st_size > 0 for path in written)
    assert json.loads((project / "runs/done/report.json").read_text())["n_points"] == 8


def test_show_resolved_is_a_recipe_that_validates_with_every_default(command: Command, project: Path) -> None:
    code, shown, _ = command("show", "recipes/small.yaml", "--resolved", "adapter.rank=2")
    assert code == 0
    tree = yaml.safe_load(shown)
    lora = {"kind": "lora", "rank": 2, "alpha": 16.0, "dropout": 0.0, "targets": ["query", "value"]}
    assert tree["adapter"] == lora | {"variant": "lora", "layers": None}
    (project / "recipes/resolved.yaml").write_text(shown)
    assert command("validate", "recipes/resolved.yaml")[0] == 0
    assert answer(command, "show", "recipes/resolved.yaml", "--json") == tree


def test_ls_lists_recipes_runs_and_every_kind_with_a_description(command: Command) -> None:
    listing = answer(command, "ls", "--json")
    assert [Path(row["name"]).name for row in listing["recipes"]] == ["small.yaml"]
    assert {row["name"] for row in listing["runs"]} == {"done", "begun"}
    assert {"lora", "full"} <= {row["name"] for row in listing["adapters"]}
    kinds = [row for family, rows in listing.items() if family not in {"recipes", "spaces", "runs"} for row in rows]
    assert len(kinds) > 15
    assert [row["name"] for row in kinds if not row["description"]] == []
    code, _, said = command("ls", "atacks")
    assert code == 2
    assert "did you mean 'attacks'" in said


def test_every_kind_that_ls_names_can_be_shown(command: Command) -> None:
    listing = answer(command, "ls", "--json")
    for family in ("data", "tickets", "adapters", "methods", "mixers", "prunings", "attacks", "samplers"):
        for row in listing[family]:
            shown = answer(command, "show", f"{family}.{row['name']}", "--json")
            assert shown["family"] == family
            assert "kind" in {key["name"] for key in shown["keys"]}
    code, both, _ = command("show", "magnitude")
    assert code == 0
    assert "magnitude (tickets)" in both
    assert "magnitude (prunings)" in both
    code, _, said = command("show", "lorra")
    assert code == 2
    assert "did you mean 'lora'" in said


def test_the_schema_knows_every_key_of_a_recipe(command: Command) -> None:
    schema = answer(command, "schema")
    assert {"version", "name", "data", "attacks", "search"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_validate_says_what_would_run(command: Command) -> None:
    found = answer(command, "validate", "recipes/small.yaml", "--json")
    assert found["splits"] == {"train": 20, "validation": 12, "calibration": 6, "test": 6}
    assert (found["valid"], found["labels"], found["stand_ins"]) == (True, ["0", "1"], [])
    assert (found["n_trials"], found["fewest_points_per_trial"], found["points_per_trial"]) == (2, 4, 4)
    assert "2 trials of 4 points each" in command("validate", "recipes/small.yaml")[1]


def test_validate_says_that_trials_differ_in_their_points(command: Command, project: Path) -> None:
    space = "adapter.rank: {grid: [4, 8]}\nmix.weight: {grid: [0.0, 0.5], after: training, when: {adapter.rank: 8}}\n"
    (project / "spaces/small.yaml").write_text(space)
    assert "2 trials of 1 to 2 points" in command("validate", "recipes/small.yaml")[1]
    assert "1 trial of 1 point\n" in command("validate", "recipes/small.yaml", "search.budget.n_trials=1")[1]


def test_a_copied_recipe_brings_its_space_and_validates_where_it_lies(command: Command, project: Path) -> None:
    code, out, _ = command("cp", "recipes/small.yaml", "own/deep/mine.yaml")
    assert code == 0
    assert out.split() == ["own/deep/mine.yaml", "own/deep/mine.space.yaml"]
    assert (project / "own/deep/mine.space.yaml").read_text() == SPACE.replace("recipes/small", "own/deep/mine")
    text = (project / "own/deep/mine.yaml").read_text()
    assert "# a folder" in text  # comments stay
    copied = answer(command, "validate", "own/deep/mine.yaml", "--json")
    original = answer(command, "validate", "recipes/small.yaml", "--json")
    assert copied["name"] == "mine"
    assert copied["splits"] == original["splits"]
    paths = [load_recipe(p).recipe.model_dump()["data"]["path"] for p in ("recipes/small.yaml", "own/deep/mine.yaml")]
    assert paths[0] == paths[1]


def test_a_copy_never_overwrites_and_leaves_nothing_when_it_cannot_be_whole(command: Command, project: Path) -> None:
    (project / "mine.space.yaml").write_text("# mine\n")
    code, _, said = command("cp", "recipes/small.yaml", "mine.yaml")
    assert code == 2
    assert "mine.space.yaml exists already" in said
    assert not (project / "mine.yaml").exists()
    assert command("cp", "recipes/small.yaml", "recipes")[0] == 2
    (project / "spaces/small.yaml").unlink()
    assert command("cp", "recipes/small.yaml", "other.yaml")[0] == 3
    assert not (project / "other.yaml").exists()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_can_be_copied(command: Command, project: Path, path: Path) -> None:
    assert command("cp", str(path), "mine.yaml")[0] == 0
    copied, original = load_recipe("mine.yaml"), load_recipe(path)
    assert copied.space == original.space
    assert copied.recipe.trial_digest() == original.recipe.trial_digest()


@pytest.mark.parametrize(
    "args", [["--nope"], ["frobnicate"], ["validate"], ["pareto", "done", "--pick"], ["ls", "--x"]]
)
def test_a_command_line_that_makes_no_sense_ends_with_usage_and_no_traceback(command: Command, args: list[str]) -> None:
    code, out, said = command(*args)
    assert (code, out) == (2, "")
    assert "Traceback" not in said
    assert said.strip()


def test_an_interrupted_command_says_how_to_go_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robusweep.catalogue.catalogue", interrupt)
    code, _, said = command("ls", "recipes")
    assert code == 130
    assert "robusweep ls recipes" in said


def test_compare_is_paired_by_example(command: Command) -> None:
    found = answer(command, "compare", "done/t000.01", "done/t001.00", "--json")
    assert (found["first"], found["second"], found["n"]) == ("done/t000.01", "done/t001.00", 100)
    assert set(found["comparisons"]) == {"robust_accuracy", "accuracy_under_attack.deepwordbug"}
    row = found["comparisons"]["robust_accuracy"]
    assert (row["n_only_first"], row["n_only_second"]) == (40, 0)  # 60 and 20 of the same examples
    assert row["difference"] == pytest.approx(0.4)
    assert row["low"] < 0.4 < row["high"]
    assert row["p_value"] == pytest.approx(2 * 0.5**40)
    code, shown, _ = command("compare", "done/t000.01", "done/knee")
    assert code == 0
    assert "robust accuracy" in shown
    assert "accuracy under deepwordbug" in shown
    assert "protocol hash p" in shown


@pytest.mark.parametrize(
    ("pair", "code", "said"),
    [
        (("t000.01", "done/t000.00"), 2, "write RUN/POINT"),
        (("done/t000.1", "done/t000.00"), 2, "did you mean 't000.01'"),
        (("doen/t000.01", "done/t000.00"), 2, "did you mean 'done'"),
        (("done/t000.01", "other/t000.00"), 2, "different protocols (p and q)"),
        (("done/t000.01", "done/t000.02"), 3, "t000.02.deepwordbug.jsonl"),
    ],
)
def test_a_pair_that_cannot_be_compared_is_refused(
    command: Command, project: Path, pair: tuple[str, str], code: int, said: str
) -> None:
    other = trial(0).model_copy(update={"protocol_hash": "q"})
    write_run(project, project / "recipes/small.yaml", "other", [other])
    (project / "runs/done/trials/t000/attacks/t000.02.deepwordbug.jsonl").unlink()
    ended, out, err = command("compare", *pair)
    assert (ended, out) == (code, "")
    assert said in err


def test_an_attack_that_is_not_here_says_what_runs_in_its_place(command: Command) -> None:
    rows = {row["name"]: row for row in answer(command, "ls", "attacks", "--json")["attacks"]}
    assert "Not here" not in rows["deepwordbug"]["description"]
    if not rows["textfooler"]["available"] and rows["textfooler_wordnet"]["available"]:
        assert rows["textfooler"]["description"].endswith("Not here: textfooler_wordnet runs in its place.")
