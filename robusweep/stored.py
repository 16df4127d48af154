"""A sweep's worker with a store: its trial's folder is pushed when the trial ends, and rungs are shared meanwhile.

Of a trial in two legs, the log of the first goes to the machine that runs the second; the adapters go with the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from robusweep.assignment import Assignment
from robusweep.progress import Progress
from robusweep.record import write_text
from robusweep.storage import Store, fetch_trial, opened

EXCHANGE_SECONDS = 20.0  # between two looks at what other trials have left at the rungs


def work_stored(work: Callable[[str], str], assignment_json: str) -> str:
    """``work``, with the trial's folder in the store when the record is handed back, or owed to it."""
    assignment = Assignment.model_validate_json(assignment_json)
    store = opened(assignment.recipe.resources.storage, Path(assignment.root))
    assert store is not None
    store.notice = Progress(assignment.trial_dir).say
    log = assignment.trial_dir / "log.txt"
    if assignment.trained is not None:
        _fetch_log(store, log, assignment)
    with _rungs_shared(store, assignment):
        _fetch_rivals(store, assignment)
        told = work(assignment_json)
    goes_on = assignment.leg == "train" and not (assignment.trial_dir / "record.json").is_file()
    store.keep(_key(log if goes_on else assignment.trial_dir, assignment))
    store.keep_owed()
    return told


def _key(path: Path, assignment: Assignment) -> str:
    return path.relative_to(assignment.root).as_posix()


def _fetch_log(store: Store, log: Path, assignment: Assignment) -> None:
    """What the training leg said, unless it ran here."""
    if not log.is_file():
        said = store.attempt(partial(store.read, _key(log, assignment)))
        if said:
            write_text(log, said.decode("utf-8", "replace"))


def _fetch_rivals(store: Store, assignment: Assignment) -> None:
    """What a race compares with: the finished trials of this run, without their adapters."""
    if assignment.recipe.attacks.race is None or assignment.leg == "train":
        return
    trials = assignment.trial_dir.parent
    for name in store.attempt(partial(store.names, _key(trials, assignment))) or {}:
        folder = trials / name
        if folder != assignment.trial_dir and not (folder / "record.json").is_file():
            store.attempt(partial(fetch_trial, store, _key(folder, assignment), without="adapters"))


@contextmanager
def _rungs_shared(store: Store, assignment: Assignment) -> Iterator[None]:
    """Meanwhile, this trial's values at the rungs go to the store, and those of others come from it."""
    search = assignment.recipe.search
    if search is None or search.early_stopping is None:
        yield
        return
    folder, own = assignment.trial_dir.parent.parent / "rungs", f"{assignment.trial_dir.name}.jsonl"
    over = threading.Event()

    def exchange() -> None:
        for name in store.attempt(partial(store.names, _key(folder, assignment))) or {}:
            if name.endswith(".jsonl"):
                store.attempt(partial(store.grow, _key(folder / name, assignment)))
        if (folder / own).is_file():
            store.keep(_key(folder / own, assignment))

    def go_on() -> None:
        while not over.wait(EXCHANGE_SECONDS):
            exchange()

    exchange()
    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        exchange()
