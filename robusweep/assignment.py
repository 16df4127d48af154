"""What a worker is handed: a recipe whose sources are settled, and the points to score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.errors import MissingError
from robusweep.examples import Dataset
from robusweep.mixing import AnyMixer
from robusweep.recipe import Recipe
from robusweep.record import StandIn
from robusweep.spec import Spec


class PointPlan(Spec):
    """One scored point of a trial: its searched values, and the mixer that they make."""

    id: str
    params: dict[str, Any]
    mix: AnyMixer | None = None


class Assignment(Spec):
    """All that a worker needs to run one trial; it crosses processes and machines as JSON."""

    name: str
    number: int
    recipe: Recipe
    params: dict[str, Any]  # searched values that training depends on
    points: list[PointPlan]
    stand_ins: list[StandIn] = []
    root: str  # folder that holds runs/ and cache/, seen by every worker

    @property
    def trial_dir(self) -> Path:
        return trial_dir(Path(self.root), self.name, self.number)


def trial_id(number: int) -> str:
    return f"t{number:03d}"


def trial_dir(root: Path, name: str, number: int) -> Path:
    return root / "runs" / name / "trials" / trial_id(number)


def single_assignment(recipe: Recipe, *, name: str, root: Path, stand_ins: list[StandIn]) -> Assignment:
    """A trial without a sweep: the recipe as it stands, one point."""
    points = [PointPlan(id=f"{trial_id(0)}.00", params={}, mix=recipe.mix)]
    return Assignment(
        name=name, number=0, recipe=recipe, params={}, points=points, stand_ins=stand_ins, root=str(root.resolve())
    )


def resolved(recipe: Recipe) -> tuple[Recipe, list[StandIn]]:
    """The recipe with stand-ins in place of what can't be had here, and what they replace.

    Raises ``MissingError`` when data, model or an attack's resources are missing and nothing may stand in.
    """
    data, data_stand_in = data_stage.resolve(recipe.data)
    model, model_stand_in = model_stage.resolve(recipe.model)
    for attack in [*recipe.attacks.known, *recipe.attacks.held_out]:
        if missing := attack.missing(recipe.attacks.constraints):
            raise MissingError(f"attacks: {attack.kind!r} lacks {missing[0]}", hint="; ".join(missing[1:]) or None)
    stand_ins = [stand_in for stand_in in (data_stand_in, model_stand_in) if stand_in]
    if not stand_ins:
        return recipe, []
    settled = {"data": data.model_dump(mode="json"), "model": model.model_dump(mode="json")}
    return Recipe.model_validate_json(json.dumps(recipe.model_dump(mode="json") | settled)), stand_ins


def check_data(recipe: Recipe) -> Dataset:
    """Read and split the data as a trial will, so that what is wrong with it shows before any training."""
    return data_stage.load(recipe.data, recipe.seed)
