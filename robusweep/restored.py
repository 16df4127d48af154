"""A scored point of a run, made again from the files of its trial: what was scored, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from robusweep import data as data_stage
from robusweep import defended
from robusweep import model as model_stage
from robusweep.assignment import trial_id
from robusweep.errors import EmptyFrontError, MissingError, StageError, UsageError
from robusweep.front import Objective, Point, assess
from robusweep.mixing import AnyMixer, Fixed, System, TrainedSet
from robusweep.model import TextModel
from robusweep.pick import pick
from robusweep.pruned import pruned, pruning_of
from robusweep.pruning import AnyPruning
from robusweep.recipe import Recipe
from robusweep.record import AdapterRecord, PointRecord, TrialRecord, read_trial, read_trials
from robusweep.seeds import derive
from robusweep.space import SearchSpace
from robusweep.sweep.status import read_points
from robusweep.ticketed import MASKS, cut
from robusweep.tickets import Masks
from robusweep.yaml_source import assign, split_key

if TYPE_CHECKING:
    from torch import Tensor

CHANGED = (
    "the base model, the ticket or an adapter has changed; or it was scored on another kind of processor, whose "
    "rounding differs: then give the command there"
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Restored:
    """A scored point with all that it stands on; ``system`` on ``base`` is what was scored.

    ``plain``: the base without the adapter's modules; where there is a ticket, without the units that its ``masks``
    drop. ``identity``: what the base is, as in caches.
    """

    trial: TrialRecord
    scored: PointRecord
    recipe: Recipe
    mixer: AnyMixer | None
    prune: AnyPruning | None
    masks: Masks | None
    plain: TextModel
    base: TextModel
    identity: str
    adapters: TrainedSet
    system: System


def restored(run_dir: Path, rule: str, *, say: Say) -> Restored:
    """The point that the rule picks.

    Raises ``UsageError`` and ``EmptyFrontError`` where there is none, or none that was trained to the end,
    ``MissingError`` for adapters, masks or a base that are gone, ``StageError`` for those that are not what was scored.
    """
    trial, scored, chosen = _recorded(run_dir, rule)
    if scored.stopped is not None and scored.stopped.in_training:
        raise UsageError(f"{scored.id} was stopped {scored.stopped.when}: there is no trained model of it")
    clean, robust = scored.clean_accuracy.value, scored.robust_accuracy.value
    say(f"{run_dir.name} {scored.id}: clean accuracy {clean:.3f}, robust accuracy {robust:.3f}")
    for doubt in [*(flag.name for flag in scored.flags), *(["stopped"] if scored.stopped else [])]:
        say(f"NOTICE {scored.id} carries the flag {doubt!r}; the model card says why")
    for bound in chosen.violated:
        say(f"NOTICE {scored.id} misses a constraint: {bound}")
    recipe = _recipe_of(trial)
    masks = _masks(run_dir, trial) if recipe.ticket is not None else None
    plain, identity = _base(recipe, trial, masks)
    base = replace(plain, network=recipe.adapter.host(plain.network))
    space = _space(run_dir)
    mixer, prune = _mixer(recipe, scored, space), pruning_of(recipe, scored.params, space)
    adapters = _trained_set(run_dir, recipe, trial, base)
    system = mixer.mix(adapters) if mixer else Fixed(adapters.folded[0])
    if prune is not None and isinstance(system, Fixed):
        texts = (example.text for example in data_stage.load(recipe.data, recipe.seed).train)
        system, _ = pruned(system, prune, base, texts)
    found = defended.digest(system, base, identity)
    if found != scored.model_digest:
        digests = f"digest {found[:16]}, recorded {scored.model_digest[:16]}"
        raise StageError(f"the weights of {scored.id} are not those that were scored ({digests})", hint=CHANGED)
    return Restored(trial, scored, recipe, mixer, prune, masks, plain, base, identity, adapters, system)


# --------------------------------------------------------------------------------------------- what was scored
def _recorded(run_dir: Path, rule: str) -> tuple[TrialRecord, PointRecord, Point]:
    """The trial and the point that the rule picks, as recorded and as ranked among the others."""
    named = run_dir / "trials" / rule.partition(".")[0] / "record.json"
    if named.is_file() and read_trial(named).status == "failed":
        raise UsageError(f"trial {named.parent.name} failed, so it has no point", hint=f"see {named}")
    chosen = pick(points_in(run_dir), rule)
    path = run_dir / "trials" / trial_id(chosen.trial) / "record.json"
    if not path.is_file():
        raise MissingError(f"the record of {chosen.id} is gone: {path}")
    trial = read_trial(path)
    scored = next((point for point in trial.points if point.id == chosen.id), None)
    if scored is None:
        raise MissingError(f"{path} holds no point {chosen.id}", hint=f"robusweep report {run_dir.name}")
    return trial, scored, chosen


def points_in(run_dir: Path) -> list[Point]:
    """The points of a sweep, or of a trial by itself, which leaves no front."""
    if (run_dir / "front.json").is_file():
        return read_points(run_dir)
    points = assess(read_trials(run_dir), [Objective(metric=name) for name in ("clean_accuracy", "robust_accuracy")])
    if not points:
        raise EmptyFrontError(f"{run_dir} has no completed point yet", hint=f"robusweep status {run_dir.name}")
    return points


def _recipe_of(trial: TrialRecord) -> Recipe:
    try:
        return Recipe.model_validate_json(json.dumps(trial.recipe))
    except ValidationError as e:
        raise MissingError(f"the record's recipe is none of this version: {e.errors()[0]['msg']}") from None


def _space(run_dir: Path) -> SearchSpace:
    """The search space, with the blocks behind the names in a point's params; empty without a sweep."""
    path = run_dir / "sweep.json"
    dimensions = json.loads(path.read_text(encoding="utf-8")).get("space", {}) if path.is_file() else {}
    return SearchSpace.model_validate_json(json.dumps({"dimensions": dimensions}))


