"""The search space: dotted recipe keys, each with the values it may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from robusweep.errors import RecipeError, nearest
from robusweep.spec import Spec
from robusweep.yaml_source import KeyPath, Source, load_yaml, recipe_error

Value = str | int | float | bool | None
Blocks = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")], dict[str, Any]]
Listed = Annotated[
    Annotated[list[Value], Tag("values")] | Annotated[Blocks, Tag("named blocks")],  # a blank: no block has that name
    Discriminator(lambda given: "named blocks" if isinstance(given, dict) else "values"),
]
KINDS = ("choice", "grid", "uniform", "log_uniform", "integer")


class Dimension(Spec):
    """One searched key. Exactly one of the five kinds is given.

    ``choice``: one of the values, chosen by the sampler. ``grid``: every value in turn. Both list values, or name
    whole blocks: ``{vanilla: {kind: standard}, pgd: {kind: pgd, radius: 0.3}}``; the searched value is then the name.
    ``uniform``, ``log_uniform``: a number in [low, high]. ``integer``: a whole number in [low, high], both included.
    ``when``: the dimension exists only where other keys have the given values. ``after: training``: the value needs no
    retraining, so one trained set is scored at all of them (a grid).
    """

    choice: Listed | None = Field(None, min_length=1)
    grid: Listed | None = Field(None, min_length=1)
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
        values = self.listed
        if values and len({(isinstance(v, bool), v) for v in values}) != len(values):
            raise ValueError("a value is listed twice")
        for name in ("uniform", "log_uniform", "integer"):
            bounds = getattr(self, name)
            if bounds and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}: the lower bound {bounds[0]} must be below the upper bound {bounds[1]}")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform: the lower bound must be above 0, given {self.log_uniform[0]}")
        return self

    @property
    def listed(self) -> list[Value]:
        """The values of a choice or grid, names where it lists blocks; none for a range."""
        return list(self.choice or self.grid or [])

    @property
    def blocks(self) -> Blocks:
        """The named blocks; none where plain values are listed."""
        listed = self.choice or self.grid
        return listed if isinstance(listed, dict) else {}

    def in_recipe(self, value: Value) -> Any:
        """What a searched value puts into the recipe: itself, or the block of that name."""
        return self.blocks[value] if self.blocks and isinstance(value, str) else value

    def refusal(self, value: Value) -> str | None:
        """Why this is none of the listed values; None when it is one."""
        if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.listed):
            return None
        near = nearest(value, map(str, self.listed)) if isinstance(value, str) else None
        hint = f"; did you mean {near!r}?" if near else ""
        return f"{value!r} is none of the values of that key{hint} ({', '.join(map(repr, self.listed))})"

    def corners(self) -> list[Any]:
        """The values at which the recipe must be valid: all listed ones, or both bounds."""
        return list(self.listed or self.uniform or self.log_uniform or self.integer or [])

    def condition(self) -> dict[str, Any]:
        """Values of other keys that meet the ``when`` of this dimension."""
        return {key: allowed[0] if isinstance(allowed, list) else allowed for key, allowed in self.when.items()}

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
        return _combined(self.after_training, params)

    def kinds_of_trials(self) -> list[dict[str, Any]]:
        """Every combination of the names of blocks that training depends on; one of nothing when there is none."""
        return _combined({k: d for k, d in self.training.items() if d.blocks}, {})

    def training_grids(self) -> list[dict[str, Any]]:
        """Every combination of the training dimensions that are grids: they are walked in turn, not sampled."""
        grids = {k: d for k, d in self.training.items() if d.grid and not d.when}
        return [dict(zip(grids, values, strict=True)) for values in product(*(d.corners() for d in grids.values()))]

    def n_points(self, n_trials: int) -> tuple[int, int]:
        """The fewest and the most points that one of the first so many trials may have.

        Grids before training are walked in turn; what a sampler chooses may be any of its values.
        """
        asked = {key for dimension in self.after_training.values() for key in dimension.when}
        chosen = _combined({k: d for k, d in self.training.items() if k in asked and not d.grid}, {})
        walked = self.training_grids()
        counts = {len(self.grid_points(grid | choice)) for grid in walked[:n_trials] for choice in chosen}
        return min(counts), max(counts)

    def in_recipe(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted recipe key -> what goes there: a block first, then keys inside it, whatever the order given."""
        ordered = sorted(params, key=lambda key: key.count("."))
        known = self.dimensions
        return {key: known[key].in_recipe(params[key]) if key in known else params[key] for key in ordered}

    def corners(self) -> Iterator[dict[str, Any]]:
        """Assignments that reach every bound and listed value, alone and then with those of each other dimension.

        A conditional dimension comes with its condition; pairs whose conditions exclude each other are left out.
        """
        for key, dimension in self.dimensions.items():
            for value in dimension.corners():
                yield {**dimension.condition(), key: value}
        for (one, first), (two, second) in combinations(self.dimensions.items(), 2):
            for pair in product(first.corners(), second.corners()):
                params = {**first.condition(), **second.condition(), **dict(zip((one, two), pair, strict=True))}
                if first.holds(params) and second.holds(params):
                    yield params


def _combined(dimensions: Mapping[str, Dimension], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of listed values, each dimension where its condition holds; the last one changes fastest."""
    points: list[dict[str, Any]] = [{}]
    for key, dimension in dimensions.items():
        values = [{key: value} for value in dimension.listed]
        points = [
            point | value for point in points for value in (values if dimension.holds({**params, **point}) else [{}])
        ]
    return points


def load_space(path: str | Path) -> tuple[SearchSpace, Source]:
    """Read a space file. Raises ``RecipeError`` with file, line and key."""
    source = load_yaml(path)
    dimensions: dict[str, Dimension] = {}
    mistakes: list[str] = []
    for key, block in source.tree.items():
        if not isinstance(block, dict):
            says = f"expected a block such as {{choice: [...]}}, given {block!r}"
            mistakes.append(source.error((key,), says).message)
            continue
        try:
            dimensions[key] = Dimension.model_validate(block)
        except ValidationError as e:
            mistakes.append(recipe_error(source, Dimension, e, below=(key,)).message)
    if mistakes:
        raise RecipeError("\n".join(mistakes))
    for key, dimension in dimensions.items():
        for other in dimension.when:
            _check_condition(source, (key, "when", other), dimensions)
    return SearchSpace(dimensions=dimensions), source


def _check_condition(source: Source, path: KeyPath, dimensions: Mapping[str, Dimension]) -> None:
    """The key that a dimension depends on is searched, free of conditions, decided earlier, and can take the values."""
    key, _, name = map(str, path)
    dimension, other = dimensions[key], dimensions.get(name)
    if other is None:
        raise source.error(path, "names a key that this space does not search")
    if list(dimensions).index(name) >= list(dimensions).index(key):
        raise source.error(path, f"names a key that is decided later: put {name} above {key}")
    if other.when:
        raise source.error(path, "names a key that is itself conditional")
    if other.after and not dimension.after:
        raise source.error(path, "a key before training cannot depend on one after training")
    if not other.listed:
        raise source.error(path, "names a key without listed values (choice or grid)")
    wanted = dimension.when[name]
    for value in wanted if isinstance(wanted, list) else [wanted]:
        if refusal := other.refusal(value):
            raise source.error(path, refusal)
