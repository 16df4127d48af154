"""The local executor: a pool of spawned processes, each kept for many trials so that imports are paid once."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from robusweep.assignment import Assignment
from robusweep.sweep.driver import Driver

Work = Callable[[str], str]


def run_local(driver: Driver, work: Work, *, n_workers: int) -> None:
    """Run the driver's trials until it has no more. A worker that dies fails its trial, not the sweep.

    ``work`` takes an assignment as JSON and gives a record as JSON; it is importable by name in a new process.
    """
    waiting: list[Assignment] = []
    while True:
        first = waiting.pop(0) if waiting else driver.next_assignment()
        if first is None:
            return
        waiting = _until_broken(driver, work, [first, *waiting], n_workers)


def _until_broken(driver: Driver, work: Work, first: list[Assignment], n_workers: int) -> list[Assignment]:
    """Run trials in one pool until all are done or the pool breaks; the assignments that then still wait.

    A broken pool does not say whose worker died: with one trial in flight it was that one; with several they are
    run
    again one at a time, so that only the guilty one fails.
    """
    live: dict[Future[str], Assignment] = {}
    alone = len(first) > 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1 if alone else n_workers, mp_context=context, initializer=_die_with_parent, initargs=(os.getpid(),)
    ) as pool:
        queue = list(first)
        while True:
            while len(live) < (1 if alone else n_workers):
                assignment = queue.pop(0) if queue else None if alone else driver.next_assignment()
                if assignment is None:
                    break
                live[pool.submit(work, assignment.model_dump_json())] = assignment
            if not live:
                return []
            done, _ = wait(live, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    in_flight = list(live.values())
                    if len(in_flight) > 1:
                        return [*in_flight, *queue]
                    driver.finished(in_flight[0].number, None, "the worker process died (killed, or out of memory)")
                    return queue
                assignment = live.pop(future)
                error = future.exception()
                if error is not None:
                    driver.finished(assignment.number, None, f"{type(error).__name__}: {error}")
                else:
                    driver.finished(assignment.number, future.result())


def _die_with_parent(parent: int) -> None:
    """End this worker when the driver goes, also by SIGKILL: nobody would take its record. Ctrl-C is the
    driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
