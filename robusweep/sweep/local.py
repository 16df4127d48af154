"""The local executor: spawned processes, each kept for many trials so that imports are paid once."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager

from robusweep.sweep.driver import Driver

Work = Callable[[str], str]
TICK_SECONDS = 0.2  # between two looks at whether the sweep is to end


def run_local(driver: Driver, work: Work, *, n_workers: int, between: Callable[[], None]) -> None:
    """Run the driver's trials until it has no more. A worker that dies takes its own trial along, not the sweep.

    ``between`` is called several times a second, and ends the sweep by an exception: trials that run are abandoned.

    ``work`` takes an assignment as JSON and gives a record as JSON; it is importable by name in a new process. Every
    worker is a pool of one process, so that it is known whose trial died with it.
    """
    with ExitStack() as stack:
        idle = [stack.enter_context(_worker()) for _ in range(n_workers)]
        live: dict[Future[str], tuple[ProcessPoolExecutor, int]] = {}
        while True:
            between()
            while idle and (assignment := driver.next_assignment()) is not None:
                worker, given = idle.pop(), assignment.model_dump_json()
                try:
                    future = _submitted(worker, work, given)
                except BrokenProcessPool:  # killed while it had nothing to do
                    worker = stack.enter_context(_worker())
                    future = _submitted(worker, work, given)
                live[future] = worker, assignment.number
                between()
            if not live:
                return
            for future in wait(live, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED).done:
                worker, number = live.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    driver.died(number, "the worker process died (killed, or out of memory)")
                    worker = stack.enter_context(_worker())
                elif error is not None:
                    driver.finished(number, None, f"{type(error).__name__}: {error}")
                else:
                    driver.finished(number, future.result())
                idle.append(worker)


def _submitted(worker: ProcessPoolExecutor, work: Work, given: str) -> Future[str]:
    """The first time, this starts the worker's process, which is deaf to Ctrl-C until it can ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return worker.submit(work, given)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _worker() -> Iterator[ProcessPoolExecutor]:
    """A pool of one process. When the sweep is interrupted, its trial is not waited for: it starts again later."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_die_with_parent, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # public as terminate_workers() from Python 3.14 on
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _die_with_parent(parent: int) -> None:
    """End this worker when the driver goes, also by SIGKILL: nobody would take its record. Ctrl-C is the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
