"""The projection of a sweep to a real MLflow database. All tests that import MLflow are in this module."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from robusweep.errors import MissingError
from robusweep.front import Objective, Point, assess
from robusweep.record import AttackScore, PointRecord, TrialRecord
from robusweep.scores import Rate
from robusweep.tracking import experiments, store, sync
from robusweep.tracking.store import opened

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient
    from mlflow.entities import Run

OBJECTIVES = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
SWEEP = "3f9c21ab"
# (clean, robust) of 100 examples; trial by trial; the last trial pushes a point of each other off the front
SCORES = [[(90, 20), (85, 40), (80, 35)], [(78, 60), (65, 50), (92, 5), (91, 10)], [(86, 45), (79, 61), (75, 70)]]


def score(clean: int, robust: int) -> AttackScore:
    return AttackScore(
        n_queries=900,
        accuracy_under_attack=Rate.of(robust, 100),
        success_rate=Rate.of(clean - robust, clean),
        n_queries_median=41.0,
        n_queries_p90=90.0,
        words_changed=0.1,
    )


def trial(number: int, *, status: str = "complete") -> TrialRecord:
    points = [
        PointRecord(
            id=f"t{number:03d}.{i:02d}",
            params={"mix.weight": i / 4, "adapter.rank": 4 + number},
            clean_accuracy=Rate.of(clean, 100),
            robust_accuracy=Rate.of(robust, 100),
            attacks={"textfooler": score(clean, robust)},
            model_digest="m",
        )
        for i, (clean, robust) in enumerate(SCORES[number])
    ]
    fields: dict[str, Any] = {"params": {}, "recipe": {"name": "one"}, "recipe_digest": "d", "protocol_hash": "p"}
    return TrialRecord(name="one", number=number, status=status, points=points, **fields)  # type: ignore[arg-type]


def records(n_trials: int = 3) -> list[TrialRecord]:
    return [trial(number) for number in range(n_trials)]


def points_of(trials: Sequence[TrialRecord]) -> list[Point]:
    return assess(trials, OBJECTIVES)


def run_sync(root: Path, trials: Sequence[TrialRecord], **changed: Any) -> dict[str, str]:
    arguments: dict[str, Any] = {
        "name": "one",
        "sweep_id": SWEEP,
        "points": points_of(trials),
        "records": trials,
        "objectives": OBJECTIVES,
        "artifacts": [],
        "recipe_yaml": "name: one\n",
        "notices": [],
        "finished": True,
    }
    return sync(root, **(arguments | changed))


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing here has to outlive a power cut, and most of a sync's time is waiting for the disk."""

    def relax(connection: sqlite3.Connection, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and no runs: making the tables takes longer than all the rest of a test."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    with opened(f"sqlite:///{file}"):
        pass
    return file


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def runs(root: Path, query: str = "", name: str = "one") -> list[Run]:
    client = client_of(root)
    experiment = client.get_experiment_by_name(f"robusweep/{name}")
    return list(client.search_runs([experiment.experiment_id], query, max_results=1000))


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


def point_runs(root: Path) -> dict[str, Run]:
    return {run.data.tags["robusweep.point"]: run for run in runs(root, "tags.\"robusweep.kind\" = 'point'")}


def sweep_run(root: Path) -> Run:
    (run,) = runs(root, "tags.\"robusweep.kind\" = 'sweep'")
    return run


def content(root: Path) -> list[Any]:
    """Every row that a sync can change."""
    with sqlite3.connect(root / "mlflow.db") as connection:
        tables = ["runs", "metrics", "latest_metrics", "params", "tags", "experiments", "experiment_tags"]
        tables += ["inputs", "input_tags", "datasets"]
        return [sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in tables]


def test_one_run_for_each_point_however_often_it_is_synced(root: Path) -> None:
    first = run_sync(root, records())
    for _ in range(2):
        assert run_sync(root, records()) == first
        assert len(point_runs(root)) == len(points_of(records())) == 10
        assert len(runs(root)) == 11


def test_a_second_sync_changes_not_one_row(root: Path) -> None:
    run_sync(root, records())
    before = content(root)
    run_sync(root, records())
    assert content(root) == before


def test_the_sweep_names_its_data_and_what_its_recipe_is_made_of(root: Path) -> None:
    recipe = "name: one\nseed: 3\nmodel: {base: mini}\nadversarial: [{kind: pgd}, {kind: vat}]\nticket: null\n"
    data = {"name": "rotten_tomatoes", "digest": "ab" * 32}
    trials = [one.model_copy(update={"data": data}) for one in records()]
    for _ in range(2):
        run_sync(root, trials, recipe_yaml=recipe)
    found = sweep_run(root)
    assert found.data.params == {"adversarial": "pgd, vat", "model": "mini", "seed": "3"}
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("rotten_tomatoes", "ab" * 18)
    before = content(root)
    run_sync(root, trials, recipe_yaml=recipe)
    assert content(root) == before


def test_what_is_told_of_mixing_is_written_once_also_onto_runs_that_lack_it(root: Path) -> None:
    (plain,) = records(1)
    more: dict[str, Any] = {"per_text": True, "chosen_weight": 0.4}
    more |= {"static": {"pwws": Rate.of(7, 20)}, "unaided": {"textfooler": Rate.of(45, 100)}}
    mixed = plain.model_copy(update={"points": [plain.points[0].model_copy(update=more), *plain.points[1:]]})
    run_sync(root, [plain])
    run_sync(root, [mixed])
    before = content(root)
    run_sync(root, [mixed])
    assert content(root) == before
    told = point_runs(root)["t000.00"].data
    assert (told.metrics["static.pwws"], told.metrics["unaided.textfooler"]) == (0.35, 0.45)
    assert (told.tags["robusweep.per_text"], told.tags["robusweep.chosen_weight"]) == ("true", "0.4")
    assert not any(name.startswith(("static", "unaided")) for name in point_runs(root)["t000.01"].data.metrics)


def test_points_are_nested_below_the_sweep_and_named_for_people(root: Path) -> None:
    run_sync(root, records())
    found = point_runs(root)
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {sweep_run(root).info.run_id}
    assert found["t001.02"].info.run_name == "t001 l=0.5 r=5"
    assert found["t001.02"].data.params == {"mix.weight": "0.5", "adapter.rank": "5"}


@pytest.mark.parametrize("n_first", [1, 2])
def test_pareto_tags_and_colours_follow_the_front_as_it_moves(root: Path, n_first: int) -> None:
    run_sync(root, records(n_first), finished=False)
    before = {p.id for p in points_of(records(n_first)) if p.pareto}
    run_sync(root, records())
    front = {p.id for p in points_of(records()) if p.pareto}
    assert before - front  # something left the front between the two
    found = point_runs(root)
    assert {i for i, run in found.items() if run.data.tags["robusweep.pareto"] == "true"} == front
    assert {i for i, run in found.items() if run.data.tags["mlflow.runColor"] == "#d62728"} == front
    ranks = {p.id: str(p.pareto_rank) for p in points_of(records())}
    assert {i: run.data.tags["robusweep.pareto_rank"] for i, run in found.items()} == ranks


def test_searching_the_tag_finds_exactly_the_front(root: Path) -> None:
    run_sync(root, records(), notices=["stand-in"])
    found = runs(root, "tags.\"robusweep.pareto\" = 'true'")
    assert {run.data.tags["robusweep.point"] for run in found} == {p.id for p in points_of(records()) if p.pareto}
    assert {run.data.tags["robusweep.stand_in"] for run in found} == {"stand-in"}


def test_a_metric_is_logged_again_only_when_it_changed(root: Path) -> None:
    run_sync(root, records(1), finished=False)
    run_sync(root, records(2), finished=False)
    run_sync(root, records())
    client = client_of(root)
    left = point_runs(root)["t000.01"]  # on the front of the first trial, not on the last front
    for name in ["clean_accuracy", "robust_accuracy_low", "accuracy_under_attack.textfooler", "train_seconds"]:
        assert len(client.get_metric_history(left.info.run_id, name)) == 1
    assert [m.value for m in client.get_metric_history(left.info.run_id, "pareto_rank")] == [1, 2]
    assert left.data.metrics["hypervolume_contribution_percent"] == 0


def test_only_points_of_the_front_have_a_contribution(root: Path) -> None:
    run_sync(root, records())
    found = runs(root, "metrics.hypervolume_contribution_percent > 0")
    assert {run.data.tags["robusweep.pareto"] for run in found} == {"true"}
    dominated = [r for r in point_runs(root).values() if r.data.tags["robusweep.pareto"] == "false"]
    assert dominated
    assert all("hypervolume_contribution_percent" not in run.data.metrics for run in dominated)


def test_one_objective_has_no_hypervolume(root: Path) -> None:
    trials = records(1)
    run_sync(root, trials, objectives=OBJECTIVES[:1], points=assess(trials, OBJECTIVES[:1]))
    assert all("hypervolume" not in name for run in runs(root) for name in run.data.metrics)


def test_the_sweep_runs_until_it_is_finished_and_again_when_it_continues(root: Path) -> None:
    run_sync(root, records(1), finished=False)
    assert sweep_run(root).info.status == "RUNNING"
    assert {run.info.status for run in point_runs(root).values()} == {"FINISHED"}
    run_sync(root, records(1))
    assert {run.info.status for run in runs(root)} == {"FINISHED"}
    run_sync(root, records(2), finished=False)
    assert sweep_run(root).info.status == "RUNNING"


def test_the_curve_of_the_sweep_has_one_value_for_each_point_and_never_falls(root: Path) -> None:
    later_first = [trial(1)]  # trials may end in any order
    for trials in (later_first, records(2), records(), records()):
        run_sync(root, trials)
    curve = client_of(root).get_metric_history(sweep_run(root).info.run_id, "hypervolume")
    assert sorted(m.step for m in curve) == list(range(1, 11))
    values = [m.value for m in sorted(curve, key=lambda m: m.step)]
    assert values == sorted(values)


def test_a_cost_has_a_curve_from_the_first_point_on_once_its_reference_point_is_declared(root: Path) -> None:
    cost = Objective(metric="train_seconds")
    for limit, n_values in ((None, 0), (5.0, 3), (5.0, 3), (9.0, 6)):
        objectives = [*OBJECTIVES, cost.model_copy(update={"reference_point": limit})]
        run_sync(root, records(1), objectives=objectives)
        curve = client_of(root).get_metric_history(sweep_run(root).info.run_id, "hypervolume")
        assert len(curve) == n_values


def test_failed_trials_are_counted_and_a_sweep_without_points_is_shown(root: Path) -> None:
    failed = trial(0).model_copy(update={"status": "failed", "points": []})
    assert run_sync(root, [failed]) == {}
    assert sweep_run(root).data.metrics == {"n_points": 0, "pareto_size": 0, "n_failed": 1}


class Killed(BaseException):
    """What a kill looks like to the code that it interrupts."""


@pytest.mark.parametrize("n_calls", [0, 3, 10])
@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated"])
def test_a_sync_that_was_cut_off_is_completed_without_duplicates(
    root: Path, monkeypatch: pytest.MonkeyPatch, method: str, n_calls: int
) -> None:
    def cut_off_after(real: Callable[..., Any]) -> Callable[..., Any]:
        calls = iter(range(n_calls))

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls, None) is None:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, cut_off_after(getattr(MlflowClient, method)))
        with pytest.raises(Killed):
            run_sync(root, records())
    run_sync(root, records())
    assert len(runs(root)) == 11
    assert {run.info.status for run in runs(root)} == {"FINISHED"}
    client = client_of(root)
    for run in point_runs(root).values():
        assert run.data.params
        assert len(client.get_metric_history(run.info.run_id, "clean_accuracy")) == 1
    assert len(client.get_metric_history(sweep_run(root).info.run_id, "hypervolume")) == 10


