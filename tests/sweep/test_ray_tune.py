"""The same sweep on Ray Tune. Slow: Ray takes half a minute to start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_work
import pytest

from robusweep.errors import MissingError
from robusweep.recipe import SweepPlan
from robusweep.sweep.cluster import Cluster
from robusweep.sweep.run import Finished, run_sweep
from robusweep.sweep.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours
Declare = Callable[..., SweepPlan]


@pytest.fixture
def on_ray() -> Iterator[Callable[..., Finished]]:
    """Run a sweep on Ray with a worker of the tests; skipped where Ray can't be started at all."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(fake_work)

    def run(plan: SweepPlan, root: Path, work: Callable[[str], str], cluster: Cluster | None = None) -> Finished:
        try:
            joined = cluster or Cluster()
            return run_sweep(plan, root=root, say=lambda _text: None, work=work, track=False, cluster=joined)
        except MissingError as e:
            pytest.skip(f"Ray can't be started here: {e.message}")

    yield run
    cloudpickle.unregister_pickle_by_value(fake_work)


def test_ray_runs_each_trial_once_and_a_worker_that_raises_fails_its_own_trial(
    on_ray: Callable[..., Finished], declare: Declare, project: Path
) -> None:
    plan = declare("resources.executor=ray")
    done = on_ray(plan, project, fake_work.fails_on_the_second)
    numbers = [json.loads(line)["number"] for line in (project / "calls.log").read_text().splitlines()]
    assert sorted(numbers) == [0, 1, 2, 3]
    assert {r.number: r.status for r in done.records} == {0: "complete", 1: "failed", 2: "complete", 3: "complete"}
    assert len(done.points) == 9
    assert Study(done.run_dir / "study.journal", plan).counts() == {"complete": 3, "failed": 1, "running": 0}
    assert not (done.run_dir / ".ray").exists()


def test_a_trial_whose_worker_dies_on_ray_starts_again_and_ends_after_three_attempts(
    on_ray: Callable[..., Finished], declare: Declare, project: Path
) -> None:
    two = "search.budget.n_trials=2"
    once = on_ray(declare(two, "resources.executor=ray"), project / "a", fake_work.dies_once_on_the_second)
    assert [record.status for record in once.records] == ["complete", "complete"]
    always = on_ray(declare(two, "resources.executor=ray"), project / "b", fake_work.dies_on_the_second)
    assert [record.status for record in always.records] == ["complete", "failed"]
    assert "in each of 3 attempts" in str(always.records[1].error)
    begun = [json.loads(line)["number"] for line in (project / "b/calls.log").read_text().splitlines()]
    assert sorted(begun) == [0, 1, 1, 1]


def test_a_full_disk_on_ray_ends_the_sweep_readably(
    declare: Declare, project: Path, on_ray: Callable[..., Finished]
) -> None:
    plan = declare("resources.executor=ray")
    with pytest.raises(MissingError, match="disk is full: t001"):
        run_sweep(plan, root=project, say=lambda _text: None, work=fake_work.finds_the_disk_full, track=False)
    (project / "room").touch()
    done = on_ray(plan, project, fake_work.finds_the_disk_full)
    assert [record.status for record in done.records] == ["complete"] * 4


def test_ray_and_the_local_executor_ask_for_the_same_first_trial(
    on_ray: Callable[..., Finished], declare: Declare, project: Path
) -> None:
    one = "search.budget.n_trials=1"
    on_ray_done = on_ray(declare(one, "resources.executor=ray"), project / "a", fake_work.works)
    local = run_sweep(declare(one), root=project / "b", say=lambda _text: None, work=fake_work.works, track=False)
    assert on_ray_done.records[0].params == local.records[0].params
    assert [p.id for p in on_ray_done.points] == [p.id for p in local.points]


def test_workers_get_the_runtime_environment_and_one_that_cant_be_had_ends_the_sweep(
    on_ray: Callable[..., Finished], declare: Declare, project: Path
) -> None:
    plan = declare("search.budget.n_trials=1", "resources.executor=ray")
    bad = Cluster(runtime_env={"working_dir": "file:///there/is/none.zip"})
    with pytest.raises(MissingError, match=r"can't prepare the runtime environment|could not start Ray"):
        run_sweep(plan, root=project, say=lambda _text: None, work=fake_work.needs_a_mark, track=False, cluster=bad)
    assert not (project / "calls.log").exists()
    marked = Cluster(runtime_env={"env_vars": {"FAKE_MARK": "seen"}})
    done = on_ray(plan, project, fake_work.needs_a_mark, cluster=marked)
    assert [record.status for record in done.records] == ["complete"]
