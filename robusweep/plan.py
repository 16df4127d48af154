"""What a sweep will cost, predicted from a short measurement on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from robusweep import data as data_stage
from robusweep.assignment import Assignment, resolved_sweep, single_assignment
from robusweep.examples import Dataset
from robusweep.micro_benchmark import PYTHON_SHARE, MicroBenchmark, queries_per_word
from robusweep.pilot import Pilot, assignments, pilot
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import StandIn
from robusweep.spec import digest_of
from robusweep.tickets.base import Searched
from robusweep.training import TrainingMethod

T = TypeVar("T")
SOONER = {  # block of a recipe -> why the sweep may cost less than foretold
    "stop": "search.stop ends the sweep sooner where its hypervolume grows no more",
    "early_stopping": "search.early_stopping attacks points that fall behind no further",
    "race": "attacks.race attacks points that are dominated no further",
}


@dataclass(frozen=True)
class _Hours:
    """Seconds of a sweep's work on one core, the queries of its attacks, and what these rest on."""

    train: float
    search: float
    attack: float
    n_queries: float
    said: Mapping[str, Any]


def predict(plan: SweepPlan, root: Path = Path(), *, n_pilot: int = 0) -> dict[str, Any]:
    """Trials, trainings, points, queries, hours and disk of a sweep, and which of them are measured or assumed.

    Hours are of this machine. Trainings and searches for tickets are counted once where trials share them.
    ``n_pilot``: run the first trial on so many examples instead of assuming how many queries an attack takes; its
    results go to the cache in ``root``, and hours are those that are left then. The 95 % interval of the queries is
    about which examples were the pilot's.
    """
    recipe, stand_ins = resolved_sweep(plan)
    dataset = data_stage.load(recipe.data, recipe.seed)
    trials = assignments(plan, recipe, stand_ins) if recipe.search else [_single(recipe, root, stand_ins)]
    bench = MicroBenchmark(recipe, dataset)
    if n_pilot:
        found = pilot(trials[0], list(dataset.validation), root, n_examples=n_pilot)
        hours = _after(found, trials, bench, dataset)
    else:
        hours = _assumed(trials, bench, dataset)
    n_points = sum(len(trial.points) for trial in trials)
    workers = recipe.resources.max_concurrent or max(1, int((os.cpu_count() or 1) // recipe.resources.cpus))
    workers = min(workers, len(trials))
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
        "workers": workers,
        "wall_hours": round((hours.train + hours.search + hours.attack) / workers / 3600, 3),
        "disk_megabytes": round(disk, 1),
        **({"upper_bound": f"of everything above: {'; '.join(sooner)}"} if sooner else {}),
        **hours.said,
    }


def _assumed(trials: Sequence[Assignment], bench: MicroBenchmark, dataset: Dataset) -> _Hours:
    """From single steps and queries, and rough means of what attacks ask."""
    suite, trainings = trials[0].recipe.attacks, _trainings(trials)
    per_word = sum(map(queries_per_word, [*suite.known, *suite.held_out]))
    n_words = sum(_words(dataset, suite.n_examples))
    n_clean = (len(dataset.validation) + len(dataset.calibration)) * (3 if bench.bf16 else 1)
    one_text = sum(len(trial.points) * bench.query_seconds(trial.recipe.ticket) for trial in trials)
    in_training = sum(bench.training_queries(made, method) for made, method in trainings)
    making = f", {in_training:.0f} queries in training" if in_training else ""
    said = {"assumed": f"{per_word:.0f} queries for each word of an attacked text{making}"}
    if any(point.prune for trial in trials for point in trial.points):
        said["not_counted"] = "pruning after training; --pilot measures what it takes"
    return _Hours(
        train=sum(bench.train_seconds(made, method) for made, method in trainings),
        search=sum(map(bench.search_seconds, _searches(trials))),
        attack=one_text * (n_words * per_word * PYTHON_SHARE + n_clean),
        n_queries=sum(len(trial.points) for trial in trials) * n_words * per_word,
        said={"measured": bench.said(), **said},
    )


def _after(found: Pilot, trials: Sequence[Assignment], bench: MicroBenchmark, dataset: Dataset) -> _Hours:
    """What is left after the pilot; queries are those of the whole sweep."""
    first, n_points = trials[0].recipe, sum(len(trial.points) for trial in trials)
    words = _words(dataset, first.attacks.n_examples)
    queries = found.queries(words, n_points)
    measured = f"the first trial on {found.n_examples} examples: {found.n_queries:,} queries; the sweep finds them done"
    interval = {"attack_queries_interval": [round(bound) for bound in queries.interval]} if queries.interval else {}
    whole = _scaled(_by_method(trials, bench), found, first, bench)
    return _Hours(
        train=sum(whole.values()) - sum(found.train_seconds().values()),
        search=sum(map(bench.search_seconds, _searches(trials))) - bench.search_seconds(first),
        attack=found.query_seconds() * (queries.value - found.n_queries)
        + n_points * found.rest_seconds()
        + len(trials) * found.trial_seconds(),
        n_queries=queries.value,
        said={
            **interval,
            "measured": f"{measured}; {bench.said()}",
            "assumed": "that the other trials' models break as easily",
        },
    )


def _words(dataset: Dataset, n: int) -> list[int]:
    """Of the texts that are attacked."""
    return [len(example.text.split()) for example in dataset.validation[:n]]


def _sooner(recipe: Recipe) -> list[str]:
    """Why the sweep may cost less than foretold."""
    blocks: dict[str, Any] = vars(recipe.search) if recipe.search else {}
    return [why for name, why in SOONER.items() if ({"race": recipe.attacks.race} | blocks).get(name) is not None]


def _single(recipe: Recipe, root: Path, stand_ins: list[StandIn]) -> Assignment:
    return single_assignment(recipe, name="plan", root=root, stand_ins=stand_ins)


def _trainings(trials: Sequence[Assignment]) -> list[tuple[Recipe, TrainingMethod]]:
    """Every training that no earlier trial has done, with the recipe that asks for it first."""
    asked = [(trial.recipe, method) for trial in trials for method in trial.recipe.views().values()]
    return _first(asked, lambda one: [one[0].model, one[0].adapter, one[0].ticket, one[1]])


def _searches(trials: Sequence[Assignment]) -> list[Recipe]:
    """The first recipe that asks for each search for a ticket; tickets of other sizes share it."""
    asked = [trial.recipe for trial in trials if isinstance(trial.recipe.ticket, Searched)]
    return _first(asked, lambda made: [made.model, made.ticket and made.ticket.search_digest])


def _first(items: Sequence[T], blocks: Callable[[T], Sequence[Any]]) -> list[T]:
    """The first item of each that has the same blocks."""
    seen: dict[str, T] = {}
    for item in items:
        plain = [b.model_dump(mode="json") if hasattr(b, "model_dump") else b for b in blocks(item)]
        seen.setdefault(digest_of(plain), item)
    return list(seen.values())


def _by_method(trials: Sequence[Assignment], bench: MicroBenchmark) -> dict[str, float]:
    """Training method -> predicted seconds of all its trainings."""
    found: dict[str, float] = {}
    for made, method in _trainings(trials):
        found[method.kind] = found.get(method.kind, 0.0) + bench.train_seconds(made, method)
    return found


def _scaled(train: Mapping[str, float], found: Pilot, first: Recipe, bench: MicroBenchmark) -> dict[str, float]:
    """Predicted seconds by method, corrected by what the pilot's trainings took against what was predicted of them."""
    predicted: dict[str, float] = {}
    for method in first.views().values():
        predicted[method.kind] = predicted.get(method.kind, 0.0) + bench.train_seconds(first, method)
    took = found.train_seconds()
    whole = sum(took.values()) / max(1e-9, sum(predicted.values()))
    factors = {kind: took[kind] / predicted[kind] for kind in predicted if kind in took and predicted[kind] > 0}
    return {kind: seconds * factors.get(kind, whole) for kind, seconds in train.items()}
