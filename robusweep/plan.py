"""What a sweep will cost, predicted from a short measurement on this machine."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.assignment import Assignment, resolved_sweep, single_assignment
from robusweep.attacks import Attack
from robusweep.attacks.evaluation import Terms
from robusweep.cache import Cache
from robusweep.examples import Dataset
from robusweep.lent import Lender
from robusweep.model import TextModel
from robusweep.pilot import Pilot, assignments, pilot
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import StandIn
from robusweep.seeds import derive
from robusweep.spec import digest_of
from robusweep.training import TrainingMethod

QUERIES_PER_WORD = {"word": 3.0, "char": 2.0, "mixed": 4.0}  # an assumption, said in the forecast
POPULATION_QUERIES_PER_WORD = 25.0  # of attacks that keep a population of texts; an assumption, too
PYTHON_SHARE = 1.3  # an attack's own work on top of the victim's forward passes; an assumption, too
SUCCESSES = 0.5  # of attacks in training, whose number is wanted; an assumption, too
REPEATS = 3
SOONER = "of everything above: search.stop ends the sweep sooner where its hypervolume grows no more"


def predict(plan: SweepPlan, root: Path = Path(), *, n_pilot: int = 0) -> dict[str, Any]:
    """Trials, trainings, points, queries, hours and disk of a sweep, and which of them are measured or assumed.

    Hours are of this machine. Trainings are counted once where trials share them. ``n_pilot``: run the first trial on
    so many examples instead of assuming how many queries an attack takes; its results go to the cache in ``root``.
    """
    recipe, stand_ins = resolved_sweep(plan)
    dataset = data_stage.load(recipe.data, recipe.seed)
    trials = assignments(plan, recipe, stand_ins) if recipe.search else [_single(recipe, root, stand_ins)]
    measured = _Measured(recipe, dataset)
    attacks = [*recipe.attacks.known, *recipe.attacks.held_out]
    n_words = sum(len(e.text.split()) for e in dataset.validation[: recipe.attacks.n_examples])
    n_points = sum(len(trial.points) for trial in trials)
    trainings = _distinct(trials)
    train = {kind: 0.0 for _, method in trainings for kind in [method.kind]}
    for made, method in trainings:
        train[method.kind] += measured.train_seconds(made, method)
    per_word = sum(map(_queries_per_word, attacks))
    attack = n_points * n_words * per_word * measured.query_seconds * PYTHON_SHARE
    n_clean = len(dataset.validation) + len(dataset.calibration)
    rest = n_points * n_clean * measured.query_seconds * (3 if measured.bf16 else 1)
    in_training = sum(measured.training_queries(made, method) for made, method in trainings)
    making = f", {in_training:.0f} queries in training" if in_training else ""
    said = {"measured": measured.said(), "assumed": f"{per_word:.0f} queries for each word of an attacked text{making}"}
    if n_pilot:
        found = pilot(trials[0], list(dataset.validation), root, n_examples=n_pilot)
        train = _scaled(train, found, [p for p in trainings if p[0] is trials[0].recipe], measured)
        per_word = found.queries_per_word()
        of_attacks, of_the_rest = found.point_seconds()
        attack = n_points * of_attacks * n_words / found.n_words
        rest = n_points * of_the_rest + len(trials) * found.trial_seconds()
        said = {
            "measured": f"the first trial on {found.n_examples} examples: {per_word:.1f} queries for each word of an "
            f"attacked text; {measured.said()}",
            "assumed": "that the other trials' models break as easily",
        }
    workers = recipe.resources.max_concurrent or max(1, int((os.cpu_count() or 1) // recipe.resources.cpus))
    workers = min(workers, len(trials))
    trained = sum(train.values())
    disk = len(trials) * len(recipe.views()) * 2.0 + n_points * recipe.attacks.n_examples * 0.001
    return {
        "stand_ins": "; ".join(s.notice() for s in stand_ins) or "none",
        "trials": len(trials),
        "adapter_trainings": len(trainings),
        "points": n_points,
        "train_hours": round(trained / 3600, 3),
        "attack_hours": round((rest + attack) / 3600, 3),
        "attack_queries": round(n_points * n_words * per_word),
        "workers": workers,
        "wall_hours": round((trained + rest + attack) / workers / 3600, 3),
        "disk_megabytes": round(disk, 1),
        **({"upper_bound": SOONER} if recipe.search and recipe.search.stop else {}),
        **said,
    }


def _single(recipe: Recipe, root: Path, stand_ins: list[StandIn]) -> Assignment:
    return single_assignment(recipe, name="plan", root=root, stand_ins=stand_ins)


def _distinct(trials: Sequence[Assignment]) -> list[tuple[Recipe, TrainingMethod]]:
    """Every training that no earlier trial has done, with the recipe that asks for it first."""
    seen: dict[str, tuple[Recipe, TrainingMethod]] = {}
    for made in (trial.recipe for trial in trials):
        for method in made.views().values():
            blocks = [made.model, made.adapter, made.ticket, method]
            seen.setdefault(digest_of([b and b.model_dump(mode="json") for b in blocks]), (made, method))
    return list(seen.values())


def _scaled(
    train: Mapping[str, float], found: Pilot, trainings: Sequence[tuple[Recipe, TrainingMethod]], measured: _Measured
) -> dict[str, float]:
    """Predicted seconds by method, corrected by what the pilot's trainings took against what was predicted of them."""
    predicted: dict[str, float] = {}
    for made, method in trainings:
        predicted[method.kind] = predicted.get(method.kind, 0.0) + measured.train_seconds(made, method)
    took = found.train_seconds()
    whole = sum(took.values()) / max(1e-9, sum(predicted.values()))
    factors = {kind: took[kind] / predicted[kind] for kind in predicted if kind in took and predicted[kind] > 0}
    return {kind: seconds * factors.get(kind, whole) for kind, seconds in train.items()}


