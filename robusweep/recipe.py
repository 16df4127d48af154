"""The recipe: what one trial does, and how a sweep searches over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from robusweep.adapters import AnyAdapter
from robusweep.attacks import Attack, AttackEntry, attack_kinds
from robusweep.attacks.protocol import ChangedProtocol, Protocol, named_protocol
from robusweep.data import AnyData
from robusweep.errors import nearest
from robusweep.front import COSTS, Constraint, Objective, Order
from robusweep.halving import EarlyStopping, Halving
from robusweep.hypervolume import Saturation, missing
from robusweep.mixing import AnyMixer
from robusweep.model import BaseEncoder
from robusweep.pruning import AnyPruning
from robusweep.race import Race
from robusweep.resources import Resources
from robusweep.space import SearchSpace, Value, load_space
from robusweep.space_check import check_reference, check_rungs_of_epochs, check_space
from robusweep.spec import Spec, digest_of
from robusweep.tickets import AnyTicket
from robusweep.training import AnyTraining
from robusweep.yaml_source import (
    BlockError,
    KeyPath,
    Source,
    assign,
    load_yaml,
    override,
    recipe_error,
    similar_files,
    split_key,
)

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"  # also the name of a folder below runs/
RACED = ("clean_accuracy", "robust_accuracy")  # what a race compares points in


class Suite(Spec):
    """The attacks, and the examples they run on.

    ``known`` attacks score and select; ``held_out`` attacks are reported apart and select nothing. ``n_examples`` of
    the validation split are attacked, the same ones for every trial. ``calibrate`` fits a temperature on the
    calibration split first, so that over-confidence alone does not look robust. ``replay``: texts found against one
    point of a trial are tried on its others first. ``adaptive``: where mixing weights depend on the text, what breaks a
    single adapter or their even mean is tried, too, and counts. ``static``: texts made against the clean adapter are
    also given to every point and reported apart. ``race``: points that are dominated are attacked no further (not
    together with ``replay``, under which outcomes depend on the order of the points).
    """

    protocol: str | ChangedProtocol = "standard_v1"
    known: list[AttackEntry] = Field(min_length=1)
    held_out: list[AttackEntry] = []
    n_examples: int = Field(100, ge=1)
    calibrate: bool = True
    replay: bool = False
    adaptive: bool = True
    static: bool = False
    race: Race | None = None

    @model_validator(mode="after")
    def _known_names(self) -> Suite:
        try:
            _ = self.constraints
        except ValueError as e:
            raise BlockError("protocol", str(e)) from None
        if self.replay and self.race is not None:
            raise BlockError("race", "a race needs outcomes that no other point has touched: leave out replay, or race")
        kinds = [attack.kind for attack in [*self.known, *self.held_out]]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        for i, attack in enumerate(self.known):
            if attack.goal == "keep_label":
                raise BlockError(
                    f"known.{i}",
                    f"{attack.kind!r} leaves predictions as they are, so it can't score: list it as held out",
                )
        if twice:
            raise ValueError(f"{', '.join(twice)}: listed more than once; an attack is known or held out, not both")
        return self

    @property
    def constraints(self) -> Protocol:
        return named_protocol(self.protocol) if isinstance(self.protocol, str) else self.protocol.protocol()


class Tpe(Spec):
    """Multi-objective tree-structured Parzen estimator: the default."""

    kind: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(10, ge=1)


class Nsga2(Spec):
    """NSGA-II. With fewer trials than a few populations it is random search."""

    kind: Literal["nsga2"] = "nsga2"
    population_size: int = Field(20, ge=2)


class Nsga3(Spec):
    """NSGA-III, for three objectives and more."""

    kind: Literal["nsga3"] = "nsga3"
    population_size: int = Field(20, ge=2)


class RandomSearch(Spec):
    """Independent draws: the control that every sampler has to beat."""

    kind: Literal["random"] = "random"


class Qmc(Spec):
    """Quasi-Monte Carlo (scrambled Sobol): covers the space evenly."""

    kind: Literal["qmc"] = "qmc"


class Gp(Spec):
    """Gaussian process with expected hypervolume improvement: few, expensive trials."""

    kind: Literal["gp"] = "gp"
    n_startup_trials: int = Field(8, ge=1)


AnySampler = Annotated[Tpe | Nsga2 | Nsga3 | RandomSearch | Qmc | Gp, Field(discriminator="kind")]


class Budget(Spec):
    """When a sweep ends: after this many trials (a trial trains once and yields all its after-training points)."""

    n_trials: int = Field(20, ge=1)


class Search(Spec):
    """How a sweep chooses its trials. ``space`` is a YAML file, relative to the recipe.

    ``reference`` names the points that reports compare every other point with, by searched keys and their values:
    ``{train: vanilla}``. ``order`` says which point ``--pick best`` takes: the knee, or with ``lexicographic`` the one
    that is left when each objective in turn keeps the points within its ``tolerance`` of the best one left.
    """

    space: str
    sampler: AnySampler = Tpe()
    objectives: list[Objective] = Field(
        [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")], min_length=1, max_length=4
    )
    constraints: list[Constraint] = []
    order: Order = "pareto"
    budget: Budget = Budget()
    stop: Saturation | None = None
    early_stopping: EarlyStopping = None
    reference: dict[str, Value] | None = Field(None, min_length=1)


def _check_race(search: Search) -> None:
    """A point that loses a race may be the only one within a bound that the race does not look at."""
    others = [o.metric for o in search.objectives if o.metric not in RACED or o.goal != "max"]
    bounds = [str(c) for c in search.constraints if c.metric not in RACED or c.at_least is None]
    if others:
        raise BlockError(
            "attacks.race", f"a race compares {' and '.join(RACED)}; the objectives also hold {', '.join(others)}"
        )
    if bounds:
        raise BlockError(
            "attacks.race", f"a race compares {' and '.join(RACED)}; the constraints also hold {', '.join(bounds)}"
        )


def _check_bounds_at_rungs(search: Search) -> None:
    """What dominates a point that meets the bounds meets them, too; else the only points within them may be stopped."""
    ends = [(o.metric, o.goal) for o in search.objectives]
    others = [c for c in search.constraints if (c.metric, "max" if c.at_most is None else "min") not in ends]
    if others:
        raise BlockError(
            "search.early_stopping",
            f"compares objectives alone, and {' and '.join(map(str, others))} bounds none of them: list "
            f"{others[0].metric} as an objective, or leave out early_stopping",
        )


def _check_objectives(search: Search, *, allowed: list[str]) -> None:
    """Metrics exist, none is given twice, and reference points can be reached."""
    wanted = [(f"search.objectives.{i}", o.metric) for i, o in enumerate(search.objectives)]
    wanted += [(f"search.constraints.{i}", c.metric) for i, c in enumerate(search.constraints)]
    for key, metric in wanted:
        if metric not in allowed:
            near = nearest(metric, allowed)
            raise BlockError(
                f"{key}.metric",
                f"unknown metric {metric!r}{f'; did you mean {near!r}?' if near else ''} "
                f"(allowed: {', '.join(allowed)})",
            )
    for i, objective in enumerate(search.objectives):
        key = f"search.objectives.{i}"
        if objective.metric in [other.metric for other in search.objectives[:i]]:
            raise BlockError(f"{key}.metric", f"{objective.metric!r} is an objective already")
        if objective.reference_point is not None:
            _check_reference_point(f"{key}.reference_point", objective, objective.reference_point)
    for i, constraint in enumerate(search.constraints):
        if str(constraint) in [str(other) for other in search.constraints[:i]]:
            raise BlockError(f"search.constraints.{i}", f"{constraint} is listed already")
    if search.stop is not None and (why := missing(search.objectives)):
        raise BlockError("search.stop", f"needs the hypervolume, and there is none: {why}")


def _check_reference_point(key: str, objective: Objective, value: float) -> None:
    if objective.metric in COSTS and objective.goal == "max":
        raise BlockError(key, f"{objective.metric} is maximised, and a cost has no largest value: leave it out")
    if objective.metric in COSTS and value <= 0:
        raise BlockError(key, f"{value:g} is no cost that anything could be below (allowed: above 0)")
    if objective.metric not in COSTS and not 0 <= value <= 1:
        raise BlockError(key, f"{value:g} is no rate (allowed: 0 to 1)")
    if objective.metric not in COSTS and value == (1 if objective.goal == "max" else 0):
        raise BlockError(key, f"no {objective.metric} is better than {value:g}, so nothing would count")


class Recipe(Spec):
    """One trial in full, and the search over it. Each block's class lists its keys and defaults."""

    version: Literal[1]
    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0)
    data: AnyData
    model: BaseEncoder = BaseEncoder()
    adapter: AnyAdapter
    ticket: AnyTicket | None = None
    train: AnyTraining
    adversarial: list[AnyTraining] = []
    mix: AnyMixer | None = None
    prune: AnyPruning | None = None
    attacks: Suite
    search: Search | None = None
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _together(self) -> Recipe:
        if self.mix is not None and not self.adversarial:
            raise BlockError("mix", "there is nothing to mix: list at least one method under 'adversarial'")
        if self.mix is None and self.adversarial:
            raise BlockError("adversarial", "'mix' is needed to say how the adapters are combined")
        if self.mix is not None:
            refused = self.mix.refusal(self.adapter.spaces, len(self.adversarial))
            if refused:
                raise BlockError(f"mix.{refused[0]}", refused[1])
        if self.prune is not None:
            self._check_pruning(self.prune)
        for view, method in self.views().items():
            self._check_method(view, method)
            for kind in method.attacks_with:
                self._check_attack(f"{view}.attack", kind)
        if self.attacks.n_examples > self.data.n_validation:
            raise BlockError(
                "attacks.n_examples",
                f"{self.attacks.n_examples} is more than data.n_validation ({self.data.n_validation})",
            )
        if self.search is not None and self.attacks.race is not None:
            _check_race(self.search)
        if self.search is not None and self.search.early_stopping is not None:
            self._check_early_stopping(self.search.early_stopping)
            _check_bounds_at_rungs(self.search)
        if self.search is not None:
            suite = [f"accuracy_under_attack.{attack.kind}" for attack in self.attacks.known]
            _check_objectives(self.search, allowed=["clean_accuracy", "robust_accuracy", *suite, *COSTS])
        return self

    def views(self) -> dict[str, AnyTraining]:
        """Every training block by the key that holds it."""
        return {"train": self.train} | {f"adversarial.{i}": method for i, method in enumerate(self.adversarial)}

    def _check_early_stopping(self, halving: Halving) -> None:
        if self.attacks.replay:
            raise BlockError(
                "search.early_stopping",
                "compares points by outcomes that no other point has touched: leave out early_stopping, or "
                "attacks.replay",
            )
        last = max(halving.rungs, default=0)
        if last >= max(1, self.attacks.n_examples):
            raise BlockError(
                "search.early_stopping.rungs",
                f"{last:g} is not less than attacks.n_examples ({self.attacks.n_examples}): nothing is left to save",
            )
        if halving.epochs and self.resources.in_legs:
            raise BlockError(
                "search.early_stopping.epochs",
                "training and attacks take turns there, so they can't take different resources: leave out epochs, or "
                "resources.train and resources.score",
            )

    def _check_pruning(self, prune: AnyPruning) -> None:
        """One plain network is pruned, by texts that it was trained on."""
        if self.mix is not None and not self.mix.one_network:
            how = getattr(self.mix, "weighting", "more than one network")
            raise BlockError(
                "prune",
                f"one network is pruned, and mix: {{kind: {self.mix.kind}}} makes none ({how}) (allowed: mix with one "
                "set of weights, such as weighting: fixed or kind: uniform, or no mix)",
            )
        if not self.adapter.folds:
            raise BlockError(
                "prune",
                f"a plain network is pruned, and {self.adapter.kind!r} is no change of its weights (allowed: lora, "
                "full, ia3, oft)",
            )
        if prune.n_texts > self.data.n_train:
            raise BlockError("prune.n_texts", f"{prune.n_texts} is more than data.n_train ({self.data.n_train})")

    def _check_method(self, view: str, method: AnyTraining) -> None:
        """What a training method needs of the model and the adapter."""
        if method.needs_adapter and not self.adapter.can_be_off:
            raise BlockError(
                f"{view}.{method.needs_adapter}",
                f"compares with the network without its adapter, and {self.adapter.kind!r} can't be switched off "
                "(allowed: every other adapter)",
            )
        if method.needs_masks and self.model.attention == "flash_attention_2":
            raise BlockError(
                f"{view}.kind",
                f"{method.kind!r} hides pairs of tokens, and model.attention: flash_attention_2 takes no masks "
                "(allowed: auto, sdpa, eager)",
            )
        if method.needs_dropout and self.model.dropout == 0 and getattr(self.adapter, "dropout", 0) == 0:
            raise BlockError(
                f"{view}.kind",
                f"{method.kind!r} compares passes with different dropout, and model.dropout is 0.0: set it above 0, "
                "or to null for the model's own",
            )

    def _check_attack(self, key: str, kind: str) -> None:
        """Whether this attack may make texts to train on."""
        known = attack_kinds()
        if kind not in known:
            near = nearest(kind, known)
            raise BlockError(
                key,
                f"unknown attack {kind!r}{f'; did you mean {near!r}?' if near else ''} (allowed: {', '.join(known)})",
            )
        if known[kind].goal == "keep_label":
            raise BlockError(key, f"{kind!r} leaves predictions as they are, so there is nothing to train on")
        if kind in [attack.kind for attack in self.attacks.held_out]:
            raise BlockError(
                key, f"{kind!r} is listed under attacks.held_out: an attack is used in training or held out, not both"
            )

    def attack_named(self, kind: str) -> Attack:
        """An attack for training: as ``attacks.known`` has it, or with its defaults."""
        listed: dict[str, Attack] = {attack.kind: attack for attack in self.attacks.known}
        return listed.get(kind) or attack_kinds()[kind].model_validate({"kind": kind})

    def trial_digest(self) -> str:
        """What decides a trial's numbers: everything but the name, the search and where it runs."""
        blocks = self.model_dump(mode="json", exclude={"name", "search", "resources"})
        return digest_of(blocks | {"precision": self.resources.precision})


