"""Write a sweep into MLflow so that writing it twice changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from robusweep.front import Objective, Point, n_epochs_saved
from robusweep.hypervolume import missing
from robusweep.record import PointRecord, TrialRecord
from robusweep.tracking.entries import CONTRIBUTION, point_entry, sweep_entry
from robusweep.tracking.note import sweep_note
from robusweep.tracking.store import is_server, opened, store_uri
from robusweep.tracking.view import view_tags
from robusweep.tracking.volume import PointVolumes
from robusweep.tracking.writer import Writer

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFERENCE = "robusweep.hypervolume_reference"


def sync(
    root: Path,
    *,
    name: str,
    sweep_id: str,
    points: Sequence[Point],
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    artifacts: Sequence[Path],
    recipe_yaml: str,
    notices: Sequence[str],
    finished: bool,
    tracking_uri: str | None = None,
) -> dict[str, str]:
    """Bring MLflow to the state of the sweep; returns point id -> MLflow run id.

    One experiment ``robusweep/<name>``, in it one run for the sweep and below that one run for each point. Runs are
    found by their ``robusweep.key`` tag, so a sync that was cut off is completed by the next, without duplicates.
    ``artifacts`` are files for the page of the sweep, next to the resolved recipe and the trial records.

    Raises ``MissingError`` when MLflow can't be written. Nothing is lost then: the records on disk are the truth, so
    the caller goes on with the sweep and syncs later. A sync costs seconds (importing MLflow above all): call it now
    and then, from the one process that drives the sweep.
    """
    uri = store_uri(root, tracking_uri)
    files = _files(artifacts, records, recipe_yaml)
    with opened(uri) as client:
        folder = None if is_server(uri) else root.resolve() / "mlruns" / name
        experiment = _experiment(client, name, folder, view_tags(points, objectives, records))
        writer = Writer(client, experiment, sweep_id)
        sweep = sweep_entry(name, sweep_id, notices, yaml.safe_load(recipe_yaml))
        parent = writer.run(sweep)
        if data := next((record.data for record in records if record.data), None):
            writer.read_data(sweep_id, data["name"], data["digest"])
        volume = _volume(writer, sweep_id, points, objectives)
        scored = {point.id: point for record in records for point in record.points}
        run_ids = _write_points(writer, sweep_id, points, scored, volume, notices)
        writer.upload(sweep_id, files)

        curve: list[tuple[str, int, float]] = []
        tags = {"mlflow.note.content": sweep_note(experiment, points, run_ids, notices)}
        if volume is not None:
            tags[REFERENCE] = volume.stored()
            same = parent.data.tags.get(REFERENCE) == volume.stored()  # under another one all values are others
            n_known = int(parent.data.metrics.get("n_points", 0)) if same else 0
            curve = [("hypervolume", i, v) for i, v in enumerate(volume.history(), start=1) if i > n_known]
        counts: dict[str, float] = {"n_points": len(points), "pareto_size": sum(p.pareto for p in points)}
        counts["n_failed"] = sum(record.status == "failed" for record in records)
        if stopped := [point.stopped for point in points if point.stopped is not None]:
            counts["n_stopped"] = len(stopped)
            counts["n_queries_saved"] = sum(one.n_queries_saved or 0 for one in stopped)
            counts["n_epochs_saved"] = n_epochs_saved(points)
        writer.write(replace(sweep, metrics=counts, tags=sweep.tags | tags, step=len(points)), curve=curve)

        if finished:
            writer.finish_all(sweep_id)
        else:
            writer.reopen(sweep_id)
    return run_ids


def _experiment(client: MlflowClient, name: str, folder: Path | None, views: dict[str, str]) -> str:
    """The id of the recipe's experiment, made or brought back when it is not there."""
    full = f"robusweep/{name}"
    tags = {"mlflow.experimentKind": "custom_model_development", "robusweep.recipe": name} | views
    found = client.get_experiment_by_name(full)
    if found is None:
        place = None if folder is None else folder.as_uri()
        return str(client.create_experiment(full, artifact_location=place, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def _volume(
    writer: Writer, sweep_id: str, points: Sequence[Point], objectives: Sequence[Objective]
) -> PointVolumes | None:
    """None where there is no volume to speak of. The points are in the order in which MLflow first saw them, so what
    earlier syncs wrote as the sweep's history stays its beginning."""
    if len(objectives) < 2 or not points or missing(objectives):
        return None
    seen = sorted(points, key=lambda point: writer.created(f"{sweep_id}/{point.id}"))
    return PointVolumes(objectives, seen)


def _write_points(
    writer: Writer,
    sweep_id: str,
    points: Sequence[Point],
    scored: Mapping[str, PointRecord],
    volume: PointVolumes | None,
    notices: Sequence[str],
) -> dict[str, str]:
    """One run for each point, ended at once; point id -> run id."""
    parent = writer.runs[sweep_id].info.run_id
    lost = volume.contributions() if volume is not None else {}
    run_ids: dict[str, str] = {}
    for point in points:
        entry = point_entry(point, sweep_id=sweep_id, parent=parent, notices=notices, scored=scored.get(point.id))
        # A metric can't be taken back: a point that has left the front says 0 from then on.
        if point.id in lost and (point.pareto or writer.has_metric(entry.key, CONTRIBUTION)):
            entry.metrics[CONTRIBUTION] = lost[point.id]
        run_ids[point.id] = writer.write(entry)
        writer.finish(entry.key)
    return run_ids


def _files(artifacts: Sequence[Path], records: Sequence[TrialRecord], recipe_yaml: str) -> dict[str, bytes]:
    """Path in MLflow -> content."""
    files = {path.name: path.read_bytes() for path in artifacts}
    files |= {f"trials/t{r.number:03d}.json": r.model_dump_json(indent=2).encode() for r in records}
    return files | {"recipe.resolved.yaml": recipe_yaml.encode()}
