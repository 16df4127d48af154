"""What a sweep will cost, predicted from a short measurement on this machine."""

from __future__ import annotations

import copy
import math
import os
import time
from pathlib import Path
from typing import Any

from robusweep import data as data_stage
from robusweep import model as model_stage
from robusweep.assignment import resolved_sweep
from robusweep.attacks import Attack
from robusweep.attacks.evaluation import Terms
from robusweep.cache import Cache
from robusweep.examples import Dataset
from robusweep.lent import Lender
from robusweep.model import TextModel
from robusweep.recipe import Recipe, SweepPlan
from robusweep.seeds import derive
from robusweep.training import TrainingMethod

QUERIES_PER_WORD = {"word": 3.0, "char": 2.0, "mixed": 4.0}  # an assumption, said in the forecast
POPULATION_QUERIES_PER_WORD = 25.0  # of attacks that keep a population of texts; an assumption, too
PYTHON_SHARE = 1.3  # an attack's own work on top of the victim's forward passes; an assumption, too
SUCCESSES = 0.5  # of attacks in training, whose number is wanted; an assumption, too
REPEATS = 3


def predict(plan: SweepPlan) -> dict[str, Any]:
    """Trials, trainings, points, queries, hours and disk of a sweep, and which of them are measured or assumed."""
    recipe, stand_ins = resolved_sweep(plan)
    dataset = data_stage.load(recipe.data, recipe.seed)
    device = model_stage.device_of(recipe.resources.device)
    bf16 = model_stage.uses_bf16(recipe.resources.precision, device)
    base = model_stage.load(recipe.model, dataset.label_names, seed=derive(recipe.seed, "head"), device=device)
    n_trials = plan.recipe.search.budget.n_trials if plan.recipe.search else 1
    kinds = plan.space.kinds_of_trials()  # of the searched blocks; each is taken to come up equally often
    share = n_trials / len(kinds)
    n_points = round(share * sum(len(plan.space.grid_points(names)) for names in kinds))
    trainings = [(made, method) for made in map(plan.with_params, kinds) for method in made.views().values()]
    measured: dict[tuple[str, str], float] = {}
    train = 0.0
    for made, method in trainings:
        key = made.adapter.digest(), method.digest()
        if key not in measured:
            measured[key] = _step_seconds(made, base, dataset, method, bf16=bf16)
        n_texts = len(dataset.train) * (1 + method.more_texts)
        train += share * math.ceil(n_texts / method.batch_size) * method.n_epochs * measured[key]
    attacks = [*recipe.attacks.known, *recipe.attacks.held_out]
    words = sum(len(e.text.split()) for e in dataset.validation) / len(dataset.validation)
    per_example = sum(_queries_per_word(attack) * words for attack in attacks)
    queries = n_points * recipe.attacks.n_examples * per_example
    query_seconds = _query_seconds(base, dataset, bf16=bf16)
    in_training = share * sum(_training_queries(made, m, len(dataset.train), words) for made, m in trainings)
    train += in_training * query_seconds * PYTHON_SHARE
    clean = n_points * (len(dataset.validation) + len(dataset.calibration)) * query_seconds * (3 if bf16 else 1)
    attack = queries * query_seconds * PYTHON_SHARE
    workers = recipe.resources.max_concurrent or max(1, int((os.cpu_count() or 1) // recipe.resources.cpus))
    workers = min(workers, n_trials)
    return {
        "stand_ins": "; ".join(s.notice() for s in stand_ins) or "none",
        "trials": n_trials,
        "adapter_trainings_at_most": n_trials * len(recipe.views()),
        "points": n_points,
        "train_hours": round(train / 3600, 3),
        "attack_hours": round((clean + attack) / 3600, 3),
        "attack_queries": round(queries),
        "workers": workers,
        "wall_hours": round((train + clean + attack) / workers / 3600, 3),
        "disk_megabytes": round(n_trials * len(recipe.views()) * 2.0 + n_points * recipe.attacks.n_examples * 0.001, 1),
        "measured": f"one training step of each method ({', '.join(f'{s:.2f} s' for s in measured.values())}), "
        f"one query ({query_seconds * 1000:.1f} ms), on {device} in {'bf16' if bf16 else 'fp32'}",
        "assumed": f"{per_example:.0f} queries an example (on a text of {words:.0f} words)"
        + (f", {in_training:.0f} queries in training" if in_training else ""),
    }


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
