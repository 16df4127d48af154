"""Chosen points on texts that nothing has looked at: what is left of rates that they were chosen for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.assignment import PointPlan
from robusweep.cache import Cache
from robusweep.errors import MissingError, StageError, UsageError
from robusweep.examples import Dataset
from robusweep.front import UNDER_ATTACK
from robusweep.ground import Ground
from robusweep.progress import Progress
from robusweep.recipe import Recipe
from robusweep.record import PointRecord, write_text
from robusweep.restored import Restored, points_in, restored
from robusweep.scores import Gap, Rate
from robusweep.scoring import score
from robusweep.seeds import derive
from robusweep.spec import Spec
from robusweep.sweep.status import find_run
from robusweep.trial import protocol_hash, trained_on

FRONT = "front"
Say = Callable[[str], None]


class Confirmation(Spec):
    """One point: ``chosen`` on validation, by which it was picked, ``test`` on the test split with another seed.

    ``shrinkage``: by metric, validation minus test, with the 95 % interval for two independent rates; what is chosen
    as the best of many is expected to shrink. ``retrained``: the same configuration trained anew with other seeds,
    each on the same test texts: how far the weights' own luck goes.
    """

    schema_version: Literal[1] = 1
    point: str
    chosen: PointRecord
    test: PointRecord
    retrained: list[PointRecord] = []
    shrinkage: dict[str, Gap]
    n_points: int  # in the run, from which this one was chosen
    seed: int
    protocol_hash: str

    def shown(self) -> dict[str, Any]:
        """For ``--json`` and tables; ``again`` holds the rates of each retraining by metric."""
        again = [{metric: rate.value for metric, rate in rates_of(point).items()} for point in self.retrained]
        return self.model_dump(mode="json") | {"again": again}


def confirm(
    root: Path, run: str, rules: Sequence[str] = (FRONT,), *, n: int | None = None, n_retrained: int = 0, say: Say
) -> list[Confirmation]:
    """Attack the points that the rules pick on ``n`` texts of the test split (all of them: None).

    ``front`` picks every point of the front. Known and held-out attacks run with a seed that no trial has used, and
    adaptively where weights depend on the text. ``n_retrained``: train each configuration again with so many seeds.
    Results stay in the run's folder under ``confirm``, and what is there already is not computed again. Raises as
    ``restored`` does, and ``MissingError`` when the data have changed or hold no test split.
    """
    run_dir = find_run(root, run)
    points = points_in(run_dir)
    wanted = [id_ for rule in rules for id_ in ([p.id for p in points if p.pareto] if rule == FRONT else [rule])]
    found = []
    for rule in dict.fromkeys(wanted):
        point = restored(run_dir, rule, say=say)
        if (stopped := point.scored.stopped) is not None:
            raise UsageError(f"{point.scored.id} was stopped by {stopped.stopper}: its rates are over fewer examples")
        found.append(_confirmed(run_dir, root, point, n=n, n_retrained=n_retrained, n_points=len(points), say=say))
    return found


def _confirmed(
    run_dir: Path, root: Path, point: Restored, *, n: int | None, n_retrained: int, n_points: int, say: Say
) -> Confirmation:
    dataset = data_stage.load(point.recipe.data, point.recipe.seed)
    if dataset.digest() != point.trial.data.get("digest"):
        raise MissingError("the data are not what they were when the point was scored", hint="put them back")
    if not dataset.test:
        raise MissingError("the data hold no test split", hint="set data.n_test")
    seed = derive(point.recipe.seed, "confirm") % 2**32
    fresh, folder = _fresh(point.recipe, seed, n or len(dataset.test)), run_dir / "confirm" / point.scored.id
    ground = _ground(fresh, dataset, point, root, folder)
    plan = PointPlan(id=point.scored.id, params=point.scored.params, mix=point.mixer, prune=point.prune)
    say(f"{plan.id}: {fresh.attacks.n_examples} test texts under {len(_attacks(fresh))} attacks")
    (tested,) = score([plan], point.adapters, protocol_hash(fresh, ground.dataset), ground)
    if tested.model_digest != point.scored.model_digest:
        raise StageError(f"confirm: {plan.id} was mixed otherwise than when it was scored")
    found = Confirmation(
        point=plan.id,
        chosen=point.scored,
        test=tested,
        retrained=[_retrained(i, plan, point, dataset, fresh, root, folder, say) for i in range(1, n_retrained + 1)],
        shrinkage=_shrinkage(point.scored, tested),
        n_points=n_points,
        seed=seed,
        protocol_hash=protocol_hash(fresh, ground.dataset),
    )
    write_text(folder / "confirmation.json", found.model_dump_json(indent=2) + "\n")
    return found


def _fresh(recipe: Recipe, seed: int, n: int) -> Recipe:
    """The recipe with every attack on every text, and a seed of its own for what attacks draw."""
    suite = recipe.attacks.model_copy(update={"n_examples": n, "race": None, "replay": False, "static": False})
    return recipe.model_copy(update={"seed": seed, "attacks": suite})


def _attacks(recipe: Recipe) -> list[object]:
    return [*recipe.attacks.known, *recipe.attacks.held_out]


def _ground(recipe: Recipe, dataset: Dataset, point: Restored, root: Path, folder: Path) -> Ground:
    """The point's base, with the test split where trials have validation."""
    tested = replace(dataset, validation=dataset.test)
    bf16 = model_stage.uses_bf16(recipe.resources.precision, point.base.device)
    cache = Cache(root / "cache")
    return Ground(recipe, tested, point.base, point.identity, bf16, cache, Progress(folder), folder)


def _retrained(
    i: int, plan: PointPlan, point: Restored, dataset: Dataset, fresh: Recipe, root: Path, folder: Path, say: Say
) -> PointRecord:
    """The configuration trained with another seed on the same data, and scored on the same test texts."""
    seed = derive(point.recipe.seed, "retrained", i) % 2**32
    say(f"{plan.id}: training it again with seed {seed}")
    recipe = point.recipe.model_copy(update={"seed": seed})
    head = derive(seed, "head")
    base = model_stage.load(recipe.model, dataset.label_names, seed=head, device=point.base.device)
    bf16 = model_stage.uses_bf16(recipe.resources.precision, base.device)
    where = folder / f"retrained_{i}"
    ground = Ground(
        recipe,
        dataset,
        base,
        model_stage.identity(recipe.model),
        bf16,
        Cache(root / "cache"),
        Progress(where),
        where,
    )
    trained = trained_on(ground)
    tested = replace(trained.ground, recipe=fresh, dataset=replace(dataset, validation=dataset.test))
    (found,) = score([plan], trained.adapters, protocol_hash(fresh, tested.dataset), tested)
    return found


def _shrinkage(chosen: PointRecord, tested: PointRecord) -> dict[str, Gap]:
    """Validation minus test, for every rate that both have."""
    pairs = {metric: (rates_of(chosen)[metric], rate) for metric, rate in rates_of(tested).items()}
    return {metric: Gap.of(before, after) for metric, (before, after) in pairs.items()}


def rates_of(point: PointRecord) -> dict[str, Rate]:
    """Every rate of a point by the name of its metric."""
    rates = {"clean_accuracy": point.clean_accuracy, "robust_accuracy": point.robust_accuracy}
    scores = {**point.attacks, **point.held_out}
    return rates | {UNDER_ATTACK + kind: one.accuracy_under_attack for kind, one in scores.items()}
