"""What a worker is handed: a recipe whose sources are settled, and the points to score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.attacks import resolve as resolve_attack
from robusweep.attacks.resources import WORDNET
from robusweep.errors import MissingError, RecipeError
from robusweep.examples import Dataset
from robusweep.front import with_stand_ins
from robusweep.mixing import AnyMixer
from robusweep.pruning import AnyPruning
from robusweep.recipe import Recipe, Suite, SweepPlan
from robusweep.record import StandIn
from robusweep.resources import Leg
from robusweep.spec import Spec


class PointPlan(Spec):
    """One scored point of a trial: its searched values, and the mixer and pruning that they make."""

    id: str
    params: dict[str, Any]
    mix: AnyMixer | None = None
    prune: AnyPruning | None = None


class TrainedLeg(Spec):
    """What a trial's training leg hands to the leg that scores. The adapters themselves are in the cache.

    ``seconds``: by stage. ``made``: the views whose adapters were not in the cache before, and ``ticket`` likewise.
    """

    seconds: dict[str, float]
    made: list[str]


class Assignment(Spec):
    """All that a worker needs to run one trial; it crosses processes and machines as JSON.

    ``leg``: the part of the trial that this is; None is all of it. ``trained``: what the leg before came to.
    """

    name: str
    number: int
    recipe: Recipe
    params: dict[str, Any]  # searched values that training depends on
    points: list[PointPlan]
    stand_ins: list[StandIn] = []
    root: str  # folder that holds runs/ and cache/: seen by every worker, or with a store one on each machine
    leg: Leg | None = None
    trained: TrainedLeg | None = None

    @property
    def trial_dir(self) -> Path:
        return trial_dir(Path(self.root), self.name, self.number)


def trial_id(number: int) -> str:
    return f"t{number:03d}"


def trial_dir(root: Path, name: str, number: int) -> Path:
    return root / "runs" / name / "trials" / trial_id(number)


def single_assignment(recipe: Recipe, *, name: str, root: Path, stand_ins: list[StandIn]) -> Assignment:
    """A trial without a sweep: the recipe as it stands, one point."""
    points = [PointPlan(id=f"{trial_id(0)}.00", params={}, mix=recipe.mix, prune=recipe.prune)]
    return Assignment(
        name=name, number=0, recipe=recipe, params={}, points=points, stand_ins=stand_ins, root=str(root.resolve())
    )


def resolved(recipe: Recipe) -> tuple[Recipe, list[StandIn]]:
    """The recipe with stand-ins in place of what can't be had here, and what they replace.

    Raises ``MissingError`` when data, model or an attack's resources are missing and nothing may stand in.
    """
    data, data_stand_in = data_stage.resolve(recipe.data)
    model, model_stand_in = model_stage.resolve(recipe.model)
    if recipe.mix is not None and recipe.mix.kind == "emulated":
        model_stage.check_classifier(recipe.mix.large, what="mix.large")
    suite, attack_stand_ins = _resolved_suite(recipe.attacks)
    in_training = _checked_training(recipe, {attack["kind"] for attack in suite["held_out"]})
    found = [data_stand_in, model_stand_in, *attack_stand_ins, *in_training]
    stand_ins = [stand_in for i, stand_in in enumerate(found) if stand_in and stand_in not in found[:i]]
    if not stand_ins:
        return recipe, []
    settled = {"data": data.model_dump(mode="json"), "model": model.model_dump(mode="json"), "attacks": suite}
    if attack_stand_ins and recipe.search is not None:  # objectives that name an attack are read as its stand-in's
        objectives = with_stand_ins(recipe.search.objectives, stand_ins)
        settled["search"] = recipe.search.model_copy(update={"objectives": objectives}).model_dump(mode="json")
    return Recipe.model_validate_json(json.dumps(recipe.model_dump(mode="json") | settled)), stand_ins


def resolved_sweep(plan: SweepPlan) -> tuple[Recipe, list[StandIn]]:
    """``resolved`` for a sweep: the named blocks of its space may need resources and stand-ins of their own."""
    recipe, found = resolved(plan.recipe)
    for names in filter(None, plan.space.kinds_of_trials()):
        found = found + [s for s in resolved(plan.with_params(names))[1] if s not in found]
    return recipe, found


def _resolved_suite(suite: Suite) -> tuple[dict[str, Any], list[StandIn]]:
    """The suite with stand-ins for attacks that can't run here. Raises ``MissingError`` when an attack has none."""
    dumped, stand_ins = suite.model_dump(mode="json"), []
    taken: set[str] = {attack.kind for attack in [*suite.known, *suite.held_out]}
    for part in ("known", "held_out"):
        for i, attack in enumerate(getattr(suite, part)):
            used, stand_in = resolve_attack(attack, suite.constraints)
            if stand_in is not None:
                if used.kind in taken:
                    raise MissingError(
                        f"attacks.{part}.{i}: {attack.kind!r} can't run here, and {used.kind!r} in its place is listed",
                        hint="list one of them, or give the attack what it lacks (robusweep doctor)",
                    )
                taken.add(used.kind)
                dumped[part][i] = used.model_dump(mode="json")
                stand_ins.append(stand_in)
    return dumped, stand_ins


def _checked_training(recipe: Recipe, held_out: set[str]) -> list[StandIn]:
    """The stand-ins of attacks that make texts to train on. Methods go on to name what was asked.

    Raises ``MissingError`` when an attack or a lexicon is not here, ``RecipeError`` for a stand-in that is held out.
    """
    stand_ins = []
    for view, method in recipe.views().items():
        if method.needs_lexicon and (lacking := WORDNET.missing()):
            raise MissingError(f"{view}: {method.kind!r} lacks {lacking.split(': ')[0]}", hint=lacking)
        for kind in method.attacks_with:
            used, stand_in = resolve_attack(recipe.attack_named(kind), recipe.attacks.constraints)
            if used.kind in held_out:
                raise RecipeError(
                    f"{view}.attack: {kind!r} runs here as {used.kind!r}, which is held out: an attack is "
                    "used in training or held out, not both"
                )
            if stand_in is not None:
                stand_ins.append(stand_in)
    return stand_ins


def check_data(recipe: Recipe) -> Dataset:
    """Read and split the data as a trial will, so that what is wrong with it shows before any training."""
    return data_stage.load(recipe.data, recipe.seed)
