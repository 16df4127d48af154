"""Seconds of single steps and queries on this machine, from which a forecast is made."""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from robusweep import model as model_stage
from robusweep.adapters import Full
from robusweep.attacks import Attack
from robusweep.attacks.evaluation import Terms
from robusweep.cache import Cache
from robusweep.examples import Dataset
from robusweep.lent import Lender
from robusweep.model import TextModel
from robusweep.recipe import Recipe
from robusweep.seeds import derive
from robusweep.spec import digest_of
from robusweep.tickets import RandomTicket, Ticket
from robusweep.tickets.base import Searched
from robusweep.tickets.coefficients import Gaps
from robusweep.training import TrainingMethod
from robusweep.training.freelb import FreeLb
from robusweep.training.pgd import Pgd
from robusweep.training.standard import Standard

QUERIES_PER_WORD = {"word": 3.0, "char": 2.0, "mixed": 4.0}  # an assumption, said in the forecast
POPULATION_QUERIES_PER_WORD = 25.0  # of attacks that keep a population of texts; an assumption, too
PYTHON_SHARE = 1.3  # an attack's own work on top of the victim's forward passes; an assumption, too
SUCCESSES = 0.5  # of attacks in training, whose number is wanted; an assumption, too
REPEATS = 3


class MicroBenchmark:
    """What steps of training, steps of a ticket's search and queries take, each measured when it is first asked for.

    Networks with a ticket are measured with as many units removed, drawn by lot.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self._dataset = dataset
        device = model_stage.device_of(recipe.resources.device)
        self.bf16 = model_stage.uses_bf16(recipe.resources.precision, device)
        seed = derive(recipe.seed, "head")
        self._base = model_stage.load(recipe.model, dataset.label_names, seed=seed, device=device)
        self._on_tickets: dict[str, TextModel] = {}
        self._queries: dict[str, float] = {}
        self._steps: dict[str, float] = {}

    def query_seconds(self, ticket: Ticket | None) -> float:
        """Of one text of a batch such as an attack asks for, on a network that keeps what the ticket keeps."""
        key = _size_key(ticket)
        if key not in self._queries:
            self._queries[key] = _query_seconds(self._on(ticket), self._dataset, bf16=self.bf16)
        return self._queries[key]

    def train_seconds(self, recipe: Recipe, method: TrainingMethod) -> float:
        """Of one training, the attacks that it makes texts with included."""
        n = len(self._dataset.train)
        n_steps = math.ceil(n * (1 + method.more_texts) / method.batch_size) * method.n_epochs
        asked = self.training_queries(recipe, method)
        step = self._step_seconds(recipe, method, recipe.ticket)
        return n_steps * step + asked * self.query_seconds(recipe.ticket) * PYTHON_SHARE

    def search_seconds(self, recipe: Recipe) -> float:
        """Of the ticket's search, at most: it may end before. 0 where there is none."""
        ticket = recipe.ticket
        if not isinstance(ticket, Searched):
            return 0.0
        per_epoch = math.ceil(len(self._dataset.train) / ticket.batch_size)
        gaps = Gaps(per_epoch, ticket.gaps_per_epoch)
        whole = recipe.model_copy(update={"adapter": Full()})
        kind = FreeLb if ticket.adversary == "freelb" else Pgd
        like = kind.model_validate({"radius": 0.1, "n_steps": ticket.n_steps, "batch_size": ticket.batch_size})
        seconds = gaps.end(gaps.within(ticket.ends_after)) * self._step_seconds(whole, like, None)
        if ticket.tuning:
            plain = Standard(batch_size=ticket.batch_size)
            seconds += ticket.tuning[0] * per_epoch * self._step_seconds(whole, plain, None)
        return seconds

    def training_queries(self, recipe: Recipe, method: TrainingMethod) -> float:
        """What the attacks of one training ask."""
        n = len(self._dataset.train)
        words = sum(len(e.text.split()) for e in self._dataset.train) / n
        return _training_queries(recipe, method, n, words)

    def said(self) -> str:
        """What was measured, and where."""
        steps = ", ".join(f"{seconds:.2f} s" for seconds in self._steps.values())
        queries = ", ".join(f"{seconds * 1000:.1f} ms" for seconds in self._queries.values())
        where = f"{self._base.device} in {'bf16' if self.bf16 else 'fp32'}"
        return f"one training step of each method ({steps}), one query ({queries}), on {where}"

    def _step_seconds(self, recipe: Recipe, method: TrainingMethod, ticket: Ticket | None) -> float:
        blocks = [_without_fractions(b.model_dump(mode="json")) for b in (recipe.adapter, method)]
        key = digest_of([*blocks, _size_key(ticket)])
        if key not in self._steps:
            self._steps[key] = _step_seconds(recipe, self._on(ticket), self._dataset, method, bf16=self.bf16)
        return self._steps[key]

    def _on(self, ticket: Ticket | None) -> TextModel:
        """The base with as many units removed as the ticket removes."""
        if ticket is None:
            return self._base
        from robusweep.tickets.removal import removed

        key = _size_key(ticket)
        if key not in self._on_tickets:
            names = ("head_density", "neuron_density", "scope", "min_neurons", "round_to")
            like = RandomTicket(**{name: getattr(ticket, name) for name in names})
            network: Any = removed(self._base.network, like.draw(self._base.network, seed=0).masks)
            self._on_tickets[key] = replace(self._base, network=network)
        return self._on_tickets[key]


