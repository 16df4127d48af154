"""One trial, top to bottom: data, model, ticket, one adapter for each view, mix, attack, score.

The order of the stages is written here and nowhere else. With rungs of epochs, adapters are mixed and attacked on the
way, and trained on while a point of the trial goes on. Where training and scoring take different resources, a trial
runs in two legs: the first ends with the adapters in the cache, the second is the whole trial, which finds them there.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.assignment import Assignment, TrainedLeg, trial_id
from robusweep.attacks import protocol_hash as hash_of_protocol
from robusweep.cache import Cache
from robusweep.environment import environment
from robusweep.examples import Dataset
from robusweep.front import metrics_of, with_stand_ins
from robusweep.ground import Ground
from robusweep.halfway import halfway, rungs_of
from robusweep.halving import Ladder
from robusweep.memory import keep_freed_memory, keep_to_share
from robusweep.mixing import TrainedSet
from robusweep.progress import Progress
from robusweep.pruned import check_prunable
from robusweep.recipe import Recipe
from robusweep.record import AdapterRecord, TicketRecord, TrialRecord, write_text
from robusweep.scoring import score
from robusweep.seeds import derive
from robusweep.spec import Spec
from robusweep.storage import opened
from robusweep.ticketed import with_ticket
from robusweep.trained import check_mixable, rotated, train_views, trained_set, views_of

TICKET = "ticket"  # among what a training leg has made, beside the names of views
Found = TypeVar("Found", AdapterRecord, TicketRecord)


def run_trial(assignment: Assignment) -> TrialRecord:
    """Train, mix, attack and score; write the record and return it. What goes wrong is recorded, then raised."""
    progress = _begun(assignment)
    with _failure_recorded(assignment, progress):
        outcome = {"status": "complete"} | _stages(assignment, progress)
    record = _write(assignment, progress, outcome)
    progress.say("done")
    return record


def run_training_leg(assignment: Assignment) -> TrainedLeg:
    """The trial as far as its adapters, which are in the cache then. What goes wrong is recorded, then raised."""
    progress, recipe = _begun(assignment), assignment.recipe
    with _failure_recorded(assignment, progress):
        ground, ticket = _ground(assignment, progress)
        check_mixable(assignment.points, ground)
        found: dict[str, AdapterRecord | TicketRecord] = {TICKET: ticket} if ticket else {}
        found |= train_views(views_of(recipe), ground, first=assignment.number)
    progress.leg("score", f"waits for {recipe.resources.taken('score')}")
    return TrainedLeg(seconds=progress.seconds, made=[name for name, one in found.items() if not one.cached])


def work(assignment_json: str) -> str:
    """What a sweep's worker does: an assignment as JSON in, a record as JSON out, also when the trial failed.

    Of a training leg that did not fail, a ``TrainedLeg``.
    """
    import torch

    assignment = Assignment.model_validate_json(assignment_json)
    torch.set_num_threads(max(1, int(assignment.recipe.resources.taken(assignment.leg).cpus)))
    keep_freed_memory()
    record = assignment.trial_dir / "record.json"
    record.unlink(missing_ok=True)  # of an earlier attempt
    run: Callable[[Assignment], Spec] = run_training_leg if assignment.leg == "train" else run_trial
    try:
        return run(assignment).model_dump_json()
    except Exception:
        if not record.is_file():  # nothing could be written: a full disk, say
            raise
        return record.read_text(encoding="utf-8")


def _begun(assignment: Assignment) -> Progress:
    progress = Progress(assignment.trial_dir, seconds=assignment.trained.seconds if assignment.trained else None)
    if assignment.leg is not None:
        progress.leg(assignment.leg, f"begins, with {assignment.recipe.resources.taken(assignment.leg)}")
    return progress


@contextmanager
def _failure_recorded(assignment: Assignment, progress: Progress) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        outcome = {"status": "failed", "error": traceback.format_exc(), "error_kind": type(e).__name__}
        _write(assignment, progress, outcome)
        progress.say(f"failed: {type(e).__name__}: {e}")
        raise


def _stages(assignment: Assignment, progress: Progress) -> dict[str, Any]:
    ground, ticket = _ground(assignment, progress)
    recipe, dataset = ground.recipe, ground.dataset
    check_mixable(assignment.points, ground)
    protocol = protocol_hash(recipe, dataset)
    found = {
        "protocol_hash": protocol,
        "data": _described(dataset),
        "ticket": ticket.model_dump(mode="json") if ticket else None,
    }
    so_far = _record(assignment, progress, {"status": "complete"} | found)
    plans = rotated(assignment.points, assignment.number)
    half = halfway(plans, ground, partial(_ladder_of, assignment, so_far), first=assignment.number)
    adapters, points = half.adapters, half.behind
    if half.plans:
        adapters |= train_views(half.views, ground, first=assignment.number, rungs=rungs_of(ground))
        adapters = {view: _as_found_first(view, one, assignment) for view, one in adapters.items()}
        records = [adapters[view] for view in views_of(recipe)]
        ladder = _ladder_of(assignment, so_far, records)
        points += score(half.plans, trained_set(records, ground), protocol, ground, ladder=ladder)
    return found | {
        "adapters": [adapters[view].model_dump(mode="json") for view in views_of(recipe)],
        "points": [point.model_dump(mode="json") for point in sorted(points, key=lambda p: p.id)],
    }


def _ground(assignment: Assignment, progress: Progress) -> tuple[Ground, TicketRecord | None]:
    """(what is trained and attacked on: data, model, and the ticket's units removed; what the ticket is)."""
    recipe = assignment.recipe
    with progress.stage("data"):
        dataset = data_stage.load(recipe.data, recipe.seed)
    with progress.stage("model"):
        device = model_stage.device_of(recipe.resources.device)
        keep_to_share(device, recipe.resources.taken(assignment.leg).gpus)
        base = model_stage.load(recipe.model, dataset.label_names, seed=derive(recipe.seed, "head"), device=device)
        bf16 = model_stage.uses_bf16(recipe.resources.precision, device)
        identity = model_stage.identity(recipe.model)
        if any(point.prune for point in assignment.points):
            check_prunable(base)
    root = Path(assignment.root)
    cache = Cache(root / "cache", opened(recipe.resources.storage, root))
    ground, ticket = _with_ticket(Ground(recipe, dataset, base, identity, bf16, cache, progress, assignment.trial_dir))
    return ground, ticket and _as_found_first(TICKET, ticket, assignment)


def _as_found_first(name: str, found: Found, assignment: Assignment) -> Found:
    """What the trial's training leg has made was not in the cache before the trial."""
    made = assignment.trained.made if assignment.trained else []
    return found.model_copy(update={"cached": False}) if name in made else found


def _with_ticket(ground: Ground) -> tuple[Ground, TicketRecord | None]:
    """(the ground with the ticket's units removed and the adapter's modules in place, what the ticket is)."""
    with ground.progress.stage("ticket"):
        ground, ticket = with_ticket(ground)
    network = ground.recipe.adapter.host(ground.base.network)
    return replace(ground, base=replace(ground.base, network=network)), ticket


def _ladder_of(assignment: Assignment, so_far: TrialRecord, adapters: Sequence[AdapterRecord]) -> Ladder | None:
    return _ladder(assignment, so_far.model_copy(update={"adapters": list(adapters)}))


def _ladder(assignment: Assignment, trained: TrialRecord) -> Ladder | None:
    """The rungs that this trial's points share with all others of the run; ``trained``: the trial without points."""
    search = assignment.recipe.search
    if search is None or search.early_stopping is None:
        return None
    return Ladder(
        search.early_stopping,
        folder=assignment.trial_dir.parent.parent / "rungs",
        trial=trial_id(assignment.number),
        protocol_hash=trained.protocol_hash,
        n_examples=assignment.recipe.attacks.n_examples,
        objectives=with_stand_ins(search.objectives, assignment.stand_ins),
        metrics=lambda point: metrics_of(trained, point),
    )


@dataclass(frozen=True)
class Trained:
    """What points are mixed from. ``ground`` has the ticket's units removed, and holds the adapter's modules."""

    ground: Ground
    adapters: TrainedSet


def trained_on(ground: Ground) -> Trained:
    """The recipe's adapters trained to the end, for those who score points without a trial."""
    ground, _ = _with_ticket(ground)
    adapters = train_views(views_of(ground.recipe), ground)
    return Trained(ground, trained_set(list(adapters.values()), ground))


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "digest": dataset.digest(),
        "label_names": list(dataset.label_names),
        "n": {split: len(getattr(dataset, split)) for split in ("train", "validation", "calibration", "test")},
        "notes": list(dataset.notes),
    }


