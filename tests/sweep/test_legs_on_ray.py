"""A real trial in two legs on Ray, with two GPUs that Ray only counts. Slow: Ray, and a process for each leg."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from robusweep.assignment import Assignment
from robusweep.errors import MissingError
from robusweep.progress import Progress
from robusweep.recipe import load_recipe
from robusweep.record import TrialRecord
from robusweep.sweep.driver import Driver
from robusweep.sweep.run import run_sweep
from robusweep.sweep.study import Study
from robusweep.trial import run_trial, work

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours

RECIPE = """\
# One trial on the tiny model, whose stages take different shares of a GPU.
version: 1
name: legs
data: {{kind: csv, path: {tiny}/data.csv, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}}
model: {{base: {tiny}/model, max_tokens: 32}}
adapter: {{kind: lora, rank: 2}}
train: {{kind: standard, n_epochs: 4, learning_rate: 2.0e-2, batch_size: 8}}
adversarial: [{{kind: pgd, radius: 0.1, n_steps: 1, n_epochs: 2, learning_rate: 2.0e-2, batch_size: 8}}]
mix: {{kind: adpmixup}}
attacks: {{known: [deepwordbug], n_examples: 8}}
search: {{space: space.yaml, budget: {{n_trials: 1}}}}
resources: {{gpus: 0.5, train: {{gpus: 1}}, precision: fp32}}
"""
SPACE = """\
# The mixing weight alone.
mix.weight: {grid: [0.0, 0.5, 1.0], after: training}
"""


def says_what_it_got(assignment_json: str) -> str:
    import ray

    assignment = Assignment.model_validate_json(assignment_json)
    Progress(assignment.trial_dir).say(f"got {json.dumps(ray.get_runtime_context().get_assigned_resources())}")
    return work(assignment_json)


@pytest.fixture
def project(tiny: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with the recipe; Ray takes the functions of this file along."""
    from ray import cloudpickle

    (tmp_path / "recipe.yaml").write_text(RECIPE.format(tiny=tiny))
    (tmp_path / "space.yaml").write_text(SPACE)
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    yield tmp_path
    cloudpickle.unregister_pickle_by_value(here)


def test_each_leg_gets_its_own_resources_and_the_record_is_that_of_a_trial_without_legs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "init", partial(ray.init, num_gpus=2))
    said: list[str] = []
    plan = load_recipe(project / "recipe.yaml")
    try:
        done = run_sweep(plan, root=project, say=said.append, work=says_what_it_got, track=False)
    except MissingError as e:
        pytest.skip(f"Ray can't be started here: {e.message}")
    log = (done.run_dir / "trials/t000/log.txt").read_text()
    assert [json.loads(line) for line in re.findall(r"got (.*)", log)] == [
        {"CPU": 1.0, "GPU": 1.0},
        {"CPU": 1.0, "GPU": 0.5},
    ]
    assert sum("t000 trained" in line for line in said) == 1
    assert Study(done.run_dir / "study.journal", plan).counts() == {"complete": 1, "failed": 0, "running": 0}

    driver = Driver(project / "elsewhere", plan, plan.recipe, [], name="legs")
    assignment = driver.next_assignment()
    assert assignment is not None
    whole = run_trial(assignment.model_copy(update={"leg": None}))
    (in_legs,) = done.records
    assert in_legs.n_trained == whole.n_trained == 2
    assert in_legs.seconds.keys() == whole.seconds.keys()
    assert in_legs.seconds["train clean"] > in_legs.adapters[0].train_seconds, "of both legs"
    assert comparable(in_legs) == comparable(whole)


def comparable(record: TrialRecord) -> dict[str, object]:
    """Without what two runs of the same may differ in."""
    found = record.model_dump(mode="json", exclude={"seconds": True})
    for adapter in found["adapters"]:
        del adapter["train_seconds"], adapter["peak_memory_bytes"]
    for point in found["points"]:
        del point["seconds"]
    return found
