"""What a trial leaves behind: records as JSON, written under a temporary name and renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from robusweep.errors import MissingError
from robusweep.scores import Rate, summary
from robusweep.spec import Spec

Status = Literal["survived", "broken", "misclassified"]
QUERY_GRID = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # where the accuracy-versus-query curve is read


class StandIn(Spec):
    """Something that the recipe names, replaced because it could not be had here."""

    what: Literal["data", "model", "attack"]
    asked: str
    used: str
    reason: str

    def notice(self) -> str:
        return f"stand-in for {self.what}: {self.asked!r} is replaced by {self.used!r} ({self.reason})"


class AttackOutcome(Spec):
    """What one attack did to one example.

    ``misclassified``: wrong before the attack, which then is not run. ``broken``: turned wrong. ``survived``: still
    right when the attack had nothing left to try. ``n_queries`` is TextAttack's count: texts that the attack asked the
    victim about, the unchanged one and repeated ones included. ``exhausted``: it survived because the budget ended.
    """

    example_id: str
    label: int
    status: Status
    n_queries: int = Field(ge=0)
    n_words: int = Field(ge=0)
    exhausted: bool = False
    n_words_changed: int | None = None  # of a broken example
    similarity: float | None = None  # cosine of sentence vectors, of a broken example; None when not measured
    perturbed_text: str | None = None  # of a broken example
    replayed: bool = False  # broken by a text that was found against another point


FLAGS: Mapping[str, str] = {  # name -> what it means
    "nondeterministic": "the same text gets other scores when it is asked again, so searches are led astray by chance",
    "depends_on_batch": "a text's scores depend on what is asked with it: the system is no function of the text alone",
    "saturated": "probabilities are so close to 0 and 1 that an attack can't see which change helps",
    "flat": "probabilities are nearly even, so scores say little",
    "coarse_scores": "many different texts get exactly the same scores, so an attack can't see which change helps",
    "zero_gradient": "the loss has no gradient at the word embeddings, so attacks that follow it go nowhere",
    "labels_beat_scores": "an attack that sees labels only breaks more texts than those with scores: scores mislead",
    "budget_exhausted": "many searches ended because their budget did: with more queries the accuracy would be lower",
    "less_budget_breaks_more": "a text broke with fewer queries and not with more, which no search of a function does",
    "no_adaptive_attack": "mixing weights depend on the text, and attacks that aim at single adapters were not tried",
    "uncalibrated_gain": "the accuracy under attack is higher without the temperature: over-confidence looked robust",
}


class Flag(Spec):
    """A reason not to believe a number as it stands. ``name`` is one of ``FLAGS``."""

    name: str
    detail: str  # what was measured, in one sentence


class CurvePoint(Spec):
    """Accuracy under attack if the attack may ask ``n_queries`` times and no more: right and not yet broken / all."""

    n_queries: int
    accuracy: Rate


class AttackScore(Spec):
    """An attack's rates over all attacked examples, with their denominators.

    ``accuracy_under_attack``: right before and after / all. ``success_rate``: turned wrong / right before.
    ``words_changed``: mean share of words changed over broken examples; ``n_words_changed_mean``: their mean number.
    ``similarity``: mean over broken examples where it was measured. ``n_exhausted``: survived because the budget ended.
    """

    accuracy_under_attack: Rate
    success_rate: Rate
    n_queries: int  # in all, over the attacked examples
    n_queries_median: float | None
    n_queries_p90: float | None
    words_changed: float | None
    n_words_changed_mean: float | None = None
    similarity: float | None = None
    n_exhausted: int = 0
    curve: list[CurvePoint] = []

    @classmethod
    def of(cls, outcomes: Sequence[AttackOutcome]) -> AttackScore:
        attacked = [o for o in outcomes if o.status != "misclassified"]
        broken = [o for o in outcomes if o.status == "broken"]
        middle, p90 = summary([o.n_queries for o in attacked])
        counts = [o.n_words_changed or 0 for o in broken]
        shares = [n / max(1, o.n_words) for n, o in zip(counts, broken, strict=True)]
        similar = [o.similarity for o in broken if o.similarity is not None]
        return cls(
            accuracy_under_attack=Rate.of(len(attacked) - len(broken), len(outcomes)),
            success_rate=Rate.of(len(broken), len(attacked)),
            n_queries=sum(o.n_queries for o in attacked),
            n_queries_median=middle,
            n_queries_p90=p90,
            words_changed=_mean(shares),
            n_words_changed_mean=_mean(counts),
            similarity=_mean(similar),
            n_exhausted=sum(o.exhausted for o in outcomes),
            curve=[CurvePoint(n_queries=q, accuracy=_accuracy_within(outcomes, q)) for q in _grid(outcomes)],
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _grid(outcomes: Sequence[AttackOutcome]) -> list[int]:
    """The part of the grid on which anything happens: up to the first point behind the last success."""
    last = max((o.n_queries for o in outcomes if o.status == "broken"), default=0)
    return [q for before, q in pairwise((0, *QUERY_GRID)) if before < last]


def _accuracy_within(outcomes: Sequence[AttackOutcome], n_queries: int) -> Rate:
    standing = [o for o in outcomes if o.status == "survived" or (o.status == "broken" and o.n_queries > n_queries)]
    return Rate.of(len(standing), len(outcomes))


def robust_accuracy(suite: Mapping[str, Sequence[AttackOutcome]]) -> Rate:
    """Right under *every* attack of the suite, per example / all. All attacks must have met the same examples."""
    rows = [[o.example_id for o in outcomes] for outcomes in suite.values()]
    if not rows or any(row != rows[0] for row in rows):
        raise ValueError("robust accuracy needs at least one attack, and every attack on the same examples in order")
    survived = zip(*([o.status == "survived" for o in outcomes] for outcomes in suite.values()), strict=True)
    return Rate.of(sum(all(row) for row in survived), len(rows[0]))


class Stopped(Spec):
    """Why a point was attacked no further than the first ``n_examples``.

    ``race``: point ``by`` was better with this p-value; ``error`` bounds the chance that any point of the race is
    stopped by one that is not better. ``early_stopping``: at this ``rung``, from 1 on, ``n_before`` of ``n_points``
    came before it, whose non-dominated rank was ``rank``. ``epochs``: the rung was one of epochs, and all that is known
    of the point is of adapters that were trained so far: a number of epochs, or below 1 a fraction of each method's.
    ``n_queries_saved``: what the known attacks would have asked about the other examples, had these been like those
    before; held-out attacks, which do not run either, apart. ``n_epochs_saved``: of the point's trial, summed over its
    adapters, where no point of it was left to train on for; to be counted once for all its points.
    """

    by: str | None = None
    n_examples: int
    p_value: float | None = None
    error: float | None = None
    reason: Literal["race", "early_stopping"] = "race"
    rung: int | None = None
    rank: int | None = None
    n_before: int | None = None
    n_points: int | None = None
    n_queries_saved: int | None = None
    epochs: float | None = None
    n_epochs_saved: int | None = None

    @model_serializer(mode="wrap")
    def _only_what_is_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value != type(self).model_fields[key].default}

    @property
    def in_training(self) -> bool:
        """Whether its adapters were not trained to the end."""
        return self.epochs is not None

    @property
    def stopper(self) -> str:
        """Who stopped it, in words."""
        return "a race" if self.reason == "race" else "early stopping"

    @property
    def when(self) -> str:
        """How far it had come, in words."""
        if self.epochs is None:
            return f"after {self.n_examples} examples"
        return f"{after_epochs(self.epochs)}, on {self.n_examples} examples"

    @property
    def why(self) -> str:
        """The reason, in words."""
        if self.reason == "race":
            return f"{self.by} is better (p = {self.p_value:.2g})"
        return f"rung {self.rung}, rank {self.rank}, {self.n_before} of {self.n_points} points before it"


def after_epochs(epochs: float) -> str:
    """A rung of epochs, in words."""
    if epochs < 1:
        return f"after {epochs:g} of its epochs of training"
    return f"after {epochs:g} {'epoch' if epochs == 1 else 'epochs'} of training"


class WeightProfile(Spec):
    """How much of each adapter answered some texts. Weights of a text are >= 0 and sum to 1.

    ``mean``: by adapter, in the order of ``names``, the clean one first. ``adversarial``: how many texts gave the
    adversarial adapters together a share in [0, 0.1), [0.1, 0.2), ..., [0.9, 1]. ``largest``: how many texts gave each
    adversarial adapter the largest weight among these.
    """

    names: list[str]
    n: int
    mean: list[float]
    adversarial: list[int]
    largest: list[int]

    @classmethod
    def of(cls, names: Sequence[str], weights: Sequence[Sequence[float]]) -> WeightProfile:
        """``weights``: of at least one text, [texts, adapters]."""
        n = len(weights)
        counts, largest = [0] * 10, [0] * (len(names) - 1)
        for row in weights:
            counts[min(9, int(10 * (1.0 - row[0]) + 1e-9))] += 1
            largest[max(range(len(largest)), key=lambda i: row[i + 1])] += 1
        mean = [sum(column) / n for column in zip(*weights, strict=True)]
        return cls(names=list(names), n=n, mean=mean, adversarial=counts, largest=largest)


class PruningRecord(Spec):
    """What pruning took from a point's network.

    ``zeros``: zero weights / all weights of the linear maps in the encoder's layers. ``error``: mean over the maps that
    lost weights of |W X - W' X'|^2 / |W X|^2 on calibration texts, X being what the map reads in the dense network and
    X' what it reads in the pruned one.
    """

    kind: str
    units: str
    zeros: float
    error: float


class PointRecord(Spec):
    """One scored point of a trial: the trained set at one value of each after-training dimension.

    ``robust_accuracy`` is over the known attacks; held-out attacks are scored apart and select nothing. With
    ``replay``, texts found against other points of the trial count too. A ``stopped`` point has seen fewer examples.

    ``per_text``: mixing weights depend on the text. Then attacks also try what breaks each adapter alone or their even
    mean, and ``unaided`` holds the accuracy under each attack without that. ``profiles``: the weights of clean texts,
    and of adversarial ones by attack. ``static``: right / all texts with which an attack broke the clean adapter; never
    to be mixed with the accuracy under an attack that aims at this very system. ``chosen_weight``: what the weighting
    chose, where it chooses one for all texts. ``pruning``: what was taken after training and mixing.
    ``inference_flops``, ``n_parameters``: of the whole system, as ``robusweep.costs`` counts them.
    """

    id: str
    params: dict[str, Any]  # dotted recipe key -> value, searched keys only
    clean_accuracy: Rate
    robust_accuracy: Rate
    attacks: dict[str, AttackScore]
    held_out: dict[str, AttackScore] = {}
    temperature: float | None = None
    model_digest: str
    flags: list[Flag] = []
    replay: bool = False
    stopped: Stopped | None = None
    per_text: bool = False
    unaided: dict[str, Rate] = {}
    static: dict[str, Rate] = {}
    profiles: dict[str, WeightProfile] = {}
    chosen_weight: float | None = None
    pruning: PruningRecord | None = None
    inference_flops: int | None = None  # None: a record of an earlier version
    n_parameters: int | None = None
    seconds: dict[str, float] = {}  # stage -> seconds of this point

    def metrics(self) -> dict[str, float]:
        """Every number an objective may name: rates by name, accuracy under attack by attack, and costs."""
        named = {"clean_accuracy": self.clean_accuracy.value, "robust_accuracy": self.robust_accuracy.value}
        named |= {f"accuracy_under_attack.{a}": s.accuracy_under_attack.value for a, s in self.attacks.items()}
        costs = {"inference_flops": self.inference_flops, "n_parameters": self.n_parameters}
        return named | {name: float(cost) for name, cost in costs.items() if cost is not None}


class AdapterRecord(Spec):
    """One trained adapter: which view it was trained on, under which cache key, and what it cost.

    ``n_forward``, ``n_backward``: passes of one batch each; ``n_tokens``: what forward passes computed, padding
    included. ``peak_memory_bytes``: the most that tensors took on an accelerator; on a CPU the process's peak.
    ``validation_accuracy`` by epoch, where training looked at it; ``kept_epoch``: the one whose weights were kept,
    from 1. ``readings``: what the method reports of itself. ``entropy_range``: lowest and highest entropy in nats of
    its predictions on texts that it was trained on. ``reference_seconds``: what it took to train a network
    that this one's texts were made against, unless that is the clean view's. ``epochs``: how many were trained, where
    early stopping ended the training there; ``cache_key`` is then that of the state after them.
    """

    view: str  # "clean", or the adversarial method with its place, as "adversarial.0"
    method: str
    cache_key: str
    cached: bool  # True when this trial found it already trained
    train_seconds: float  # what training it took, whenever that was
    final_loss: float
    n_steps: int
    token_efficiency: float  # real tokens / computed tokens
    precision: str
    n_forward: int = 0
    n_backward: int = 0
    n_tokens: int = 0
    peak_memory_bytes: int = 0
    validation_accuracy: list[float] = []
    kept_epoch: int | None = None  # None: a record of an earlier version
    readings: dict[str, float] = {}
    entropy_range: list[float] = [0.0, 0.0]
    reference_seconds: float = 0.0
    epochs: int | None = None  # None: trained to its end


class TicketRecord(Spec):
    """The ticket of a trial: fractions of heads and neurons kept, and what finding it took.

    ``n_removed``: weights and biases that are gone. Drawn at ``gap``, after ``step`` steps; an online search would have
    ended after ``stop_step``. ``fallback``: what was drawn because nothing settled. ``distances``: of heads and neurons
    from each gap to the next. ``search``: steps, passes and seconds, also where the record came from the cache.
    """

    kind: str
    head_density: float
    neuron_density: float
    n_removed: int
    gap: int | None = None
    step: int | None = None
    stop_step: int | None = None
    fallback: str | None = None
    distances: list[list[float]] = []
    cached: bool = False
    search: dict[str, Any] = {}


class TrialRecord(Spec):
    """One trial, whatever became of it. ``recipe`` is the resolved recipe with the trial's parameters applied."""

    schema_version: Literal[1] = 1
    name: str
    number: int
    status: Literal["complete", "failed"]
    params: dict[str, Any]
    recipe: dict[str, Any]
    recipe_digest: str
    protocol_hash: str = ""
    data: dict[str, Any] = {}  # name, digest, label names, counts, notes
    stand_ins: list[StandIn] = []
    ticket: TicketRecord | None = None
    adapters: list[AdapterRecord] = []
    points: list[PointRecord] = []
    seconds: dict[str, float] = {}  # stage -> seconds before scoring; a point holds its own
    environment: dict[str, str] = {}
    error: str | None = None
    error_kind: str | None = None

    @property
    def train_seconds(self) -> float:
        """What finding the ticket and training the adapters costs, also where these came from the cache."""
        search = self.ticket.search.get("seconds", 0.0) if self.ticket else 0.0
        return float(search) + sum(adapter.train_seconds + adapter.reference_seconds for adapter in self.adapters)

    @property
    def n_trained(self) -> int:
        """How many adapters this trial had to train itself."""
        return sum(not adapter.cached for adapter in self.adapters)


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name in the same folder, flush to disk, rename: all of it, or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written as ``write_text`` does. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_outcomes(path: Path) -> list[AttackOutcome]:
    """The outcomes of one attack on one point, as a trial left them; none when the file is not there or not ours."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [AttackOutcome.model_validate_json(line) for line in lines if line]
    except (OSError, ValidationError, UnicodeDecodeError):
        return []


def read_clean(folder: Path, point_id: str) -> list[bool] | None:
    """Whether a point was right about each validation text, in order; None when the file is not there."""
    path = folder / f"{point_id}.clean.txt"
    return [mark == "1" for mark in path.read_text(encoding="utf-8").strip()] if path.is_file() else None


def read_trials(run_dir: Path) -> list[TrialRecord]:
    """Every trial record below ``run_dir``, by number. Raises ``MissingError`` naming a file that is none."""
    return sorted(map(read_trial, run_dir.glob("trials/*/record.json")), key=lambda record: record.number)


def read_trial(path: Path) -> TrialRecord:
    """One trial record. Raises ``MissingError`` when the file is damaged, or of another version."""
    try:
        return TrialRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as e:
        first = e.errors()[0]["msg"] if isinstance(e, ValidationError) else str(e)
        raise MissingError(
            f"{path} is no trial record of this version: {first}",
            hint=f"remove {path.parent} and run the recipe again: that trial is made anew",
        ) from None