@dataclass(frozen=True)
class SweepPlan:
    """A recipe with its search space, checked together, and the YAML tree that parameters are applied to.

    ``paths``: the paths of the recipe as it says them; in ``recipe`` and ``tree`` they are absolute.
    """

    recipe: Recipe
    space: SearchSpace
    tree: dict[str, Any]
    file: str
    paths: Mapping[KeyPath, str] = field(default_factory=dict)

    def with_params(self, params: Mapping[str, Any]) -> Recipe:
        """The recipe with searched values put in. Raises ``RecipeError`` when they make no valid recipe."""
        tree = self.tree_with(params)
        try:
            return Recipe.model_validate(tree)
        except ValidationError as e:
            raise recipe_error(Source(self.file, tree), Recipe, e) from None

    def tree_with(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The YAML tree with searched values put in, and the blocks of those that are names."""
        tree = self.tree
        for key, value in self.space.in_recipe(params).items():
            tree = assign(tree, split_key(key), value)
        return tree

    def sweep_digest(self) -> str:
        """What makes a sweep the same: what decides a trial, space, objectives and constraints; not the budget."""
        return digest_of(self.identity())

    def identity(self) -> dict[str, Any]:
        """The blocks behind ``sweep_digest``, to show what differs. Paths are as said: a project may move."""
        recipe = self.recipe.model_dump(mode="json", exclude={"search", "resources"})
        for key, said in self.paths.items():
            recipe = assign(recipe, key, said)
        search = self.recipe.search
        constraints = [str(c) for c in search.constraints] if search else []
        return recipe | {
            "precision": self.recipe.resources.precision,
            "objectives": [{"metric": o.metric, "goal": o.goal} for o in search.objectives] if search else [],
            **({"constraints": constraints} if constraints else {}),  # runs that have none are what they were
            "space": self.space.model_dump(mode="json", exclude_none=True)["dimensions"],
        }


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> SweepPlan:
    """Read, override and check a recipe and its space, every corner of it.

    Relative paths in the recipe (``data.path``, a local ``model.base`` that begins with a dot, ``search.space``) are
    relative to the recipe's folder. Raises ``RecipeError`` with file:line, dotted key, what was given and what is
    allowed.
    """
    source = override(load_yaml(path), overrides or [])
    tree = _anchored(source.tree, Path(path).parent)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as e:
        raise recipe_error(source, Recipe, e) from None
    if recipe.search is None:
        return SweepPlan(recipe, SearchSpace(), tree, source.file, paths_in(source.tree))
    space_file = Path(path).parent / recipe.search.space
    if not space_file.is_file():
        raise source.error(("search", "space"), f"no such file: {space_file}", hint=similar_files(space_file))
    space, space_source = load_space(space_file)
    plan = SweepPlan(recipe, space, tree, source.file, paths_in(source.tree))
    check_space(plan, space_source)
    check_reference(plan, source)
    check_rungs_of_epochs(plan, source)
    return plan


def _anchored(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tree with relative paths made absolute, so that it means the same in every process."""
    for key, value in paths_in(tree).items():
        path = Path(value).expanduser() if value.startswith("~/") else folder / value
        tree = assign(tree, key, str(path.resolve()))
    return tree


def paths_in(tree: Mapping[str, Any]) -> dict[KeyPath, str]:
    """The keys of a recipe's tree that name a file or folder beside it, with what they say; not the search space."""
    found: dict[KeyPath, str] = {}
    for block, name in (("data", "path"), ("data", "test_path"), ("model", "base"), ("mix", "large")):
        value = tree[block].get(name) if isinstance(tree.get(block), dict) else None
        if isinstance(value, str) and (block == "data" or value.startswith((".", "~"))):
            found[(block, name)] = value
    suite = tree.get("attacks")
    for part in ("known", "held_out"):
        entries = suite.get(part) if isinstance(suite, dict) else None
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            named = entry if isinstance(entry, dict) else {}
            model, file = named.get("language_model"), named.get("neighbours")
            if isinstance(model, str) and model.startswith((".", "~")):
                found[("attacks", part, i, "language_model")] = model
            if isinstance(file, str):
                found[("attacks", part, i, "neighbours")] = file
    return found
