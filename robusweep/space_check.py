"""Whether a search space, and a reference within it, fit their recipe."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from robusweep.errors import RecipeError, nearest
from robusweep.space import Dimension
from robusweep.yaml_source import KeyPath, Source, dotted, in_yaml, mistakes, split_key

if TYPE_CHECKING:
    from robusweep.recipe import SweepPlan

FIXED = ("name", "version", "seed", "data", "attacks", "search", "resources")  # what makes trials comparable
ENCODER = ("model", "model.base", "model.stand_in")  # every trial of a sweep loads the same one
AFTER_TRAINING = ("mix", "prune")  # these blocks and the keys in them need no retraining


def check_space(plan: SweepPlan, space_source: Source) -> None:
    """Every key exists in the recipe, sits where it may, and every corner is a valid recipe."""
    known = {*_dotted(plan.recipe.model_dump(mode="json")), *_dotted(plan.tree)}
    for key, dimension in plan.space.dimensions.items():
        if key not in known and not dimension.when:
            near = nearest(key, known)
            says = f"the recipe {plan.file} has no such key{f'; did you mean {near!r}?' if near else ''}"
            raise space_source.error((key,), says, of_key=True, hint=_where(key, plan.space.dimensions))
        if key.split(".")[0] in FIXED:
            says = "this key can't be searched: trials would no longer be comparable"
            raise space_source.error((key,), says, of_key=True)
        if key in ENCODER:
            says = "the encoder can't be searched: list keys below model, such as model.dropout"
            raise space_source.error((key,), says, of_key=True)
        needs_none = key.split(".")[0] in AFTER_TRAINING
        if dimension.after and not needs_none:
            says = f"only {' or '.join(f'{block} and keys below it' for block in AFTER_TRAINING)} need no retraining"
            raise space_source.error((key, "after"), says)
        if needs_none and not dimension.after:
            says = "needs no retraining: write it as {grid: [...], after: training}"
            raise space_source.error((key,), says, of_key=True)
    _check_blocks(plan, space_source)
    _check_corners(plan, space_source)


def _where(key: str, dimensions: Mapping[str, Dimension]) -> str | None:
    """How to search a key that only some of the named blocks around it have."""
    around = next((k for k, d in dimensions.items() if d.blocks and key.startswith(f"{k}.")), None)
    return around and f"if some blocks of {around} have it, say which: when: {{{around}: [...]}}"


def _check_blocks(plan: SweepPlan, space_source: Source) -> None:
    """Every named block makes a valid recipe; a mistake in a block is told where the space has it."""
    rows = []
    for key, dimension in plan.space.dimensions.items():
        for name in dimension.blocks:
            tree = plan.tree_with({**dimension.condition(), key: name})
            try:
                type(plan.recipe).model_validate(tree)
            except ValidationError as e:
                at, block = split_key(key), (key, "choice" if dimension.choice else "grid", name)
                for path, says, of_key in mistakes(Source(plan.file, tree), type(plan.recipe), e):
                    if path[: len(at)] == at:
                        rows.append(space_source.error((*block, *path[len(at) :]), says, of_key=of_key).message)
                    else:
                        says = f"gives no valid recipe: {dotted(path)}: {says}"
                        rows.append(space_source.error(block, says, of_key=True).message)
    if rows:
        raise RecipeError("\n".join(dict.fromkeys(rows)))


def _check_corners(plan: SweepPlan, space_source: Source) -> None:
    for corner in plan.space.corners():
        key = list(corner)[-1]
        try:
            plan.with_params(corner)
        except RecipeError as e:
            reason = e.message.split("\n")[0].removeprefix(f"{plan.file}: ")
            values = ", ".join(f"{name}={in_yaml(value)}" for name, value in corner.items())
            raise space_source.error((key,), f"{values} gives no valid recipe: {reason}") from None
        except KeyError as e:
            raise space_source.error((key,), f"{e.args[0]}: the recipe has nothing there", of_key=True) from None


def _dotted(value: Any, path: KeyPath = ()) -> list[str]:
    """Every dotted key of a tree, inner ones included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own = [dotted(path)] if path else []
    return own + [key for name, inner in items for key in _dotted(inner, (*path, name))]


def check_reference(plan: SweepPlan, source: Source) -> None:
    """Each key of ``search.reference`` is searched, and can have its value together with the others'."""
    reference = (plan.recipe.search.reference if plan.recipe.search else None) or {}
    for key, value in reference.items():
        at, dimension = ("search", "reference", key), plan.space.dimensions.get(key)
        if dimension is None:
            near = nearest(key, plan.space.dimensions)
            searched = ", ".join(plan.space.dimensions)
            hint = f"; did you mean {near!r}?" if near else ""
            raise source.error(at, f"is not searched{hint} (searched: {searched})", of_key=True)
        if not dimension.listed:
            raise source.error(at, "is searched in a range, which meets no value twice: name keys with listed values")
        if refusal := dimension.refusal(value):
            raise source.error(at, refusal)
        for other, allowed in dimension.when.items():
            if other in reference and reference[other] not in (allowed if isinstance(allowed, list) else [allowed]):
                raise source.error(at, f"is searched only where {other} is {in_yaml(allowed)}", of_key=True)


def check_rungs_of_epochs(plan: SweepPlan, source: Source) -> None:
    """Behind each rung of epochs, some trial has epochs left to save."""
    early = plan.recipe.search.early_stopping if plan.recipe.search else None
    if early is None or not early.epochs:
        return
    recipes = chain([plan.recipe], (plan.with_params(corner) for corner in plan.space.corners()))
    lengths = (method.n_epochs for recipe in recipes for method in recipe.views().values())
    longest, last = 0, early.epochs[-1]
    for longest in accumulate(lengths, max):
        if early.finished(last, longest) < longest:
            return
    at = ("search", "early_stopping", "epochs")
    raise source.error(at, f"no training is longer than {longest} epochs: nothing is left to save at {last:g}")