def queries_per_word(attack: Attack) -> float:
    """Attacks ask more on robust victims; these are rough means over plain ones."""
    return POPULATION_QUERIES_PER_WORD if "population" in type(attack).model_fields else QUERIES_PER_WORD[attack.level]


def _size_key(ticket: Ticket | None) -> str:
    return digest_of(vars(ticket.size)) if ticket else ""


def _without_fractions(block: Any) -> Any:
    """A block without its real numbers: a learning rate or a radius makes no step slower."""
    if isinstance(block, dict):
        return {key: _without_fractions(value) for key, value in block.items() if not isinstance(value, float)}
    return block


def _training_queries(recipe: Recipe, method: TrainingMethod, n_texts: int, words: float) -> float:
    """What the attacks of one training ask."""
    n_attacked = min(1.0, method.more_texts / SUCCESSES) * n_texts * method.n_rounds
    per_attack = n_attacked / max(1, len(method.attacks_with))
    asked = [queries_per_word(recipe.attack_named(kind)) * words for kind in method.attacks_with]
    return sum(per_attack * min(n, getattr(method, "n_queries", n)) for n in asked)


def _step_seconds(recipe: Recipe, base: TextModel, dataset: Dataset, method: TrainingMethod, *, bf16: bool) -> float:
    """Seconds of one training step of this method on real batches; the fastest of a few."""
    from robusweep.training.loop import fit

    adapted = recipe.adapter.attach(copy.deepcopy(base.network), head=model_stage.head_names(base.network), seed=0)
    texts, labels = zip(*((e.text, e.label) for e in dataset.train[: method.batch_size]), strict=True)
    without = {"share": 0.0, "only_changed": False} if method.more_texts else {}
    once = method.model_copy(update={"n_epochs": 1, "patience": None} | without)
    lent = Lender(  # without texts of a method's own nothing is attacked, and nothing kept
        base,
        identity="",
        adapter=recipe.adapter,
        attacks=recipe.attack_named,
        terms=Terms(recipe.attacks.constraints, recipe.seed, bf16, base.device),
        cache=Cache(Path(os.devnull)),
    )
    run = partial(fit, adapted, once, base.tokens(texts), labels, pad_id=base.pad_id, bf16=bf16, texts=texts, lent=lent)
    return min(run(seed=i).seconds for i in range(REPEATS))


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
