"""Runs of one sweep in MLflow, found again by key and written only where they differ from what is wanted."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robusweep.tracking.entries import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY, SYNCED, FILES = "robusweep.key", "robusweep.synced", "robusweep.artifacts"
N_DECIMALS = 6  # what a table can show, and finer than any rate's interval
N_DIGEST = 36  # characters of a data set's digest; MLflow takes no more
N_METRICS = 800  # in one batch; MLflow takes at most 1000 metrics, params and tags together


class Writer:
    """The runs of one sweep as they were when the writer was made, and the calls that change them.

    A metric is logged again only when its value is another, so an unchanged one keeps a history of one entry.
    A run that was cut off half written lacks the ``robusweep.synced`` tag and is completed.
    """

    def __init__(self, client: MlflowClient, experiment: str, sweep_id: str) -> None:
        self.client, self.experiment = client, experiment
        self.runs: dict[str, Run] = {run.data.tags[KEY]: run for run in self._found(sweep_id)}
        self.ended: set[str] = set()

    def _found(self, sweep_id: str) -> Iterator[Run]:
        query = f"tags.\"robusweep.sweep\" = '{sweep_id}'"
        page: str | None = None
        while True:
            runs = self.client.search_runs([self.experiment], query, max_results=1000, page_token=page)
            yield from runs
            page = runs.token
            if not page:
                return

    def created(self, key: str) -> float:
        """When the run of ``key`` was created, in ms since 1970; infinity when there was none."""
        return float(self.runs[key].info.start_time) if key in self.runs else float("inf")

    def run(self, entry: Entry) -> Run:
        """The run of this entry, made with its tags when there is none."""
        if entry.key not in self.runs:
            tags = entry.tags | {KEY: entry.key}
            self.runs[entry.key] = self.client.create_run(self.experiment, tags=tags, run_name=entry.name)
        return self.runs[entry.key]

    def write(self, entry: Entry, *, curve: Sequence[tuple[str, int, float]] = ()) -> str:
        """Bring one run to the entry's state; returns its id. ``curve``: (metric, step, value) to log besides."""
        from mlflow.entities import Metric, Param, RunTag

        run = self.run(entry)
        run_id: str = run.info.run_id
        digest, written = entry.digest(), run.data.tags.get(SYNCED)
        if written == digest:
            return run_id
        now = int(time.time() * 1000)
        wanted = {key: round(value, N_DECIMALS) for key, value in entry.metrics.items()}
        changed = [(key, value) for key, value in wanted.items() if run.data.metrics.get(key) != value]
        metrics = [Metric(key, round(value, N_DECIMALS), now, step) for key, step, value in curve]
        metrics += [Metric(key, value, now, entry.step) for key, value in changed]
        params = [Param(key, value) for key, value in entry.params.items()] if written is None else []
        tags = [RunTag(key, value) for key, value in entry.tags.items() if run.data.tags.get(key) != value]
        while len(metrics) > N_METRICS:
            self.client.log_batch(run_id, metrics=metrics[:N_METRICS])
            metrics = metrics[N_METRICS:]
        self.client.log_batch(run_id, metrics=metrics, params=params, tags=[*tags, RunTag(SYNCED, digest)])
        return run_id

    def upload(self, key: str, files: Mapping[str, bytes]) -> None:
        """Make ``files`` (path -> content) artifacts of the run, all again when any of them has changed."""
        digest = hashlib.sha256()
        for path, content in sorted(files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        run = self.runs[key]
        if run.data.tags.get(FILES) == digest.hexdigest():
            return
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                target = Path(folder, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            self.client.log_artifacts(run.info.run_id, folder)
        self.client.set_tag(run.info.run_id, FILES, digest.hexdigest())

    def read_data(self, key: str, name: str, digest: str) -> None:
        """Note on the run of ``key`` which data it is about, once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        run = self.runs[key]
        if any(known.dataset.digest == digest[:N_DIGEST] for known in run.inputs.dataset_inputs):
            return
        data = Dataset(name=name, digest=digest[:N_DIGEST], source_type="robusweep", source=json.dumps({"name": name}))
        used = [DatasetInput(data, tags=[InputTag("mlflow.data.context", "train, validation")])]
        self.client.log_inputs(run.info.run_id, used)

    def has_metric(self, key: str, metric: str) -> bool:
        return key in self.runs and metric in self.runs[key].data.metrics

    def finish(self, key: str, status: str = "FINISHED") -> None:
        """End the run of ``key``, if it has not ended."""
        if self.runs[key].info.status == "RUNNING" and key not in self.ended:
            self.client.set_terminated(self.runs[key].info.run_id, status=status)
            self.ended.add(key)

    def finish_all(self, key: str) -> None:
        """End the sweep's own run ``key``; a run still open after that belongs to no point any more."""
        self.finish(key)
        for other in self.runs:
            self.finish(other, status="KILLED")

    def reopen(self, key: str) -> None:
        """The run of ``key`` is running, also when it had ended."""
        if self.runs[key].info.status != "RUNNING":
            self.client.update_run(self.runs[key].info.run_id, status="RUNNING")
