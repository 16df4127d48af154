"""A worker with cached trainings and attacks that train and attack nothing, and the faults that a test asks it for.

Each training and each outcome is logged when it is complete, into a folder that no fault reaches; twice in the log is
work done twice.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from robusweep.assignment import Assignment, TrainedLeg
from robusweep.cache import Cache
from robusweep.record import (
    AdapterRecord,
    AttackOutcome,
    AttackScore,
    PointRecord,
    TrialRecord,
    robust_accuracy,
    write_text,
)
from robusweep.scores import Rate
from robusweep.spec import digest_of
from robusweep.storage import opened

N = 6
LOGS, STEP = "FAULTY_LOGS", "FAULTY_STEP"  # environment variables: the folder of logs, seconds of a step
FULL_IN_WORKER, FULL_IN_DRIVER = "full_in_worker", "full_in_driver"  # files there: from now on the disk is full
_fsync = os.fsync


def full_disk(flag: str) -> None:
    """While the flag is there, what is written to disk in this process loses its end, and ENOSPC is raised."""

    def fsync(descriptor: int) -> None:
        if (_logs() / flag).exists():
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 5))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _fsync(descriptor)

    os.fsync = fsync


def works(assignment_json: str) -> str:
    full_disk(FULL_IN_WORKER)
    assignment = Assignment.model_validate_json(assignment_json)
    path = assignment.trial_dir / "record.json"
    path.unlink(missing_ok=True)
    _log("begun", str(assignment.number))
    root = Path(assignment.root)
    cache = Cache(root / "cache", opened(assignment.recipe.resources.storage, root))
    rank, radius = assignment.params["adapter.rank"], assignment.params["adversarial.0.radius"]
    keys = {"clean": {"rank": rank}, "adversarial.0": {"rank": rank, "radius": radius}}
    adapters = [_trained(cache, view, key) for view, key in keys.items()]
    if assignment.leg == "train":
        made = [adapter.view for adapter in adapters if not adapter.cached]
        return TrainedLeg(seconds={}, made=made).model_dump_json()
    record = TrialRecord(
        name=assignment.name,
        number=assignment.number,
        status="complete",
        params=assignment.params,
        recipe=assignment.recipe.model_dump(mode="json"),
        recipe_digest=assignment.recipe.trial_digest(),
        protocol_hash="fake",
        adapters=adapters,
        points=[_attacked(cache, point.id, point.params, keys["adversarial.0"]) for point in assignment.points],
        seconds={"all": time.monotonic()},
    )
    write_text(path, record.model_dump_json(indent=2))
    _log("done", str(assignment.number))
    return record.model_dump_json()


def _trained(cache: Cache, view: str, key: dict[str, object]) -> AdapterRecord:
    digest = digest_of({"view": view, **key})

    def make(folder: Path) -> None:
        for i in range(10):
            _step()
            (folder / f"weights{i}").write_text(digest * 20)

    _, cached = cache.get_or_make("train", {"view": view, **key}, make)
    if not cached:
        _log("trained", digest)
    return AdapterRecord(
        view=view,
        method="standard",
        cache_key=digest,
        cached=cached,
        train_seconds=1.0,
        final_loss=0.5,
        n_steps=10,
        token_efficiency=1.0,
        precision="float32",
    )


def _attacked(cache: Cache, point: str, params: dict[str, object], key: dict[str, object]) -> PointRecord:
    weight, radius = float(str(params["mix.weight"])), float(str(key["radius"]))
    survived = round(N * min(1.0, 0.2 + 0.6 * weight * min(1.0, 2 * radius)))
    with cache.outcomes({**key, "weight": weight}) as log:
        for i in range(N):
            if str(i) in log.done:
                continue
            _step()
            status = "survived" if i < survived else "broken"
            log.append(
                AttackOutcome.model_validate(
                    {"example_id": str(i), "label": 0, "status": status, "n_queries": 9, "n_words": 5}
                )
            )
            _log("asked", f"{log.path.stem}:{i}")
        outcomes = [log.done[str(i)] for i in range(N)]
    return PointRecord(
        id=point,
        params=params,
        clean_accuracy=Rate.of(round(100 * (0.95 - 0.2 * weight * radius)), 100),
        robust_accuracy=robust_accuracy({"deepwordbug": outcomes}),
        attacks={"deepwordbug": AttackScore.of(outcomes)},
        model_digest="0",
    )


def _step() -> None:
    time.sleep(float(os.environ[STEP]))


def _logs() -> Path:
    return Path(os.environ[LOGS])


def _log(kind: str, what: str) -> None:
    with (_logs() / "events").open("a") as file:
        file.write(f"{kind} {what} {os.getpid()}\n")
