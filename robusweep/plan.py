"""What a sweep will cost, predicted from a short measurement on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from robusweep import data as data_stage
from robusweep.assignment import Assignment, resolved_sweep, single_assignment, trial_id
from robusweep.examples import Dataset
from robusweep.halving import Halving
from robusweep.micro_benchmark import PYTHON_SHARE, MicroBenchmark, queries_per_word
from robusweep.pilot import Pilot, assignments, foreknown, pilot, spread
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import StandIn
from robusweep.resources import Leg
from robusweep.spec import digest_of
from robusweep.tickets.base import Searched
from robusweep.training import TrainingMethod

T = TypeVar("T")
LEGS: tuple[Leg, Leg] = ("train", "score")
SOONER = {  # block of a recipe -> why the sweep may cost less than foretold
    "stop": "search.stop ends the sweep sooner where its hypervolume grows no more",
    "early_stopping": "search.early_stopping attacks points that fall behind no further",
    "epochs": "search.early_stopping.epochs trains no further what only points that fell behind are mixed from",
    "race": "attacks.race attacks points that are dominated no further",
}
TWICE = "adapters of the pilot that other trials share are trained to the last rung of epochs once more"


@dataclass(frozen=True)
class _Hours:
    """Seconds of a sweep's work on one core, the queries of its attacks, and what these rest on.

    ``n_at_epochs``: of these queries, those at rungs of epochs.
    """

    train: float
    search: float
    attack: float
    n_queries: float
    n_at_epochs: float
    said: Mapping[str, Any]


def predict(plan: SweepPlan, root: Path = Path(), *, n_pilot: int = 0, n_pilot_trials: int = 3) -> dict[str, Any]:
    """Trials, trainings, points, queries, hours and disk of a sweep, and which of them are measured or assumed.

    Hours are of this machine. Trainings and searches for tickets are counted once where trials share them.
    ``n_pilot``: run a few trials on so many examples each instead of assuming how many queries an attack takes; their
    results go to the cache in ``root``, and hours are those that are left then. They are ``n_pilot_trials``, spread
    over those whose parameters no outcome changes, or fewer where there are fewer. The 95 % interval of the queries is
    about which examples and which trials the pilot's were.
    """
    recipe, stand_ins = resolved_sweep(plan)
    dataset = data_stage.load(recipe.data, recipe.seed)
    trials = assignments(plan, recipe, stand_ins) if recipe.search else [_single(recipe, root, stand_ins)]
    training, scoring = (_at_once(recipe, leg, len(trials)) for leg in LEGS)
    bench = MicroBenchmark(recipe, dataset)
    if n_pilot:
        n_known = foreknown(plan, trials, n_workers=max(training, scoring))
        tried = spread(trials[:n_known], n_pilot_trials)
        found = pilot(tried, list(dataset.validation), root, n_examples=n_pilot)
        hours = _after(found, tried, trials, bench, dataset, n_known=n_known)
    else:
        hours = _assumed(trials, bench, dataset)
    n_points = sum(len(trial.points) for trial in trials)
    searches, sooner = _searches(trials), _sooner(recipe)
    disk = len(trials) * len(recipe.views()) * 2.0 + n_points * recipe.attacks.n_examples * 0.001
    return {
        "stand_ins": "; ".join(s.notice() for s in stand_ins) or "none",
        "trials": len(trials),
        "adapter_trainings": len(_trainings(trials)),
        **({"ticket_searches": len(searches), "search_hours": round(hours.search / 3600, 3)} if searches else {}),
        "points": n_points,
        "train_hours": round(hours.train / 3600, 3),
        "attack_hours": round(hours.attack / 3600, 3),
        "attack_queries": round(hours.n_queries),
        **({"of_them_at_epoch_rungs": round(hours.n_at_epochs)} if hours.n_at_epochs else {}),
        "workers": scoring,
        **({"training_workers": training} if training != scoring else {}),
        "wall_hours": round(((hours.train + hours.search) / training + hours.attack / scoring) / 3600, 3),
        "disk_megabytes": round(disk, 1),
        **({"upper_bound": f"of everything above: {'; '.join(sooner)}"} if sooner else {}),
        **hours.said,
    }


def _at_once(recipe: Recipe, leg: Leg, n_trials: int) -> int:
    """How many trials are at this stage at once, on this machine, if all are."""
    fit = max(1, int((os.cpu_count() or 1) // recipe.resources.taken(leg).cpus))
    return min(recipe.resources.max_concurrent or fit, n_trials)


def _assumed(trials: Sequence[Assignment], bench: MicroBenchmark, dataset: Dataset) -> _Hours:
    """From single steps and queries, and rough means of what attacks ask."""
    suite, trainings, at_epochs = trials[0].recipe.attacks, _trainings(trials), _AtEpochs.of(trials)
    of_known = sum(map(queries_per_word, suite.known))
    per_word = of_known + sum(map(queries_per_word, suite.held_out))
    words = _words(dataset, suite.n_examples)
    n_clean = (len(dataset.validation) + len(dataset.calibration)) * (3 if bench.bf16 else 1)
    seconds = n_queries = n_at_epochs = 0.0
    for trial, n_rungs in zip(trials, at_epochs.n_rungs, strict=True):
        at_rungs = len(trial.points) * n_rungs * sum(words[: at_epochs.n_examples]) * of_known
        asked = len(trial.points) * sum(words) * per_word + at_rungs
        clean = len(trial.points) * (1 + n_rungs) * n_clean
        seconds += bench.query_seconds(trial.recipe.ticket) * (asked * PYTHON_SHARE + clean)
        n_queries, n_at_epochs = n_queries + asked, n_at_epochs + at_rungs
    in_training = sum(bench.training_queries(made, method) for made, method in trainings)
    making = f", {in_training:.0f} queries in training" if in_training else ""
    said = {"assumed": f"{per_word:.0f} queries for each word of an attacked text{making}"}
    if any(point.prune for trial in trials for point in trial.points):
        said["not_counted"] = "pruning after training; --pilot measures what it takes"
    return _Hours(
        train=sum(bench.train_seconds(made, method) for made, method in trainings),
        search=sum(map(bench.search_seconds, _searches(trials))),
        attack=seconds,
        n_queries=n_queries,
        n_at_epochs=n_at_epochs,
        said={"measured": bench.said(), **said},
    )


def _after(
    found: Pilot,
    tried: Sequence[Assignment],
    trials: Sequence[Assignment],
    bench: MicroBenchmark,
    dataset: Dataset,
    *,
    n_known: int,
) -> _Hours:
    """What is left after the pilot; queries are those of the whole sweep. ``n_known``: trials that will be as here."""
    numbers = {trial.number for trial in tried}
    others, n_points = [t for t in trials if t.number not in numbers], sum(len(trial.points) for trial in trials)
    words = _words(dataset, trials[0].recipe.attacks.n_examples)
    queries = found.queries(words, [len(trial.points) for trial in others])
    at_epochs = _AtEpochs.of(trials, whole=tried)
    visits = sum(n * len(trial.points) for n, trial in zip(at_epochs.n_rungs, trials, strict=True))
    share = sum(words[: at_epochs.n_examples]) / max(1, sum(words)) * found.known_share()
    n_at_epochs = visits * share * queries.value / n_points
    low, high = (bound + n_at_epochs * bound / max(1.0, queries.value) for bound in queries.interval or (0.0, 0.0))
    whole = _scaled(_by_method(trials, bench), found, tried, bench)
    return _Hours(
        train=sum(whole.values()) - sum(found.train_seconds().values()),
        search=sum(map(bench.search_seconds, _searches(trials))) - sum(map(bench.search_seconds, _searches(tried))),
        attack=found.query_seconds() * (queries.value - found.n_queries + n_at_epochs)
        + n_points * found.rest_seconds()
        + visits * found.clean_seconds()
        + len(trials) * found.trial_seconds(),
        n_queries=queries.value + n_at_epochs,
        n_at_epochs=n_at_epochs,
        said={
            **({"attack_queries_interval": [round(low), round(high)]} if queries.interval else {}),
            "measured": f"{_tried(found, tried)}; the sweep finds them done; {bench.said()}",
            **_supposed(tried, trials, n_known),
            **({"not_counted": TWICE} if visits and _keys(tried) & _keys(others) else {}),
        },
    )


def _tried(found: Pilot, tried: Sequence[Assignment]) -> str:
    names = ", ".join(trial_id(trial.number) for trial in tried)
    which = f"trial {names} on" if len(tried) == 1 else f"trials {names} on the same"
    return f"{which} {found.n_examples} examples: {found.n_queries:,} queries"


def _supposed(tried: Sequence[Assignment], trials: Sequence[Assignment], n_known: int) -> dict[str, str]:
    """What a forecast after a pilot takes for granted; nothing where all trials were tried."""
    if len(tried) == len(trials):
        return {}
    said = "that the other trials' models break about as easily"
    if len(tried) > 1:
        said += ", as far apart as these (in the interval)"
    else:
        said += "; the interval knows nothing of how far apart trials are"
    if n_known < len(trials):
        said += f"; from {trial_id(n_known)} on, the sampler's choice will depend on what came before"
    return {"assumed": said}


@dataclass(frozen=True)
class _AtEpochs:
    """At how many rungs of epochs the points of each trial are attacked, at most, and on how many examples."""

    n_rungs: Sequence[int]
    n_examples: int

    @classmethod
    def of(cls, trials: Sequence[Assignment], *, whole: Sequence[Assignment] = ()) -> _AtEpochs:
        """A trial passes by a rung at which it has nothing to train; ``whole``: trials that have been trained."""
        search = trials[0].recipe.search
        halving = search.early_stopping if search else None
        if halving is None:
            return cls([0] * len(trials), 0)
        trained = _keys(whole)
        found = []
        for trial in trials:
            keys = {_training_key(trial.recipe, m): m.n_epochs for m in trial.recipe.views().values()}
            new = [n for key, n in keys.items() if key not in trained]
            found.append(sum(any(Halving.finished(rung, n) < n for n in new) for rung in halving.epochs))
            trained |= set(keys)
        return cls(found, min(halving.epoch_examples, trials[0].recipe.attacks.n_examples))


def _words(dataset: Dataset, n: int) -> list[int]:
    """Of the texts that are attacked."""
    return [len(example.text.split()) for example in dataset.validation[:n]]


def _sooner(recipe: Recipe) -> list[str]:
    """Why the sweep may cost less than foretold."""
    search = recipe.search
    early = search.early_stopping if search else None
    is_on = {
        "stop": search is not None and search.stop is not None,
        "early_stopping": early is not None,
        "epochs": early is not None and bool(early.epochs),
        "race": recipe.attacks.race is not None,
    }
    return [why for name, why in SOONER.items() if is_on[name]]


def _single(recipe: Recipe, root: Path, stand_ins: list[StandIn]) -> Assignment:
    return single_assignment(recipe, name="plan", root=root, stand_ins=stand_ins)


def _trainings(trials: Sequence[Assignment]) -> list[tuple[Recipe, TrainingMethod]]:
    """Every training that no earlier trial has done, with the recipe that asks for it first."""
    asked = [(trial.recipe, method) for trial in trials for method in trial.recipe.views().values()]
    return _first(asked, lambda one: _training_key(*one))


def _training_key(recipe: Recipe, method: TrainingMethod) -> str:
    """The same for trainings that are one."""
    return _digest(recipe.model, recipe.adapter, recipe.ticket, method)


def _keys(trials: Sequence[Assignment]) -> set[str]:
    return {_training_key(trial.recipe, method) for trial in trials for method in trial.recipe.views().values()}


def _searches(trials: Sequence[Assignment]) -> list[Recipe]:
    """The first recipe that asks for each search for a ticket; tickets of other sizes share it."""
    asked = [trial.recipe for trial in trials if isinstance(trial.recipe.ticket, Searched)]
    return _first(asked, lambda made: _digest(made.model, made.ticket and made.ticket.search_digest))


def _first(items: Sequence[T], key: Callable[[T], str]) -> list[T]:
    """The first item of each key."""
    seen: dict[str, T] = {}
    for item in items:
        seen.setdefault(key(item), item)
    return list(seen.values())


def _digest(*blocks: Any) -> str:
    return digest_of([b.model_dump(mode="json") if hasattr(b, "model_dump") else b for b in blocks])


def _by_method(trials: Sequence[Assignment], bench: MicroBenchmark) -> dict[str, float]:
    """Training method -> predicted seconds of all its trainings."""
    found: dict[str, float] = {}
    for made, method in _trainings(trials):
        found[method.kind] = found.get(method.kind, 0.0) + bench.train_seconds(made, method)
    return found


def _scaled(
    train: Mapping[str, float], found: Pilot, tried: Sequence[Assignment], bench: MicroBenchmark
) -> dict[str, float]:
    """Predicted seconds by method, corrected by what the pilot's trainings took against what was predicted of them."""
    predicted, took = _by_method(tried, bench), found.train_seconds()
    whole = sum(took.values()) / max(1e-9, sum(predicted.values()))
    factors = {kind: took[kind] / predicted[kind] for kind in predicted if kind in took and predicted[kind] > 0}
    return {kind: seconds * factors.get(kind, whole) for kind, seconds in train.items()}
