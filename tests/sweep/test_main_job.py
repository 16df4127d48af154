"""The main job at a small size: the real command, the embedded encoder and corpus, real attacks, Ray, MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # MLflow's own warnings are not ours
ROOT = Path(__file__).parents[2]
SMALL = [
    "data.n_train=96",
    "data.n_validation=30",
    "data.n_calibration=20",
    "data.n_test=20",
    "attacks.n_examples=4",
    "train.n_epochs=2",
    "adversarial.0.n_epochs=1",
    "adversarial.1.n_epochs=2",
    "adversarial.2.n_epochs=2",
    "search.budget.n_trials=2",
]


def command(verb: str, *arguments: str, root: Path) -> Any:
    """The JSON that the command line prints."""
    done = subprocess.run(
        [sys.executable, "-m", "robusweep", verb, *arguments, "--json", "--root", str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "ROBUSWEEP_DATA": ""},
    )
    if "could not start Ray" in done.stderr:
        pytest.skip("Ray can't be started here")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1] if verb == "run" else done.stdout), done.stderr


def test_the_main_job_trains_one_adapter_for_each_view_and_mlflow_shows_every_point(tmp_path: Path) -> None:
    recipe = "recipes/agnews_mixup.yaml"
    done, said = command("run", recipe, *SMALL, root=tmp_path)
    assert "stand-in for data" in said
    assert "stand-in for model" in said
    assert done["n_trials"] == 2
    assert done["n_failed"] == 0
    assert done["n_points"] == 2 * 6  # five fixed weights and a rule, for each of two trained sets
    assert done["knee"]["id"] in {point["id"] for point in done["front"]}

    records = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("runs/*/trials/*/record.json"))]
    keys = {adapter["cache_key"] for record in records for adapter in record["adapters"]}
    assert len(keys) == 2 * (1 + 3)  # both ranks: a clean adapter and one for each of three views, whatever is mixed
    assert {path.parent.name for path in tmp_path.glob("cache/train/*/manifest.json")} == keys, "nothing else"
    assert [len(record["points"]) for record in records] == [6, 6]
    assert [point["per_text"] for point in records[0]["points"]] == [False] * 5 + [True]

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name.endswith("agnews_mixup")]
    nested = client.search_runs([experiment.experiment_id], "tags.\"robusweep.kind\" = 'point'", max_results=1000)
    assert len(nested) == done["n_points"]
    front = client.search_runs([experiment.experiment_id], "tags.\"robusweep.pareto\" = 'true'", max_results=1000)
    shown, _ = command("pareto", done["name"], root=tmp_path)
    assert {run.info.run_id for run in front} == {point["run_id"] for point in shown}
    assert {point["id"] for point in shown} == {point["id"] for point in done["front"]}
    assert {run.info.status for run in nested} == {"FINISHED"}

    again, said = command("run", recipe, *SMALL, root=tmp_path)
    assert "nothing is trained" in said
    assert again["front"] == done["front"]
