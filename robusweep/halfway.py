"""The rungs of epochs of one trial: its points mixed from half-trained adapters, and what is worth training on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robusweep.assignment import PointPlan
from robusweep.ground import Ground
from robusweep.halving import Halving, Ladder
from robusweep.record import AdapterRecord, PointRecord
from robusweep.scoring import fallen_behind
from robusweep.trained import CLEAN, adversarial_view, is_whole, train_views, trained_set, views_of

LadderOf = Callable[[Sequence[AdapterRecord]], Ladder | None]


@dataclass(frozen=True)
class Halfway:
    """``plans`` go on, and ``views`` are trained on for them; ``behind`` are the records of points that stopped.

    ``adapters``: by view, as far as they are trained; those of other views stay like that. None before the first rung.
    """

    plans: list[PointPlan]
    views: list[str]
    adapters: dict[str, AdapterRecord]
    behind: list[PointRecord]


def rungs_of(ground: Ground) -> list[float]:
    """The rungs of epochs; none without early stopping."""
    search = ground.recipe.search
    return search.early_stopping.epochs if search and search.early_stopping else []


def halfway(plans: Sequence[PointPlan], ground: Ground, ladder_of: LadderOf, *, first: int) -> Halfway:
    """Climb the rungs of epochs. ``ladder_of``: the rungs, for points of these adapters; ``first`` as of training.

    A view is trained on while a point goes on that depends on it, the clean one while any does. A rung at which there
    is nothing more to train is passed by, and no value is left there: each method has no more epochs, or the cache
    holds what it trains, whole. But what an earlier attempt at this trial was told there stands.
    """
    methods, rungs = views_of(ground.recipe), rungs_of(ground)
    at = Halfway(list(plans), list(methods), {}, [])
    for n, rung in enumerate(rungs, start=1):
        ladder = ladder_of([])
        unfinished = [v for v in at.views if Halving.finished(rung, methods[v].n_epochs) < methods[v].n_epochs]
        is_over = all(is_whole(methods[view], ground) for view in unfinished)
        if ladder is None or not unfinished or (is_over and not ladder.has_been_at(rung)):
            continue
        adapters = at.adapters | train_views(at.views, ground, first=first, rungs=rungs[:n], whole=False)
        ladder = ladder_of([_foreseen(adapters[view], methods[view].n_epochs) for view in methods])
        assert ladder is not None
        records = [adapters[view] for view in methods]
        behind = fallen_behind(at.plans, trained_set(records, ground), ground, ladder, epochs=rung)
        at = _without(behind, at, adapters)
        if not at.plans:
            break
    return _with_epochs_saved(at, ground) if at.behind else at


def _without(behind: Sequence[PointRecord], at: Halfway, adapters: dict[str, AdapterRecord]) -> Halfway:
    if not behind:
        return Halfway(at.plans, at.views, adapters, at.behind)
    stopped = {point.id for point in behind}
    plans = [plan for plan in at.plans if plan.id not in stopped]
    n_adversarial = len(adapters) - 1
    asked = {adversarial_view(i) for plan in plans if plan.mix for i in plan.mix.takes(n_adversarial)}
    views = [view for view in at.views if view in asked or (view == CLEAN and plans)]
    return Halfway(plans, views, adapters, [*at.behind, *behind])


def _foreseen(adapter: AdapterRecord, n_epochs: int) -> AdapterRecord:
    """With the seconds that its whole training would take: what a point costs does not depend on how far it is."""
    seconds = adapter.train_seconds * n_epochs / (adapter.epochs or n_epochs)
    return adapter.model_copy(update={"train_seconds": seconds})


def _with_epochs_saved(at: Halfway, ground: Ground) -> Halfway:
    """With the epochs of training, over the views, that the stopped points have saved."""
    methods = views_of(ground.recipe)
    halted = {view: a.epochs for view, a in at.adapters.items() if view not in at.views and a.epochs is not None}
    saved = {v: methods[v].n_epochs - n for v, n in halted.items() if not is_whole(methods[v], ground)}
    if not saved:
        return at
    ground.progress.say(f"{' and '.join(saved)}: not trained to the end, which saves {sum(saved.values())} epochs")
    behind = [_saving(point, sum(saved.values())) for point in at.behind]
    return Halfway(at.plans, at.views, at.adapters, behind)


def _saving(point: PointRecord, n_epochs: int) -> PointRecord:
    assert point.stopped is not None
    return point.model_copy(update={"stopped": point.stopped.model_copy(update={"n_epochs_saved": n_epochs})})