def test_a_run_that_no_point_owns_any_more_does_not_stay_running(root: Path) -> None:
    run_sync(root, records(1))
    client = client_of(root)
    tags = {"robusweep.sweep": SWEEP, "robusweep.key": f"{SWEEP}/gone"}
    orphan = client.create_run(sweep_run(root).info.experiment_id, tags=tags).info.run_id
    run_sync(root, records(1))
    assert client.get_run(orphan).info.status == "KILLED"


def test_artifacts_are_where_a_bare_mlflow_ui_serves_them(root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "front.png"
    picture.write_bytes(b"first")
    run_sync(root, records(), artifacts=[picture])
    run = sweep_run(root)
    assert run.info.artifact_uri.startswith((root / "mlruns").as_uri())
    client = client_of(root)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "front.png",
        "recipe.resolved.yaml",
        "trials",
    }
    record = Path(client.download_artifacts(run.info.run_id, "trials/t001.json")).read_text()
    assert TrialRecord.model_validate_json(record) == trial(1)
    picture.write_bytes(b"second")
    run_sync(root, records(), artifacts=[picture])
    assert Path(client.download_artifacts(run.info.run_id, "front.png")).read_bytes() == b"second"


def test_the_experiment_has_the_saved_views_and_the_layout(root: Path) -> None:
    run_sync(root, records())
    tags = client_of(root).get_experiment(sweep_run(root).info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert json.loads(tags["mlflow.sharedViewState.pareto"])["searchFilter"] == "tags.\"robusweep.kind\" = 'point'"


def test_two_recipes_in_one_database_do_not_mix(root: Path) -> None:
    run_sync(root, records())
    run_sync(root, records(1), name="two", sweep_id="other")
    assert len(runs(root, name="one")) == 11
    assert len(runs(root, name="two")) == 4
    assert set(experiments(root)) == {"one", "two"}
    assert experiments(root)["one"] == sweep_run(root).info.experiment_id


def test_two_sweeps_of_one_recipe_have_a_run_each(root: Path) -> None:
    assert not set(run_sync(root, records(1)).values()) & set(run_sync(root, records(1), sweep_id="b").values())
    assert len(runs(root, "tags.\"robusweep.kind\" = 'sweep'")) == 2


def test_a_deleted_experiment_is_brought_back(root: Path) -> None:
    run_sync(root, records(1))
    client_of(root).delete_experiment(sweep_run(root).info.experiment_id)
    run_sync(root, records(1))
    assert len(point_runs(root)) == 3


def test_the_process_is_left_as_it_was(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import mlflow

    def state() -> list[Any]:
        levels = [logging.getLogger(name).level for name in ("", "mlflow", "alembic", "urllib3", "sqlalchemy")]
        return [mlflow.get_tracking_uri(), mlflow.active_run(), levels, list(warnings.filters), dict(os.environ)]

    (root / "mlflow.db").unlink()  # making the tables is the noisiest part
    new = root / "new"
    before = state()
    run_sync(new, records(1))
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert (new / "mlflow.db").exists()


def test_a_server_that_is_down_is_an_error_of_seconds(root: Path) -> None:
    begin, environment = time.monotonic(), dict(os.environ)
    with pytest.raises(MissingError, match="http://127"):
        run_sync(root, records(1), tracking_uri="http://127.0.0.1:9")
    assert time.monotonic() - begin < 15
    assert dict(os.environ) == environment


def test_a_locked_database_is_an_error_of_seconds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SQLITE_SECONDS", 0.2)
    other = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(MissingError, match="locked"):
            run_sync(root, records(1))
    finally:
        other.close()
    assert len(run_sync(root, records(1))) == 3  # caught up later


def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(root: Path) -> None:
    (root / "mlflow.db").write_text("not a database, and longer than the header of one, to be sure of it" * 20)
    before = (root / "mlflow.db").read_bytes()
    with pytest.raises(MissingError, match="not a database"):
        run_sync(root, records(1))
    assert (root / "mlflow.db").read_bytes() == before


def test_a_second_writer_waits_and_then_gives_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.3)
    with opened(f"sqlite:///{root}/mlflow.db"), pytest.raises(MissingError, match="another process"):
        run_sync(root, records(1))
    assert len(run_sync(root, records(1))) == 3
