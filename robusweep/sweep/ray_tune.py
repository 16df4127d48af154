"""The Ray executor: Ray Tune runs the trials, the driver's study says which.

Tune's own state is disposable: there is no ``Tuner.restore``; starting again is the same command, and the study goes
on.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from typing import Any

from robusweep.errors import MissingError
from robusweep.recipe import Resources
from robusweep.sweep.driver import Driver

Work = Callable[[str], str]
START_ATTEMPTS = 3  # on a busy machine Ray gives up on itself after 15 to 30 seconds; another try often does it
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are ours; Tune's CSV and TensorBoard files are not needed
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C raises here, as in any program
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run_ray(driver: Driver, work: Work, *, resources: Resources, address: str | None) -> None:
    """Run the driver's trials on Ray until it has no more. ``address`` joins a running cluster (``auto``,
    ``host:port``).

    Raises ``MissingError`` when Ray can't be started or joined, with what to do instead.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    # Tune looks for the result files that we told it not to write
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.CRITICAL)
    _start(ray, address)
    folder = driver.run_dir / ".ray"
    try:
        tune.Tuner(
            tune.with_resources(_trainable(work), {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(driver),
                num_samples=-1,
                max_concurrent_trials=resources.max_concurrent,
                reuse_actors=True,  # a worker's imports cost more than many a trial
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=f"{int(time.time())}-{uuid.uuid4().hex[:6]}",
                storage_path=str(folder.resolve()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),  # a lost node; a trial's own failure is a record
            ),
        ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, address: str | None) -> None:
    local = {} if address else {"include_dashboard": False, "object_store_memory": 200 * 2**20}
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False, **local)
            return
        except Exception as e:
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                where = f"join Ray at {address}" if address else "start Ray on this machine"
                raise MissingError(
                    f"could not {where} ({START_ATTEMPTS} attempts): {type(e).__name__}: {e}",
                    hint="use the local executor: add resources.executor=local to the command",
                ) from e
            time.sleep(2)


def _trainable(work: Work) -> Callable[[dict[str, Any]], None]:
    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        tune.report({"record": work(config["assignment"])})

    return trial


def _searcher(driver: Driver) -> Any:
    """Tune's view of the driver. Built inside, because its base class needs Ray."""
    from ray.tune.search import Searcher

    class StudySearch(Searcher):  # type: ignore[misc]  # Ray has no types here
        """Suggests what the driver hands out, and hands back what came of it. Keeps no state of its own."""

        def __init__(self) -> None:
            super().__init__(metric=None, mode=None)
            self._numbers: dict[str, int] = {}

        def set_search_properties(self, *_args: Any, **_spec: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> dict[str, Any] | str:
            assignment = driver.next_assignment()
            if assignment is None:
                return str(Searcher.FINISHED)
            self._numbers[trial_id] = assignment.number
            return {"assignment": assignment.model_dump_json()}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            number = self._numbers.pop(trial_id, None)
            if number is None:
                return
            record = None if error else (result or {}).get("record")
            driver.finished(number, record, "the worker was lost (killed, out of memory, or its node went away)")

        def save(self, checkpoint_path: str) -> None:
            with open(checkpoint_path, "w") as file:  # noqa: PTH123 - Tune asks for a file; the study is the state
                file.write("the study journal is the state\n")

        def restore(self, checkpoint_path: str) -> None:  # noqa: ARG002 - nothing was saved
            return None

    return StudySearch()
