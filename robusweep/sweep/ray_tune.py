"""The Ray executor: Ray Tune runs the trials, the driver's study says which.

Tune's own state is disposable: there is no ``Tuner.restore``; starting again is the same command, and the study goes
on.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from robusweep.errors import MissingError
from robusweep.resources import Leg, Resources, Taken
from robusweep.sweep.cluster import Cluster
from robusweep.sweep.driver import Driver
from robusweep.sweep.stop import Stop

Work = Callable[[str], str]
START_ATTEMPTS = 3  # on a busy machine Ray gives up on itself after 15 to 30 seconds; another try often does it
LEGS: dict[Leg, str] = {"train": "training", "score": "scoring"}
HEAD_SECONDS, HEAD_MISSED = 2.0, 5  # between two looks at Ray's head, and how many in a row say that it is gone
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are ours; Tune's CSV and TensorBoard files are not needed
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C raises here, as in any program
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run_ray(
    driver: Driver,
    work: Work,
    *,
    resources: Resources,
    cluster: Cluster,
    stop: Stop,
    between: Callable[[], None],
) -> None:
    """Run the driver's trials on Ray until it has no more.

    ``between`` is called several times a second, and ends the sweep by an exception: trials that run are abandoned.

    Raises ``MissingError`` when Ray can't be started or joined, with what to do instead, when it can't prepare the
    runtime environment, and when its head is lost.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    # Tune looks for result files that we told it not to write, and shows a traceback where we say that a worker died
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    _start(ray, cluster, stop)
    stop.listen()  # Ray has put its own answer to SIGTERM in place
    folder = driver.run_dir / ".ray"
    searcher = _searcher(driver)
    try:
        with _head_watched(ray, cluster.address, stop):
            _prepare(ray, cluster, stop)
            if not cluster.address:
                _check_fits(ray.cluster_resources(), resources)
            tune.Tuner(
                tune.with_resources(_trainable(work), partial(_asked_for, resources)),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    max_concurrent_trials=resources.max_concurrent,
                    reuse_actors=True,  # a worker's imports cost more than many a trial
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name=f"{int(time.time())}-{uuid.uuid4().hex[:6]}",
                    storage_path=str(folder.resolve()),
                    verbose=0,
                    callbacks=[_callback(between)],
                    failure_config=tune.FailureConfig(max_failures=0),  # the driver counts attempts
                ),
            ).fit()
    except _DriverFailed:
        raise searcher.error from None
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, cluster: Cluster, stop: Stop) -> None:
    options: dict[str, Any] = {"runtime_env": dict(cluster.runtime_env)} if cluster.runtime_env else {}
    if not cluster.address:
        options |= {"include_dashboard": False, "object_store_memory": 200 * 2**20}
    for attempt in range(START_ATTEMPTS):
        if stop.n_asked:
            raise KeyboardInterrupt
        try:
            ray.init(
                address=cluster.address, log_to_driver=False, logging_level="ERROR", configure_logging=False, **options
            )
            return
        except Exception as e:
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                where = f"join {cluster}" if cluster.address else "start Ray on this machine"
                raise MissingError(
                    f"could not {where} ({START_ATTEMPTS} attempts): {type(e).__name__}: {e}",
                    hint="use the local executor: add resources.executor=local to the command",
                ) from e
            time.sleep(2)


def _prepare(ray: Any, cluster: Cluster, stop: Stop) -> None:
    """Have the runtime environment made once, so that one that can't be had ends the sweep and not its trials."""
    if not cluster.runtime_env:
        return
    started = ray.remote(num_cpus=0)(_nothing).remote()
    while not ray.wait([started], timeout=1)[0]:  # packages may take minutes
        if stop.n_asked:
            raise KeyboardInterrupt
    try:
        ray.get(started)
    except ray.exceptions.RuntimeEnvSetupError as e:
        why = f"Ray can't prepare the runtime environment: {str(e).strip().splitlines()[-1]}"
        raise MissingError(why, hint="mend what --runtime-env names") from e


def _nothing() -> None:
    """Done by a worker that has started."""


