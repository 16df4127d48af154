"""One trial, top to bottom: data, model, ticket, one adapter for each view, mix, attack, score.

The order of the stages is written here and nowhere else.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.assignment import Assignment, trial_id
from robusweep.attacks import protocol_hash as hash_of_protocol
from robusweep.cache import Cache
from robusweep.environment import environment
from robusweep.examples import Dataset
from robusweep.front import metrics_of, with_stand_ins
from robusweep.ground import Ground
from robusweep.halving import Ladder
from robusweep.memory import keep_freed_memory, keep_to_share
from robusweep.mixing import TrainedSet
from robusweep.progress import Progress
from robusweep.pruned import check_prunable
from robusweep.recipe import Recipe
from robusweep.record import AdapterRecord, TicketRecord, TrialRecord, write_text
from robusweep.scoring import score
from robusweep.seeds import derive
from robusweep.ticketed import with_ticket
from robusweep.trained import tensors_of, train

T = TypeVar("T")


def run_trial(assignment: Assignment) -> TrialRecord:
    """Train, mix, attack and score; write the record and return it. What goes wrong is recorded, then raised."""
    progress = Progress(assignment.trial_dir)
    try:
        outcome = {"status": "complete"} | _stages(assignment, progress)
    except Exception as e:
        outcome = {"status": "failed", "error": traceback.format_exc(), "error_kind": type(e).__name__}
        _write(assignment, progress, outcome)
        progress.say(f"failed: {type(e).__name__}: {e}")
        raise
    record = _write(assignment, progress, outcome)
    progress.say("done")
    return record


def work(assignment_json: str) -> str:
    """What a sweep's worker does: an assignment as JSON in, a record as JSON out, also when the trial failed."""
    import torch

    assignment = Assignment.model_validate_json(assignment_json)
    torch.set_num_threads(max(1, int(assignment.recipe.resources.cpus)))
    keep_freed_memory()
    record = assignment.trial_dir / "record.json"
    record.unlink(missing_ok=True)  # of an earlier attempt
    try:
        return run_trial(assignment).model_dump_json()
    except Exception:
        if not record.is_file():  # nothing could be written: a full disk, say
            raise
        return record.read_text(encoding="utf-8")


def _stages(assignment: Assignment, progress: Progress) -> dict[str, Any]:
    recipe = assignment.recipe
    with progress.stage("data"):
        dataset = data_stage.load(recipe.data, recipe.seed)
    with progress.stage("model"):
        device = model_stage.device_of(recipe.resources.device)
        keep_to_share(device, recipe.resources.gpus)
        base = model_stage.load(recipe.model, dataset.label_names, seed=derive(recipe.seed, "head"), device=device)
        bf16 = model_stage.uses_bf16(recipe.resources.precision, device)
        identity = model_stage.identity(recipe.model)
        if any(point.prune for point in assignment.points):
            check_prunable(base)
    cache = Cache(Path(assignment.root) / "cache")
    ground = Ground(recipe, dataset, base, identity, bf16, cache, progress, assignment.trial_dir)
    trained = trained_on(ground, first=assignment.number)
    plans = _rotated(assignment.points, assignment.number)
    protocol = protocol_hash(recipe, dataset)
    found = {
        "protocol_hash": protocol,
        "data": _described(dataset),
        "ticket": trained.ticket.model_dump(mode="json") if trained.ticket else None,
        "adapters": [record.model_dump(mode="json") for record in trained.records],
    }
    ladder = _ladder(assignment, _record(assignment, progress, {"status": "complete"} | found))
    points = score(plans, trained.adapters, protocol, trained.ground, ladder=ladder)
    return found | {"points": [point.model_dump(mode="json") for point in sorted(points, key=lambda p: p.id)]}


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
    """What a trial scores. ``ground`` has the ticket's units removed, and holds the adapter's modules."""

    ground: Ground
    ticket: TicketRecord | None
    records: list[AdapterRecord]
    adapters: TrainedSet


def trained_on(ground: Ground, *, first: int = 0) -> Trained:
    """The ticket, and one adapter for each view of the recipe. ``first``: the place of the view to begin with."""
    recipe, progress = ground.recipe, ground.progress
    with progress.stage("ticket"):
        ground, ticket = with_ticket(ground)
    ground = replace(ground, base=replace(ground.base, network=recipe.adapter.host(ground.base.network)))
    views = {"clean": recipe.train} | {f"adversarial.{i}": method for i, method in enumerate(recipe.adversarial)}
    trained = {}
    for view in _rotated(list(views), first):
        with progress.stage(f"train {view}"):
            trained[view] = train(view, views[view], ground)
    records = [trained[view] for view in views]
    return Trained(ground, ticket, records, _trained_set(records, ground))


def _rotated(items: Sequence[T], number: int) -> list[T]:
    """The items from a start that depends on the trial, so that trials which share work don't wait for each other."""
    start = number % len(items)
    return [*items[start:], *items[:start]]


def _trained_set(trained: Sequence[AdapterRecord], ground: Ground) -> TrainedSet:
    adapter, base = ground.recipe.adapter, dict(ground.base.network.named_parameters())
    tensors = [tensors_of(record.cache_key, ground) for record in trained]
    return TrainedSet(
        names=[record.view for record in trained],
        base=base,
        folded=[adapter.fold(base, t) for t in tensors],
        members=[adapter.member(base, t) for t in tensors],
        ranges=[(record.entropy_range[0], record.entropy_range[1]) for record in trained],
    )


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