def protocol_hash(recipe: Recipe, dataset: Dataset) -> str:
    return hash_of_protocol(
        recipe.attacks.constraints,
        [*recipe.attacks.known, *recipe.attacks.held_out],
        n_examples=recipe.attacks.n_examples,
        data_digest=dataset.digest(),
        calibrate=recipe.attacks.calibrate,
        seed=recipe.seed,
        replay=recipe.attacks.replay,
        adaptive=recipe.attacks.adaptive,
    )


def _write(assignment: Assignment, progress: Progress, outcome: dict[str, Any]) -> TrialRecord:
    """The trial's record, on disk before it is returned."""
    record = _record(assignment, progress, outcome)
    write_text(assignment.trial_dir / "record.json", record.model_dump_json(indent=2) + "\n")
    return record


def _record(assignment: Assignment, progress: Progress, outcome: dict[str, Any]) -> TrialRecord:
    recipe = assignment.recipe
    return TrialRecord.model_validate_json(
        json.dumps(
            {
                "name": assignment.name,
                "number": assignment.number,
                "params": assignment.params,
                "recipe": recipe.model_dump(mode="json"),
                "recipe_digest": recipe.trial_digest(),
                "stand_ins": [stand_in.model_dump(mode="json") for stand_in in assignment.stand_ins],
                "seconds": progress.seconds,
                "environment": environment(),
                **outcome,
            }
        )
    )