@contextmanager
def _head_watched(ray: Any, address: str | None, stop: Stop) -> Iterator[None]:
    """Raise ``MissingError`` when Ray's head is gone, or the node that we run on.

    Without its head Ray would end this process a minute later, unreadably; without a node it would wait for ever.

    Processes that we started are ended then. Those of a cluster that was joined are its own.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    node = ray.get_runtime_context().get_node_id()
    over, lost, started = threading.Event(), threading.Event(), set[int]()
    gone = MissingError(
        f"Ray's head at {host}:{port}, or its node on this machine, is gone (killed, or out of memory)",
        hint="give the same command again: the sweep goes on",
    )

    def end_started() -> None:
        for process in started:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def watch() -> None:
        missed = 0
        while missed < HEAD_MISSED:
            if over.wait(HEAD_SECONDS):
                return
            missed = 0 if _listens(host.strip("[]"), int(port)) and _has(ray, node) else missed + 1
        started.update([] if address else _descendants(os.getpid()))
        lost.set()
        stop.n_asked += 2
        if over.wait(HEAD_SECONDS):
            return
        stop.interrupt()
        if not over.wait(HEAD_SECONDS):  # the main thread waits inside Ray for an answer, and hears no signal
            end_started()
            print(f"error: {gone}", file=sys.stderr, flush=True)
            os._exit(gone.exit_code)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except BaseException as e:
        if not lost.is_set():
            raise
        raise gone from e
    finally:
        over.set()
        end_started()


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=HEAD_SECONDS).close()
    except OSError:
        return False
    return True


def _has(ray: Any, node: str) -> bool:
    """Whether the head, which listens, holds the node for alive. It waits some seconds before it says no."""
    try:
        return any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())
    except Exception:  # the head went just now
        return False


def _descendants(process: int) -> set[int]:
    """Children of a process, theirs, and so on; none where there is no /proc."""
    found: set[int] = set()
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found |= {child} | _descendants(child)
    return found


def _check_fits(here: Mapping[str, float], resources: Resources) -> None:
    """Raise ``MissingError`` where a leg takes more than there is on this machine: Ray would wait for it for ever."""
    for leg, what in LEGS.items():
        taken, has = resources.taken(leg), Taken(here.get("CPU", 0.0), here.get("GPU", 0.0))
        if taken.cpus > has.cpus or taken.gpus > has.gpus:
            raise MissingError(
                f"{what} takes {taken}, and Ray finds {has} on this machine",
                hint="ask for less with resources.cpus and resources.gpus (or those of the stage, such as "
                "resources.train.gpus), or join a cluster that has more with --address",
            )


def _asked_for(resources: Resources, config: dict[str, Any]) -> Any:
    """What Ray is asked for, for what ``suggest`` has given: the leg's own CPUs and GPUs."""
    from ray.tune.execution.placement_groups import resource_dict_to_pg_factory

    taken = resources.taken(config["leg"])
    return resource_dict_to_pg_factory({"cpu": taken.cpus, "gpu": taken.gpus})


def _trainable(work: Work) -> Callable[[dict[str, Any]], None]:
    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        try:
            told = {"record": work(config["assignment"])}
        except Exception as e:  # no record could be written; a worker that is lost tells nothing
            told = {"raised": f"{type(e).__name__}: {e}"}
        tune.report(told)

    return trial


def _callback(between: Callable[[], None]) -> Any:
    """Tune's loop, which is not ours, calls ``between``. Built inside, because its base class needs Ray."""
    from ray.tune import Callback

    class Between(Callback):  # type: ignore[misc]  # Ray has no types here
        def on_step_begin(self, iteration: int, trials: list[Any], **_info: Any) -> None:  # noqa: ARG002
            between()

    return Between()


class _DriverFailed(BaseException):
    """The driver can't go on. No ``Exception``, so that it goes through Tune, which would go on without it."""


def _searcher(driver: Driver) -> Any:
    """Tune's view of the driver. Built inside, because its base class needs Ray."""
    from ray.tune.search import Searcher

    class StudySearch(Searcher):  # type: ignore[misc]  # Ray has no types here
        """Suggests what the driver hands out, and hands back what came of it. Keeps no state of its own."""

        def __init__(self) -> None:
            super().__init__(metric=None, mode=None)
            self._numbers: dict[str, int] = {}
            self.error: Exception | None = None

        def set_search_properties(self, *_args: Any, **_spec: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            with self._raising_through_tune():
                assignment = driver.next_assignment()
            if assignment is None:  # a trial that runs may be lost and handed out again
                return None if driver.n_live else str(Searcher.FINISHED)
            self._numbers[trial_id] = assignment.number
            return {"assignment": assignment.model_dump_json(), "leg": assignment.leg}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            number = self._numbers.pop(trial_id, None)
            if number is None:
                return
            with self._raising_through_tune():
                if error or not result:
                    driver.died(number, "the worker was lost (killed, out of memory, or its node went away)")
                else:
                    driver.finished(number, result.get("record"), result.get("raised"))

        @contextmanager
        def _raising_through_tune(self) -> Iterator[None]:
            """Tune takes an exception of a searcher for a trial's; the driver's own end the sweep."""
            try:
                yield
            except Exception as e:
                self.error = e
                raise _DriverFailed from e

        def save(self, checkpoint_path: str) -> None:
            with open(checkpoint_path, "w") as file:  # noqa: PTH123 - Tune asks for a file; the study is the state
                file.write("the study journal is the state\n")

        def restore(self, checkpoint_path: str) -> None:  # noqa: ARG002 - nothing was saved
            return None

    return StudySearch()
