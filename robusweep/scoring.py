"""The points of one trial, measured: every attack on each, in turn, raced and replayed where the recipe asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from robusweep import defended
from robusweep import model as model_stage
from robusweep.assignment import PointPlan
from robusweep.attacks import Attack
from robusweep.attacks.evaluation import Evaluation
from robusweep.attacks.replay import Pool, aided, pooled, replayed
from robusweep.costs import Costs, Meter
from robusweep.errors import MissingError
from robusweep.examples import Example
from robusweep.ground import Ground
from robusweep.halving import Ladder
from robusweep.mixing import Fixed, PerText, System, TrainedSet
from robusweep.pruned import pruned
from robusweep.race import Arm, Race, stops
from robusweep.record import (
    AttackOutcome,
    AttackScore,
    Flag,
    PointRecord,
    PruningRecord,
    Stopped,
    WeightProfile,
    read_outcomes,
    read_trial,
    robust_accuracy,
    write_text,
)
from robusweep.scores import Rate

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.model import ModelVictim


@dataclass
class Contender:
    """A system while it is measured; outcomes are by attack, in the order of the examples seen so far.

    ``alone``: where weights depend on the text, the outcomes before texts found against its parts were tried.
    """

    plan: PointPlan
    system: System | None = None  # None: made from the plan whenever it is needed, since many would fill the memory
    chosen_weight: float | None = None
    pruning: PruningRecord | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    clean_accuracy: Rate | None = None
    costs: Costs | None = None
    outcomes: dict[str, list[AttackOutcome]] = field(default_factory=dict)
    alone: dict[str, list[AttackOutcome]] = field(default_factory=dict)
    stopped: Stopped | None = None


@dataclass(frozen=True)
class Held:
    """What is in memory of one contender."""

    contender: Contender
    evaluation: Evaluation
    victim: ModelVictim
    digest: str


def score(
    plans: Sequence[PointPlan],
    adapters: TrainedSet,
    protocol_hash: str,
    ground: Ground,
    *,
    ladder: Ladder | None = None,
) -> list[PointRecord]:
    """A record for each point, in the same order.

    Clean accuracy is on validation, the temperature from calibration; validation's first texts are attacked. With
    ``race``, known attacks see ever more examples, and points that are dominated are attacked no further; with
    ``ladder``, neither are points that fall behind those of all trials at one of its rungs. Held-out attacks, what
    replay still has to try, and flags come last, for the points that are still running.
    """
    suite, examples = ground.recipe.attacks, ground.dataset.validation[: ground.recipe.attacks.n_examples]
    contenders = [Contender(plan) for plan in plans]
    scoring = _Scoring(contenders, adapters, ground)
    scoring.share_trunk()
    looks = suite.race.looks(len(examples)) if suite.race else []
    rungs = ladder.sizes if ladder else []
    if not looks and not rungs:
        return scoring.one_by_one(examples)
    sizes = sorted({*looks, *rungs, len(examples)})
    for contender in contenders:
        ground.progress.say(f"{contender.plan.id}: scoring")
        scoring.attack(contender, suite.known, examples[: sizes[0]])
    for n, more in pairwise(sizes):
        if suite.race is not None and n in looks:
            scoring.stop(suite.race, n, n_looks=len(looks), protocol_hash=protocol_hash)
        if ladder is not None and n in rungs:
            scoring.halve(ladder, n)
        for contender in scoring.running():
            scoring.attack(contender, suite.known, examples[:more])
    for contender in scoring.running():
        scoring.attack(contender, suite.held_out, examples)
    return [scoring.record(contender, examples) for contender in contenders]


def fallen_behind(
    plans: Sequence[PointPlan], adapters: TrainedSet, ground: Ground, ladder: Ladder, *, epochs: float
) -> list[PointRecord]:
    """A record for each point that stops at this rung of epochs, as its half-trained ``adapters`` make it.

    All points meet the known attacks on the first examples. What that took of the others goes to the trial's seconds.
    """
    n = ladder.n_at_epochs
    examples = ground.dataset.validation[:n]
    contenders = [Contender(plan) for plan in plans]
    scoring = _Scoring(contenders, adapters, ground)
    scoring.share_trunk()
    for contender in contenders:
        scoring.attack(contender, ground.recipe.attacks.known, examples)
    scoring.halve(ladder, n, epochs=epochs)
    for contender in scoring.running():
        ground.progress.add("points in training", sum(contender.seconds.values()))
    return [scoring.record(contender, examples) for contender in contenders if contender.stopped is not None]


class _Scoring:
    """The steps of ``score``. One system is held at a time; what it has answered is kept on disk."""

    def __init__(self, contenders: Sequence[Contender], adapters: TrainedSet, ground: Ground) -> None:
        self._contenders, self._ground = contenders, ground
        self._adapters = replace(adapters, accuracies=self._accuracies)
        self._inner: dict[str, Contender] = {}  # systems inside others, by digest
        self._costs: dict[str, Costs] = {}  # by digest
        self._held: Held | None = None

    def share_trunk(self) -> None:
        """Clean texts, asked of all fixed weights in one go where adapters sit in the top layers alone.

        What lies below is then computed once. Victims find the answers in their memory.
        """
        ground = self._ground
        if getattr(ground.recipe.adapter, "layers", None) is None:
            return
        with ground.progress.stage("clean of all weights"):
            texts = [example.text for example in [*ground.dataset.validation, *ground.dataset.calibration]]
            rows = list({model_stage.key_of(row): row for row in map(np.array, ground.base.tokens(texts))}.values())
            keys = [model_stage.key_of(row) for row in rows]
            fixed = {}
            for plan in (contender.plan for contender in self._contenders):
                if plan.prune is None and getattr(plan.mix, "weighting", "fixed") == "fixed":
                    system = plan.mix.mix(self._adapters) if plan.mix else Fixed(self._adapters.folded[0])
                    if isinstance(system, Fixed):
                        fixed[defended.digest(system, ground.base, ground.base_identity)] = system.parameters
            memories = {digest: ground.memory(digest, "fp32") for digest in fixed}
            new = [digest for digest, memory in memories.items() if len(memory.recall(keys)) < len(keys)]
            answers = model_stage.answers_of_all(ground.base, [fixed[digest] for digest in new], rows)
            for digest, logits in zip(new, answers, strict=True):
                memories[digest].remember(keys, logits)

    def one_by_one(self, examples: Sequence[Example]) -> list[PointRecord]:
        """Every contender from beginning to end, so that its system is made once; replay waits until all are met."""
        suite, records = self._ground.recipe.attacks, []
        if suite.static:
            self._static_texts(examples)
        for contender in self._contenders:
            self._ground.progress.say(f"{contender.plan.id}: scoring")
            self.attack(contender, [*suite.known, *suite.held_out], examples)
            records += [] if suite.replay else [self.record(contender, examples)]
        return records or [self.record(contender, examples) for contender in self._contenders]

    def running(self) -> list[Contender]:
        return [contender for contender in self._contenders if contender.stopped is None]

    # ------------------------------------------------------------------------------------------- victims
    def _measured(self, contender: Contender) -> Held:
        if self._held is None or self._held.contender is not contender:
            self._held = None  # its network goes before another is made
            system = self._system(contender)
            self._held = None  # of the clean adapter, which a rule may have asked
            with self._ground.progress.stage("clean", contender.seconds):
                self._held = Held(contender, *self._made(system))
            contender.clean_accuracy = self._held.evaluation.clean_accuracy
            contender.costs = self._costs.get(self._held.digest)
        return self._held

    def _system(self, contender: Contender) -> System:
        if contender.system is not None:
            return contender.system
        system = self._mixed(contender)
        prune = contender.plan.prune
        if prune is None or not isinstance(system, Fixed):
            return system
        with self._ground.progress.stage("prune", contender.seconds):
            texts = (example.text for example in self._ground.dataset.train)
            system, contender.pruning = pruned(system, prune, self._ground.base, texts)
        return system

    def _mixed(self, contender: Contender) -> System:
        """The adapters as the plan has them mixed, or the clean one."""
        mixer = contender.plan.mix
        if mixer is None:
            return Fixed(self._adapters.folded[0])
        if contender.chosen_weight is not None:
            mixer = mixer.model_copy(update={"weighting": "fixed", "weight": contender.chosen_weight})
        system = mixer.mix(self._adapters)
        if not isinstance(system, Fixed):
            contender.system = system
        elif system.chosen_weight is not None:
            contender.chosen_weight = system.chosen_weight
        return system

    def _made(self, system: System) -> tuple[Evaluation, ModelVictim, str]:
        evaluation, victim, digest = self._ground.evaluation(system)
        if digest not in self._costs:
            self._costs[digest] = self._meter.costs(system)
        return evaluation, victim, digest

    @cached_property
    def _meter(self) -> Meter:
        base, texts = self._ground.base, [example.text for example in self._ground.dataset.validation]
        n_tokens = round(mean(map(len, base.tokens(texts)))) if texts else 1
        return Meter(base, n_tokens=n_tokens, may_be_pruned=any(c.plan.prune for c in self._contenders))

    def _part(self, system: Fixed) -> Contender:
        """A system inside others, as a contender that is no point; the same one for equal systems."""
        name = defended.digest(system, self._ground.base, self._ground.base_identity)
        plan = PointPlan(id=f"part {name[:8]}", params={})
        return self._inner.setdefault(name, Contender(plan, system))

    def _clean_adapter(self) -> Contender:
        return self._part(Fixed(self._adapters.folded[0]))

    def _accuracies(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(clean, under every known attack) on calibration, by texts that are made against the clean adapter."""
        examples = self._ground.dataset.calibration
        clean = self._measured(self._clean_adapter()).evaluation
        found = [clean.attack(attack, examples) for attack in self._ground.recipe.attacks.known]
        _, exact = defended.victims(Fixed(parameters), self._ground.base, self._ground.base_identity, bf16=False)
        right = _right(exact, [(e.text, e.label) for e in examples])
        stood = list(right)
        for outcomes in found:
            there = [i for i, o in enumerate(outcomes) if o.perturbed_text is not None]
            texts = [(str(outcomes[i].perturbed_text), outcomes[i].label) for i in there]
            for i, is_right in zip(there, _right(exact, texts), strict=True):
                stood[i] = stood[i] and is_right
        return sum(right) / len(right), sum(stood) / len(stood)

    # ----------------------------------------------------------------------------------------- attacking
    def attack(self, contender: Contender, attacks: Sequence[Attack], examples: Sequence[Example]) -> None:
        """Outcomes on all these examples; what an earlier look has attacked is not attacked again."""
        suite = self._ground.recipe.attacks
        has_parts = suite.adaptive and contender.plan.prune is None  # what is pruned has none, and is made but once
        parts = self._attacked_parts(contender, _changing(attacks), examples) if has_parts else []
        for attack in attacks:
            evaluation = self._measured(contender).evaluation
            with self._ground.progress.stage(f"attack {attack.kind}", contender.seconds):
                done = {o.example_id: o for o in contender.outcomes.get(attack.kind, [])}
                new = [example for example in examples if example.id not in done]
                tried = replayed(evaluation, new, _pool(attack, self._others(contender))) if suite.replay else {}
                broken = {key for key, outcome in tried.items() if outcome.status == "broken"}
                found = evaluation.attack(attack, [example for example in new if example.id not in broken])
                done |= tried | {o.example_id: _with_tries(o, tried.get(o.example_id)) for o in found}
                contender.outcomes[attack.kind] = [done[example.id] for example in examples]
                if parts and _changing([attack]):
                    self._adapt(contender, attack, new, parts)

    def _others(self, contender: Contender) -> list[Contender]:
        return [other for other in self._contenders if other is not contender]

    def _attacked_parts(
        self, contender: Contender, attacks: Sequence[Attack], examples: Sequence[Example]
    ) -> list[Contender]:
        """The simpler systems inside one whose weights depend on the text, attacked on these examples."""
        parts = [self._part(system) for system in defended.aides(self._system(contender))]
        for part in parts:
            if any(len(part.outcomes.get(attack.kind, [])) < len(examples) for attack in attacks):
                self.attack(part, attacks, examples)
                for stage, seconds in part.seconds.items():  # what it costs is the point's
                    contender.seconds[f"parts {stage}"] = contender.seconds.get(f"parts {stage}", 0.0) + seconds
                part.seconds.clear()
        return parts

    def _adapt(self, contender: Contender, attack: Attack, new: Sequence[Example], parts: Sequence[Contender]) -> None:
        """The adaptive attack: what breaks a part is tried on the whole, for examples that stood so far."""
        rows = contender.outcomes[attack.kind]
        already = {o.example_id: o for o in contender.alone.get(attack.kind, [])}
        contender.alone[attack.kind] = [already.get(o.example_id, o) for o in rows]
        evaluation = self._measured(contender).evaluation
        contender.outcomes[attack.kind] = aided(evaluation, rows, new, _pool(attack, parts))

    def _replay_late(self, contender: Contender, examples: Sequence[Example]) -> None:
        """The second pass, which makes the replay symmetric: a point meets what was found after its own turn."""
        for attack in [*self._ground.recipe.attacks.known, *self._ground.recipe.attacks.held_out]:
            evaluation, rows = self._measured(contender).evaluation, contender.outcomes[attack.kind]
            contender.outcomes[attack.kind] = aided(evaluation, rows, examples, _pool(attack, self._others(contender)))

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

    def halve(self, ladder: Ladder, n: int, *, epochs: float | None = None) -> None:
        """Stop the points that fall behind those of all trials on the first ``n`` examples, at a rung of ``epochs``."""
        suite, running = self._ground.recipe.attacks, self.running()
        found = ladder.decide(n, [self._so_far(contender) for contender in running], epochs=epochs)
        for contender in running:
            verdict = found[contender.plan.id]
            if verdict.goes_on:
                continue
            asked = sum(o.n_queries for attack in suite.known for o in contender.outcomes[attack.kind])
            contender.stopped = Stopped(
                n_examples=n,
                reason="early_stopping",
                rung=ladder.number(n, epochs),
                rank=verdict.rank,
                n_before=verdict.n_before,
                n_points=verdict.n_points,
                n_queries_saved=round(asked * (ladder.n_examples - n) / n),
                epochs=epochs,
            )
            stopped = contender.stopped
            self._ground.progress.say(f"{contender.plan.id}: stopped {stopped.when}, {stopped.why}")

    def _so_far(self, contender: Contender) -> PointRecord:
        """A point as its known attacks have left it, with everything that objectives may name."""
        known = {str(a.kind): contender.outcomes[a.kind] for a in self._ground.recipe.attacks.known}
        assert contender.clean_accuracy is not None
        return PointRecord(
            id=contender.plan.id,
            params=contender.plan.params,
            clean_accuracy=contender.clean_accuracy,
            robust_accuracy=robust_accuracy(known),
            attacks={kind: AttackScore.of(rows) for kind, rows in known.items()},
            model_digest="",
            chosen_weight=contender.chosen_weight,
            pruning=contender.pruning,
            inference_flops=contender.costs.inference_flops if contender.costs else None,
            n_parameters=contender.costs.n_parameters if contender.costs else None,
            seconds=contender.seconds,
        )

    # ----------------------------------------------------------------------------------------- recording
    def record(self, contender: Contender, examples: Sequence[Example]) -> PointRecord:
        """What is known of a point, with its outcomes on disk."""
        suite, outcomes = self._ground.recipe.attacks, contender.outcomes
        static = self._static_texts(examples) if suite.static and contender.stopped is None else {}
        held = self._measured(contender)
        evaluation, per_text = held.evaluation, isinstance(contender.system, PerText)
        flags: list[Flag] = []
        if contender.stopped is None:
            if suite.replay:
                self._replay_late(contender, examples)
            with self._ground.progress.stage("flags", contender.seconds):
                plain = outcomes | contender.alone
                named = {str(a.kind): (a, plain[a.kind]) for a in [*suite.known, *suite.held_out]}
                flags = evaluation.flags(named, examples)
        if per_text and not suite.adaptive:
            flags.append(Flag(name="no_adaptive_attack", detail="attacks.adaptive is false"))
        for kind, rows in outcomes.items():
            text = "".join(outcome.model_dump_json() + "\n" for outcome in rows)
            write_text(self._ground.folder / "attacks" / f"{contender.plan.id}.{kind}.jsonl", text)
        marks = "".join("01"[right] for right in evaluation.clean_right)
        write_text(self._ground.folder / "attacks" / f"{contender.plan.id}.clean.txt", f"{marks}\n")
        record = self._so_far(contender)
        record = record.model_copy(
            update={
                "held_out": {kind: AttackScore.of(r) for kind, r in outcomes.items() if kind not in record.attacks},
                "temperature": evaluation.temperature,
                "model_digest": held.digest,
                "flags": flags,
                "replay": suite.replay,
                "stopped": contender.stopped,
                "per_text": per_text,
                "unaided": {kind: AttackScore.of(r).accuracy_under_attack for kind, r in contender.alone.items()},
                "static": {kind: _rate(_right(held.victim, texts)) for kind, texts in static.items() if texts},
                "profiles": self._profiles(held, static or _broken_texts(outcomes)) if per_text else {},
            }
        )
        robust = record.robust_accuracy
        self._ground.progress.say(f"{record.id}: clean {record.clean_accuracy.value:.3f}, robust {robust.value:.3f}")
        return record

    def _static_texts(self, examples: Sequence[Example]) -> dict[str, list[tuple[str, int]]]:
        """Attack -> (text, label) of every text with which it broke the clean adapter, the same for all points."""
        suite, clean = self._ground.recipe.attacks, self._clean_adapter()
        attacks = _changing([*suite.known, *suite.held_out])
        if any(len(clean.outcomes.get(attack.kind, [])) < len(examples) for attack in attacks):
            self.attack(clean, attacks, examples)
        return _broken_texts(clean.outcomes)

    def _profiles(self, held: Held, texts: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, WeightProfile]:
        """How the weights differ between clean texts and those of each attack; every text's are left on disk."""
        clean = [(example.text, example.label) for example in self._ground.dataset.validation]
        system = held.contender.system
        assert isinstance(system, PerText)
        lines, profiles = [], {}
        for source, rows in {"clean": clean, **texts}.items():
            weights = held.victim.weights([text for text, _ in rows]) if rows else None
            if weights is None:
                continue
            profiles[source] = WeightProfile.of(system.adapters.names, weights.tolist())
            for (text, label), row in zip(rows, weights.tolist(), strict=True):
                lines.append({"of": source, "text": text, "label": label, "weights": row})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(self._ground.folder / "attacks" / f"{held.contender.plan.id}.weights.jsonl", text)
        return profiles


