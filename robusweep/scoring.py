"""The points of one trial, measured: every attack on each, in turn, raced and replayed where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from robusweep import model as model_stage
from robusweep.assignment import PointPlan
from robusweep.attacks import Attack
from robusweep.attacks.evaluation import Evaluation, Terms
from robusweep.cache import Cache
from robusweep.errors import MissingError
from robusweep.examples import Dataset, Example
from robusweep.model import TextModel
from robusweep.progress import Progress
from robusweep.queries import ANSWERS, QueryMemory
from robusweep.race import Arm, Race, stops
from robusweep.recipe import Recipe
from robusweep.record import (
    AttackOutcome,
    AttackScore,
    Flag,
    PointRecord,
    Stopped,
    read_outcomes,
    read_trial,
    robust_accuracy,
    write_text,
)
from robusweep.scores import Rate
from robusweep.spec import digest_of

if TYPE_CHECKING:
    from torch import Tensor

Parameters = Callable[[], "Mapping[str, Tensor]"]  # makes what a point's model is: mixed weights by name


@dataclass(frozen=True)
class Ground:
    """What every stage of one trial stands on."""

    recipe: Recipe
    dataset: Dataset
    base: TextModel
    base_identity: str
    bf16: bool
    cache: Cache
    progress: Progress
    folder: Path

    @property
    def terms(self) -> Terms:
        return Terms(self.recipe.attacks.constraints, self.recipe.seed, self.bf16, self.base.device)


@dataclass
class Contender:
    """A point while it is measured; outcomes are by attack, in the order of the examples seen so far."""

    plan: PointPlan
    parameters: Parameters
    seconds: dict[str, float] = field(default_factory=dict)
    clean_accuracy: Rate | None = None
    outcomes: dict[str, list[AttackOutcome]] = field(default_factory=dict)
    stopped: Stopped | None = None


def score(points: Sequence[tuple[PointPlan, Parameters]], protocol_hash: str, ground: Ground) -> list[PointRecord]:
    """A record for each point, in the same order.

    Clean accuracy is on validation, the temperature from calibration; validation's first texts are attacked. With
    ``race``, known attacks see ever more examples, and points that are dominated are attacked no further. Held-out
    attacks, what replay still has to try, and flags come last, for the points that are still running.
    """
    suite, examples = ground.recipe.attacks, ground.dataset.validation[: ground.recipe.attacks.n_examples]
    contenders = [Contender(plan, parameters) for plan, parameters in points]
    scoring = _Scoring(contenders, ground)
    looks = suite.race.looks(len(examples)) if suite.race else [len(examples)]
    for contender in contenders:
        ground.progress.say(f"{contender.plan.id}: scoring")
        scoring.attack(contender, suite.known, examples[: looks[0]])
    for n, more in pairwise(looks):
        assert suite.race is not None
        scoring.stop(suite.race, n, n_looks=len(looks), protocol_hash=protocol_hash)
        for contender in scoring.running():
            scoring.attack(contender, suite.known, examples[:more])
    for contender in scoring.running():
        scoring.attack(contender, suite.held_out, examples)
    return [scoring.record(contender, examples) for contender in contenders]


class _Scoring:
    """The steps of ``score``. One network is held at a time; what it has answered is kept on disk."""

    def __init__(self, contenders: Sequence[Contender], ground: Ground) -> None:
        self._contenders, self._ground = contenders, ground
        self._held: tuple[Contender, Evaluation, str] | None = None

    def running(self) -> list[Contender]:
        return [contender for contender in self._contenders if contender.stopped is None]

    # ------------------------------------------------------------------------------------------- victims
    def _evaluation(self, contender: Contender) -> tuple[Evaluation, str]:
        """(the contender's evaluation, the digest of its weights)."""
        if self._held is None or self._held[0] is not contender:
            self._held = None  # its network goes before another is made
            with self._ground.progress.stage("clean", contender.seconds):
                self._held = contender, *self._made(contender.parameters())
            contender.clean_accuracy = self._held[1].clean_accuracy
        return self._held[1], self._held[2]

    def _made(self, parameters: Mapping[str, Tensor]) -> tuple[Evaluation, str]:
        ground, base = self._ground, self._ground.base
        digest = model_stage.network_digest(ground.base_identity, parameters, base.max_tokens)

        def memory(precision: str) -> QueryMemory:
            name = digest_of({"code": ANSWERS, "victim": digest, "precision": precision, **ground.terms.hardware})
            return QueryMemory(ground.cache.root / "queries" / f"{name}.bin")

        fast, exact = model_stage.victims(base, parameters, bf16=ground.bf16, memory=memory)
        evaluation = Evaluation(
            fast,
            exact,
            digest=digest,
            clean=ground.dataset.validation,
            calibration=ground.dataset.calibration if ground.recipe.attacks.calibrate else None,
            terms=ground.terms,
            cache=ground.cache,
        )
        return evaluation, digest

    # ----------------------------------------------------------------------------------------- attacking
    def attack(self, contender: Contender, attacks: Sequence[Attack], examples: Sequence[Example]) -> None:
        """Outcomes on all these examples; what an earlier look has attacked is not attacked again."""
        evaluation, _ = self._evaluation(contender)
        for attack in attacks:
            with self._ground.progress.stage(f"attack {attack.kind}", contender.seconds):
                done = {o.example_id: o for o in contender.outcomes.get(attack.kind, [])}
                new = [example for example in examples if example.id not in done]
                tried = self._replayed(contender, attack, new) if self._ground.recipe.attacks.replay else {}
                broken = {key for key, outcome in tried.items() if outcome.status == "broken"}
                found = evaluation.attack(attack, [example for example in new if example.id not in broken])
                done |= tried | {o.example_id: _with_tries(o, tried.get(o.example_id)) for o in found}
                contender.outcomes[attack.kind] = [done[example.id] for example in examples]

    def _replayed(self, contender: Contender, attack: Attack, examples: Sequence[Example]) -> dict[str, AttackOutcome]:
        """What the texts that this attack found against other points do to this one, for each example with such texts.

        ``broken`` at the first text that succeeds. An example that is wrong anyway is left to the attack.
        """
        pool = _pool(attack, [other for other in self._contenders if other is not contender])
        met = [example for example in examples if example.id in pool]
        evaluation, _ = self._evaluation(contender)
        right = evaluation.predictions([example.text for example in met])
        found: dict[str, AttackOutcome] = {}
        for example, predicted in zip(met, right, strict=True):
            if predicted == example.label:
                texts = list(pool[example.id])
                labels = evaluation.predictions(texts)
                wrong = next((i for i, label in enumerate(labels) if label != example.label), None)
                first = pool[example.id][texts[wrong or 0]]
                changed = {"n_queries": len(texts) if wrong is None else wrong + 1, "replayed": True}
                found[example.id] = first.model_copy(update=changed) if wrong is not None else _stood(first, len(texts))
        return found

    def _replay_late(self, contender: Contender, examples: Sequence[Example]) -> None:
        """The second pass, which makes the replay symmetric: a point meets what was found after its own turn."""
        for attack in [*self._ground.recipe.attacks.known, *self._ground.recipe.attacks.held_out]:
            mine = {o.example_id: o for o in contender.outcomes[attack.kind]}
            standing = [example for example in examples if mine[example.id].status == "survived"]
            late = self._replayed(contender, attack, standing)
            mine |= {key: outcome for key, outcome in late.items() if outcome.status == "broken"}
            contender.outcomes[attack.kind] = [mine[example.id] for example in examples]

    # -------------------------------------------------------------------------------------------- racing
    def stop(self, race: Race, n: int, *, n_looks: int, protocol_hash: str) -> None:
        """Stop the points that others dominate after ``n`` examples: points of this trial, or finished ones."""
        known = [attack.kind for attack in self._ground.recipe.attacks.known]
        arms = _finished(self._ground.folder, protocol_hash, known)
        for contender in self.running():
            assert contender.clean_accuracy is not None
            survived = _survived([contender.outcomes[kind] for kind in known])
            arms.append(Arm(contender.plan.id, contender.clean_accuracy.value, survived))
        n_started = len(self._contenders)
        found = {s.name: s for s in stops(arms, race, n_examples=n, n_looks=n_looks, n_started=n_started)}
        for contender in self.running():
            if stop := found.get(contender.plan.id):
                contender.stopped = Stopped(by=stop.by, n_examples=n, p_value=stop.p_value, error=race.error)
                self._ground.progress.say(f"{stop.name}: stopped after {n} examples, dominated by {stop.by}")

    # ----------------------------------------------------------------------------------------- recording
    def record(self, contender: Contender, examples: Sequence[Example]) -> PointRecord:
        """What is known of a point, with its outcomes on disk."""
        suite, outcomes = self._ground.recipe.attacks, contender.outcomes
        evaluation, digest = self._evaluation(contender)
        flags: list[Flag] = []
        if contender.stopped is None:
            if suite.replay:
                self._replay_late(contender, examples)
            with self._ground.progress.stage("flags", contender.seconds):
                named = {str(a.kind): (a, outcomes[a.kind]) for a in [*suite.known, *suite.held_out]}
                flags = evaluation.flags(named, examples)
        for kind, rows in outcomes.items():
            text = "".join(outcome.model_dump_json() + "\n" for outcome in rows)
            write_text(self._ground.folder / "attacks" / f"{contender.plan.id}.{kind}.jsonl", text)
        known = {str(attack.kind): outcomes[attack.kind] for attack in suite.known}
        record = PointRecord(
            id=contender.plan.id,
            params=contender.plan.params,
            clean_accuracy=evaluation.clean_accuracy,
            robust_accuracy=robust_accuracy(known),
            attacks={kind: AttackScore.of(rows) for kind, rows in known.items()},
            held_out={kind: AttackScore.of(rows) for kind, rows in outcomes.items() if kind not in known},
            temperature=evaluation.temperature,
            model_digest=digest,
            flags=flags,
            replay=suite.replay,
            stopped=contender.stopped,
            seconds=contender.seconds,
        )
        robust = record.robust_accuracy
        self._ground.progress.say(f"{record.id}: clean {record.clean_accuracy.value:.3f}, robust {robust.value:.3f}")
        return record


def _with_tries(outcome: AttackOutcome, tried: AttackOutcome | None) -> AttackOutcome:
    """An outcome whose queries include the replayed texts that came before."""
    more = tried.n_queries if tried else 0
    return outcome.model_copy(update={"n_queries": outcome.n_queries + more}) if more else outcome


def _stood(found: AttackOutcome, n_queries: int) -> AttackOutcome:
    """An example that stood under every replayed text; ``found`` is an outcome of one of those."""
    return AttackOutcome(
        example_id=found.example_id, label=found.label, status="survived", n_queries=n_queries, n_words=found.n_words
    )


def _pool(attack: Attack, contenders: Iterable[Contender]) -> dict[str, dict[str, AttackOutcome]]:
    """Example -> text -> the outcome that found it, over what this attack itself broke, in the order of the points."""
    pool: dict[str, dict[str, AttackOutcome]] = {}
    for contender in sorted(contenders, key=lambda c: c.plan.id):
        for outcome in contender.outcomes.get(attack.kind, []):
            if outcome.status == "broken" and outcome.perturbed_text is not None and not outcome.replayed:
                pool.setdefault(outcome.example_id, {}).setdefault(outcome.perturbed_text, outcome)
    return pool


def _survived(suite: Sequence[Sequence[AttackOutcome]]) -> list[bool]:
    """Whether each example stood under every attack."""
    return [all(outcome.status == "survived" for outcome in row) for row in zip(*suite, strict=True)]


def _finished(folder: Path, protocol_hash: str, attacks: Sequence[str]) -> list[Arm]:
    """The points of this run's other trials that were attacked in full under the same protocol."""
    found = []
    for path in sorted(folder.parent.glob("*/record.json")):
        try:
            trial = read_trial(path)
        except MissingError:  # of another version: it can't be compared
            continue
        if path.parent == folder or trial.status != "complete" or trial.protocol_hash != protocol_hash:
            continue
        for point in trial.points:
            suite = [read_outcomes(path.parent / "attacks" / f"{point.id}.{kind}.jsonl") for kind in attacks]
            if point.stopped is None and all(suite):
                found.append(Arm(point.id, point.clean_accuracy.value, _survived(suite), running=False))
    return found
