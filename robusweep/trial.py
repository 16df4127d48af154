"""One trial, top to bottom: data, model, one adapter for each view, mix, attack, score.

The order of the stages is written here and nowhere else.
"""

from __future__ import annotations

import copy
import json
import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.assignment import Assignment, PointPlan
from robusweep.attacks import Attack, protocol_hash, run_attack
from robusweep.cache import Cache
from robusweep.environment import environment
from robusweep.examples import Dataset, Example, Victim
from robusweep.model import TextModel
from robusweep.progress import Progress
from robusweep.recipe import Recipe
from robusweep.record import (
    AdapterRecord,
    AttackOutcome,
    AttackScore,
    PointRecord,
    TrialRecord,
    robust_accuracy,
    write_json,
    write_text,
)
from robusweep.scores import clean_accuracy, fit_temperature
from robusweep.seeds import derive
from robusweep.training import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

TRAIN_CODE = 1  # raise it when training the same block would give other weights: old cache entries are then not used
ATTACK_CODE = 1  # the same for attack outcomes

T = TypeVar("T")


@dataclass(frozen=True)
class Ground:
    """What every stage of one trial stands on."""

    recipe: Recipe
    dataset: Dataset
    base: TextModel
    base_identity: str
    bf16: bool
    cache: Cache
    progress: Progress
    folder: Path

    @property
    def hardware(self) -> dict[str, Any]:
        """The kind of arithmetic that numbers come from; part of every cache key."""
        return {"device": self.base.device.split(":")[0], "bf16": self.bf16}


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
        base = model_stage.load(recipe.model, dataset.label_names, seed=derive(recipe.seed, "head"), device=device)
        bf16 = model_stage.uses_bf16(recipe.resources.precision, device)
        identity = model_stage.identity(recipe.model)
    cache = Cache(Path(assignment.root) / "cache")
    ground = Ground(recipe, dataset, base, identity, bf16, cache, progress, assignment.trial_dir)

    views = {"clean": recipe.train} | {f"adversarial.{i}": m for i, m in enumerate(recipe.adversarial)}
    trained = {}
    for view in _rotated(list(views), assignment.number):
        with progress.stage(f"train {view}"):
            trained[view] = _train(view, views[view], ground)

    frozen = dict(base.network.named_parameters())
    members = [recipe.adapter.fold(frozen, _tensors(trained[view].cache_key, ground)) for view in views]
    points = []
    for point in _rotated(assignment.points, assignment.number):
        mixed = point.mix.mix(members) if point.mix else members[0]
        points.append(_score(point, mixed, ground))

    return {
        "protocol_hash": _protocol_hash(recipe, dataset),
        "data": _described(dataset),
        "adapters": [trained[view].model_dump(mode="json") for view in views],
        "points": [point.model_dump(mode="json") for point in sorted(points, key=lambda p: p.id)],
    }


def _rotated(items: Sequence[T], number: int) -> list[T]:
    """The items from a start that depends on the trial, so that trials which share work don't wait for each other."""
    start = number % len(items)
    return [*items[start:], *items[:start]]


def _train(view: str, method: TrainingMethod, ground: Ground) -> AdapterRecord:
    """The record of the adapter for this view; it is trained at most once for the same inputs, whoever asks."""
    recipe, base, progress = ground.recipe, ground.base, ground.progress
    texts = [example.text for example in ground.dataset.train]
    labels = [example.label for example in ground.dataset.train]
    key = {
        "code": TRAIN_CODE,
        "base": ground.base_identity,
        "max_tokens": base.max_tokens,
        "dropout": recipe.model.dropout,
        "labels": list(base.label_names),
        "train": [texts, labels],
        "adapter": recipe.adapter.model_dump(mode="json"),
        "method": method.model_dump(mode="json"),
        "seed": recipe.seed,
    }

    def make(folder: Path) -> None:
        from safetensors.torch import save_file

        from robusweep.training.loop import fit

        progress.say(f"{view}: training ({method.kind})")
        network = copy.deepcopy(base.network)
        head = model_stage.head_names(network)
        adapted = recipe.adapter.attach(network, head=head, seed=derive(recipe.seed, "adapter"))
        fitted = fit(
            adapted,
            method,
            base.tokens(texts),
            labels,
            pad_id=base.pad_id,
            seed=derive(recipe.seed, "train"),
            bf16=ground.bf16,
            on_epoch=lambda epoch, loss: progress.say(f"{view}: epoch {epoch + 1}/{method.n_epochs}, loss {loss:.4f}"),
        )
        save_file(recipe.adapter.extract(adapted), folder / "adapter.safetensors")
        write_json(folder / "fitted.json", vars(fitted))

    entry, cached = ground.cache.get_or_make("train", key | ground.hardware, make)
    fitted = json.loads((entry / "fitted.json").read_text(encoding="utf-8"))
    progress.say(f"{view}: {'from the cache' if cached else 'trained'} ({fitted['seconds']:.0f} s of training)")
    copied = ground.folder / "adapters" / f"{view}.safetensors"
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry / "adapter.safetensors", copied)
    return AdapterRecord(
        view=view,
        method=method.kind,
        cache_key=entry.name,
        cached=cached,
        train_seconds=fitted["seconds"],
        final_loss=fitted["final_loss"],
        n_steps=fitted["n_steps"],
        token_efficiency=fitted["token_efficiency"],
        precision="bf16" if ground.bf16 else "fp32",
    )