def _right(victim: ModelVictim, rows: Sequence[tuple[str, int]]) -> list[bool]:
    """Whether the prediction for each (text, label) is right."""
    if not rows:
        return []
    found: list[int] = victim([text for text, _ in rows]).argmax(axis=1).tolist()
    return [predicted == label for predicted, (_, label) in zip(found, rows, strict=True)]


def _rate(right: Sequence[bool]) -> Rate:
    return Rate.of(sum(right), len(right))


def _broken_texts(outcomes: Mapping[str, Sequence[AttackOutcome]]) -> dict[str, list[tuple[str, int]]]:
    """(adversarial text, label) of every broken example, by attack."""
    return {
        kind: [(str(o.perturbed_text), o.label) for o in rows if o.status == "broken" and o.perturbed_text is not None]
        for kind, rows in outcomes.items()
    }


def _with_tries(outcome: AttackOutcome, tried: AttackOutcome | None) -> AttackOutcome:
    """An outcome whose queries include the replayed texts that came before."""
    more = tried.n_queries if tried else 0
    return outcome.model_copy(update={"n_queries": outcome.n_queries + more}) if more else outcome


def _changing(attacks: Sequence[Attack]) -> list[Attack]:
    """Those whose successes are errors; what keeps the answer of one system breaks no other."""
    return [attack for attack in attacks if attack.goal == "change_label"]


def _pool(attack: Attack, contenders: Iterable[Contender]) -> Pool:
    """What this attack broke of these contenders, in the order of the points."""
    rows = (c.outcomes.get(attack.kind, []) for c in sorted(contenders, key=lambda c: c.plan.id))
    return pooled(rows if _changing([attack]) else [])


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