class _Measured:
    """Seconds of a step of each method and of a query, on this machine."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self._dataset = dataset
        device = model_stage.device_of(recipe.resources.device)
        self.bf16 = model_stage.uses_bf16(recipe.resources.precision, device)
        seed = derive(recipe.seed, "head")
        self._base = model_stage.load(recipe.model, dataset.label_names, seed=seed, device=device)
        self.query_seconds = _query_seconds(self._base, dataset, bf16=self.bf16)
        self._steps: dict[str, float] = {}

    def train_seconds(self, recipe: Recipe, method: TrainingMethod) -> float:
        """Of one training, the attacks that it makes texts with included."""
        key = digest_of([_without_fractions(b.model_dump(mode="json")) for b in (recipe.adapter, method)])
        if key not in self._steps:
            self._steps[key] = _step_seconds(recipe, self._base, self._dataset, method, bf16=self.bf16)
        n = len(self._dataset.train)
        n_steps = math.ceil(n * (1 + method.more_texts) / method.batch_size) * method.n_epochs
        asked = self.training_queries(recipe, method)
        return n_steps * self._steps[key] + asked * self.query_seconds * PYTHON_SHARE

    def training_queries(self, recipe: Recipe, method: TrainingMethod) -> float:
        """What the attacks of one training ask."""
        n = len(self._dataset.train)
        words = sum(len(e.text.split()) for e in self._dataset.train) / n
        return _training_queries(recipe, method, n, words)

    def said(self) -> str:
        steps = ", ".join(f"{seconds:.2f} s" for seconds in self._steps.values())
        where = f"{self._base.device} in {'bf16' if self.bf16 else 'fp32'}"
        return f"one training step of each method ({steps}), one query ({self.query_seconds * 1000:.1f} ms), on {where}"


def _without_fractions(block: Any) -> Any:
    """A block without its real numbers: a learning rate or a radius makes no step slower."""
    if isinstance(block, dict):
        return {key: _without_fractions(value) for key, value in block.items() if not isinstance(value, float)}
    return block


def _queries_per_word(attack: Attack) -> float:
    """Attacks ask more on robust victims; these are rough means over plain ones."""
    return POPULATION_QUERIES_PER_WORD if "population" in type(attack).model_fields else QUERIES_PER_WORD[attack.level]


def _training_queries(recipe: Recipe, method: TrainingMethod, n_texts: int, words: float) -> float:
    """What the attacks of one training ask."""
    n_attacked = min(1.0, method.more_texts / SUCCESSES) * n_texts * method.n_rounds
    per_attack = n_attacked / max(1, len(method.attacks_with))
    asked = [_queries_per_word(recipe.attack_named(kind)) * words for kind in method.attacks_with]
    return sum(per_attack * min(n, getattr(method, "n_queries", n)) for n in asked)


def _step_seconds(recipe: Recipe, base: TextModel, dataset: Dataset, method: TrainingMethod, *, bf16: bool) -> float:
    """Seconds of one training step of this method on real batches; the fastest of a few."""
    from robusweep.training.loop import fit

    adapted = recipe.adapter.attach(copy.deepcopy(base.network), head=model_stage.head_names(base.network), seed=0)
    texts, labels = zip(*((e.text, e.label) for e in dataset.train[: method.batch_size]), strict=True)
    without = {"share": 0.0, "only_changed": False} if method.more_texts else {}
    once = method.model_copy(update={"n_epochs": 1, "patience": None} | without)
    tokens = base.tokens(texts)
    lent = Lender(  # without texts of a method's own nothing is attacked, and nothing kept
        base,
        identity="",
        adapter=recipe.adapter,
        attacks=recipe.attack_named,
        terms=Terms(recipe.attacks.constraints, recipe.seed, bf16, base.device),
        cache=Cache(Path(os.devnull)),
    )
    return min(
        fit(adapted, once, tokens, labels, pad_id=base.pad_id, seed=i, bf16=bf16, texts=texts, lent=lent).seconds
        for i in range(REPEATS)
    )


def _query_seconds(base: TextModel, dataset: Dataset, *, bf16: bool) -> float:
    """Seconds of one query in a batch such as an attack asks for; the fastest of a few."""
    ask = model_stage.victim(base, {}, precision="bf16" if bf16 else "fp32")
    texts = [example.text for example in dataset.validation[:24]]
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        ask(texts)
        spent.append(time.perf_counter() - began)
    return min(spent) / len(texts)
