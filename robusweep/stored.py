"""A sweep's worker with a store: its trial's folder is pushed when the trial ends, and rungs are shared meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from robusweep.assignment import Assignment
from robusweep.progress import Progress
from robusweep.storage import Store, fetch_trial, opened

EXCHANGE_SECONDS = 20.0  # between two looks at what other trials have left at the rungs


def work_stored(work: Callable[[str], str], assignment_json: str) -> str:
    """``work``, with the trial's folder in the store when the record is handed back, or owed to it."""
    assignment = Assignment.model_validate_json(assignment_json)
    store = opened(assignment.recipe.resources.storage, Path(assignment.root))
    assert store is not None
    store.notice = Progress(assignment.trial_dir).say
    with _rungs_shared(store, assignment):
        _fetch_rivals(store, assignment)
        record = work(assignment_json)
    store.keep(_key(assignment.trial_dir, assignment))
    store.keep_owed()
    return record


def _key(path: Path, assignment: Assignment) -> str:
    return path.relative_to(assignment.root).as_posix()


def _fetch_rivals(store: Store, assignment: Assignment) -> None:
    """What a race compares with: the finished trials of this run, without their adapters."""
    if assignment.recipe.attacks.race is None:
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