def _mixer(recipe: Recipe, point: PointRecord, space: SearchSpace) -> AnyMixer | None:
    """The recipe's mixer with the values of this point."""
    tree: dict[str, Any] = {"mix": recipe.mix.model_dump(mode="json") if recipe.mix else None}
    for key, value in space.in_recipe(point.params).items():
        if split_key(key)[0] == "mix":
            tree = assign(tree, split_key(key), value)
    if point.chosen_weight is not None:
        tree["mix"] |= {"weighting": "fixed", "weight": point.chosen_weight}
    found: AnyMixer | None = TypeAdapter(AnyMixer | None).validate_python(tree["mix"])
    return found


# ---------------------------------------------------------------------------------------------------- weights
def _masks(run_dir: Path, trial: TrialRecord) -> Masks:
    """What the trial's ticket keeps."""
    folder = run_dir / "trials" / trial_id(trial.number)
    try:
        return Masks.read(folder / MASKS)
    except MissingError as e:
        raise MissingError(e.message, hint=_anew(folder)) from None


def _base(recipe: Recipe, trial: TrialRecord, masks: Masks | None) -> tuple[TextModel, str]:
    """(the base as the trial had it, what it is).

    It is on the same kind of device: an adapter may be folded with other rounding there.
    """
    device = "cpu" if recipe.resources.device == "cpu" else model_stage.device_of("auto")
    names = trial.data.get("label_names", [])
    whole = model_stage.load(recipe.model, names, seed=derive(recipe.seed, "head"), device=device)
    identity = model_stage.identity(recipe.model)
    if masks is None:
        return whole, identity
    try:
        return cut(whole, identity, masks)
    except StageError as e:
        raise MissingError(
            f"{recipe.model.base!r} is not what the ticket was drawn for: {e.message}",
            hint="put the base model back that the trial had, or give the run's command again",
        ) from None


def _trained_set(run_dir: Path, recipe: Recipe, trial: TrialRecord, base: TextModel) -> TrainedSet:
    frozen, adapter = dict(base.network.named_parameters()), recipe.adapter
    tensors = [_tensors(run_dir, trial, record) for record in trial.adapters]
    try:
        folded = [adapter.fold(frozen, t) for t in tensors]
    except RuntimeError as e:  # shapes of another ticket, say
        reason = str(e).partition("\n")[0]
        raise StageError(f"the adapters are not of the base that is there: {reason}", hint=CHANGED) from None
    return TrainedSet(
        names=[record.view for record in trial.adapters],
        base=frozen,
        folded=folded,
        members=[adapter.member(frozen, t) for t in tensors],
        ranges=[(record.entropy_range[0], record.entropy_range[1]) for record in trial.adapters],
    )


def _tensors(run_dir: Path, trial: TrialRecord, adapter: AdapterRecord) -> dict[str, Tensor]:
    """A trained adapter: the trial's own copy, or the cache's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = run_dir / "trials" / trial_id(trial.number)
    own = folder / "adapters" / f"{adapter.view}.safetensors"
    cached = run_dir.parent.parent / "cache" / "train" / adapter.cache_key / "adapter.safetensors"
    path = next((path for path in (own, cached) if path.is_file()), None)
    if path is None:
        raise MissingError(
            f"the trained adapter {adapter.view!r} is gone: neither {own} nor {cached} is there",
            hint=_anew(folder),
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as e:
        raise MissingError(f"{path} can't be read: {e}") from None
    return tensors


def _anew(folder: Path) -> str:
    return f"remove {folder} and give the run's command again: that trial is made anew"
