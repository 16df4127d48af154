"""The search space: dotted recipe keys, each with the values it may take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from robusweep.errors import RecipeError
from robusweep.spec import Spec
from robusweep.yaml_source import Source, load_yaml, recipe_error

Value = str | int | float | bool | None
KINDS = ("choice", "grid", "uniform", "log_uniform", "integer")


class Dimension(Spec):
    """One searched key. Exactly one of the five kinds is given.

    ``choice``: one of the values, chosen by the sampler. ``grid``: every value in turn. ``uniform``,
    ``log_uniform``:
    a number in [low, high]. ``integer``: a whole number in [low, high], both included.
    ``when``: the dimension exists only where other keys have the given values. ``after: training``: the value needs
    no
    retraining, so one trained set is scored at all of them (a grid).
    """

    choice: list[Value] | None = Field(None, min_length=1)
    grid: list[Value] | None = Field(None, min_length=1)
    uniform: list[float] | None = Field(None, min_length=2, max_length=2)
    log_uniform: list[float] | None = Field(None, min_length=2, max_length=2)
    integer: list[int] | None = Field(None, min_length=2, max_length=2)
    when: dict[str, Value | list[Value]] = {}
    after: Literal["training"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Dimension:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"given {', '.join(given)}" if given else "none is given"
            raise ValueError(f"exactly one of {', '.join(KINDS)} is needed, {said}")
        if self.after and not self.grid:
            raise ValueError("after: training needs a grid, because every value is scored")
        values = self.choice or self.grid
        if values and len({repr(v) for v in values}) != len(values):
            raise ValueError("a value is listed twice")
        for name in ("uniform", "log_uniform", "integer"):
            bounds = getattr(self, name)
            if bounds and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}: the lower bound {bounds[0]} must be below the upper bound {bounds[1]}")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform: the lower bound must be above 0, given {self.log_uniform[0]}")
        return self

    def corners(self) -> list[Any]:
        """The values at which the recipe must be valid: all listed ones, or both bounds."""
        bounds = self.choice or self.grid or self.uniform or self.log_uniform or self.integer
        return list(bounds or [])

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether the ``when`` of this dimension is met."""
        return all(
            key in params and params[key] in (allowed if isinstance(allowed, list) else [allowed])
            for key, allowed in self.when.items()
        )


class SearchSpace(Spec):
    """Dotted recipe keys and their dimensions, in the order of the file."""

    dimensions: dict[str, Dimension] = {}

    @property
    def training(self) -> dict[str, Dimension]:
        """Dimensions whose values ask for training of their own."""
        return {k: d for k, d in self.dimensions.items() if d.after is None}

    @property
    def after_training(self) -> dict[str, Dimension]:
        return {k: d for k, d in self.dimensions.items() if d.after == "training"}

    def grid_points(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every combination of the after-training values for one trained set, in a fixed order."""
        live = {k: d for k, d in self.after_training.items() if d.holds(params)}
        return [dict(zip(live, values, strict=True)) for values in product(*(d.corners() for d in live.values()))]

    def training_grids(self) -> list[dict[str, Any]]:
        """Every combination of the training dimensions that are grids: they are walked in turn, not sampled."""
        grids = {k: d for k, d in self.training.items() if d.grid and not d.when}
        return [dict(zip(grids, values, strict=True)) for values in product(*(d.corners() for d in grids.values()))]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Assignments that together reach every bound and listed value, conditional dimensions with their
        condition."""
        for key, dimension in self.dimensions.items():
            wanted = {k: (v[0] if isinstance(v, list) else v) for k, v in dimension.when.items()}
            for value in dimension.corners():
                yield {**wanted, key: value}


def load_space(path: str | Path) -> tuple[SearchSpace, Source]:
    """Read a space file. Raises ``RecipeError`` with file, line and key."""
    source = load_yaml(path)
    dimensions: dict[str, Dimension] = {}
    mistakes: list[str] = []
    for key, block in source.tree.items():
        if not isinstance(block, dict):
            place = source.place((key,))
            mistakes.append(
                f"{place}: {key}: expected a block such as {{choice: [...]}}, given {block!r}{place.excerpt()}"
            )
            continue
        inner = Source(source.file, block, _below(source.keys, key), _below(source.values, key))
        try:
            dimensions[key] = Dimension.model_validate(block)
        except ValidationError as e:
            mistakes.append(_prefixed(recipe_error(inner, Dimension, e).message, inner.file, key))
    if mistakes:
        raise RecipeError("\n".join(mistakes))
    for key, dimension in dimensions.items():
        for other in dimension.when:
            if other not in dimensions:
                raise source.error((key, "when", other), "when: names a key that this space does not search")
            if dimensions[other].when:
                raise source.error((key, "when", other), "when: names a key that is itself conditional")
            if dimensions[other].after and not dimension.after:
                raise source.error((key, "when", other), "a key before training cannot depend on one after training")
    if any(isinstance(v, float) and not math.isfinite(v) for d in dimensions.values() for v in d.corners()):
        raise RecipeError(f"{source.file}: a bound is not a finite number")
    return SearchSpace(dimensions=dimensions), source


def _below(places: dict[Any, Any], key: str) -> dict[Any, Any]:
    return {path[1:]: place for path, place in places.items() if path[:1] == (key,)}


def _prefixed(message: str, file: str, key: str) -> str:
    """Put the dimension's key in front of each row that names a place in the file."""
    rows = []
    for row in message.splitlines():
        head, colon, rest = row.partition(": ")
        rows.append(f"{head}: {key}: {rest}" if colon and head.startswith(file) else row)
    return "\n".join(rows)