def _tensors(cache_key: str, ground: Ground) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(ground.cache.root / "train" / cache_key / "adapter.safetensors")
    return tensors


def _score(point: PointPlan, parameters: Mapping[str, Tensor], ground: Ground) -> PointRecord:
    """Clean accuracy on validation, a temperature from calibration, every attack on validation's first texts."""
    recipe, dataset, progress = ground.recipe, ground.dataset, ground.progress
    seconds: dict[str, float] = {}
    progress.say(f"{point.id}: scoring")
    with progress.stage("clean", seconds):
        exact = model_stage.victim(ground.base, parameters, precision="fp32")
        fast = model_stage.victim(ground.base, parameters, precision="bf16") if ground.bf16 else exact
        clean = clean_accuracy(exact(_texts(dataset.validation)), _labels(dataset.validation))
        temperature = None
        if recipe.attacks.calibrate:
            temperature = fit_temperature(exact(_texts(dataset.calibration)), _labels(dataset.calibration))
    digest = model_stage.network_digest(ground.base_identity, parameters, ground.base.max_tokens)
    attacked = dataset.validation[: recipe.attacks.n_examples]
    tempered = _tempered(fast, temperature), _tempered(exact, temperature)
    outcomes: dict[str, list[AttackOutcome]] = {}
    for attack in [*recipe.attacks.known, *recipe.attacks.held_out]:
        with progress.stage(f"attack {attack.kind}", seconds):
            key = {"code": ATTACK_CODE, "victim": digest, "temperature": temperature, "attack": attack.identity()}
            key |= {"protocol": recipe.attacks.constraints.model_dump(mode="json"), "seed": recipe.seed}
            outcomes[attack.kind] = _attack(attack, tempered, attacked, ground, key | ground.hardware)
        rows = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes[attack.kind])
        write_text(ground.folder / "attacks" / f"{point.id}.{attack.kind}.jsonl", rows)
    known: dict[str, list[AttackOutcome]] = {attack.kind: outcomes[attack.kind] for attack in recipe.attacks.known}
    record = PointRecord(
        id=point.id,
        params=point.params,
        clean_accuracy=clean,
        robust_accuracy=robust_accuracy(known),
        attacks={name: AttackScore.of(rows) for name, rows in known.items()},
        held_out={a.kind: AttackScore.of(outcomes[a.kind]) for a in recipe.attacks.held_out},
        temperature=temperature,
        model_digest=digest,
        seconds=seconds,
    )
    progress.say(f"{point.id}: clean {clean.value:.3f}, robust {record.robust_accuracy.value:.3f}")
    return record


def _attack(
    attack: Attack,
    victims: tuple[Victim, Victim],
    examples: Sequence[Example],
    ground: Ground,
    key: dict[str, Any],
) -> list[AttackOutcome]:
    """The attack's outcome on each example. Outcomes are kept one by one, so a killed attack goes on where it was."""
    fast, exact = victims
    with ground.cache.outcomes(key) as log:
        return run_attack(
            attack,
            victim=fast,
            exact=exact,
            examples=examples,
            protocol=ground.recipe.attacks.constraints,
            seed=ground.recipe.seed,
            done=dict(log.done),
            on_outcome=log.append,
            bf16=ground.bf16,
            device=ground.base.device,
        )


def _tempered(victim: Victim, temperature: float | None) -> Victim:
    """The same predictions with logits divided by the temperature."""
    if temperature is None:
        return victim
    scale = np.float32(1.0 / temperature)
    return lambda texts: victim(texts) * scale


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def _labels(examples: Sequence[Example]) -> list[int]:
    return [example.label for example in examples]


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "digest": dataset.digest(),
        "label_names": list(dataset.label_names),
        "n": {split: len(getattr(dataset, split)) for split in ("train", "validation", "calibration", "test")},
        "notes": list(dataset.notes),
    }


def _protocol_hash(recipe: Recipe, dataset: Dataset) -> str:
    return protocol_hash(
        recipe.attacks.constraints,
        [*recipe.attacks.known, *recipe.attacks.held_out],
        n_examples=recipe.attacks.n_examples,
        data_digest=dataset.digest(),
        calibrate=recipe.attacks.calibrate,
        seed=recipe.seed,
    )


def _write(assignment: Assignment, progress: Progress, outcome: dict[str, Any]) -> TrialRecord:
    """The trial's record, on disk before it is returned."""
    recipe = assignment.recipe
    record = TrialRecord.model_validate_json(
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
    write_text(assignment.trial_dir / "record.json", record.model_dump_json(indent=2) + "\n")
    return record
