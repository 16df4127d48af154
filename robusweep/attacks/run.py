"""Run one attack on a list of examples: many in lockstep, each seeded, verified with the exact victim, resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.errors import MissingError
from robusweep.examples import Example, Victim
from robusweep.record import AttackOutcome
from robusweep.seeds import derive

if TYPE_CHECKING:
    from robusweep.attacks.lockstep import Service

N_LANES = 32  # examples that are attacked at once; a forward pass is then full on a CPU


def run_attack(
    attack: Attack,
    *,
    victim: Victim,
    exact: Victim,
    examples: Sequence[Example],
    protocol: Protocol,
    seed: int,
    done: Mapping[str, AttackOutcome] | None = None,
    on_outcome: Callable[[AttackOutcome], None] | None = None,
    n_lanes: int = N_LANES,
    bf16: bool = False,
    device: str = "cpu",
) -> list[AttackOutcome]:
    """One outcome for each example, in the order of ``examples``; it does not depend on that order.

    ``victim`` may be a fast approximation of ``exact`` (float32), or the same object. ``exact`` decides who is
    misclassified and confirms every success of ``victim``; where the two disagree, the example is attacked again with
    ``exact``, and that attack alone is its outcome. What survives the fast victim is not tried again.
    ``bf16`` and ``device`` are those of the sentence encoder, whose close decisions are repeated in float32.

    ``n_queries`` of an outcome counts the texts that TextAttack handed to the victim in the search that gave the
    outcome: the unchanged text, and all others except those that TextAttack remembers from earlier in that search.
    Confirming a success is not counted.

    ``n_lanes`` examples are attacked at once, their queries gathered into common batches; a victim whose logits do not
    depend on what else is in a batch gives the same outcomes with any number.

    ``done`` maps ids of examples to outcomes of an earlier, interrupted run. ``on_outcome`` is called with each new
    outcome at once. Raises ``MissingError`` when a resource is not here, and ``StageError`` when the victim fails or
    gives logits that are not finite.
    """
    if lacking := attack.missing(protocol):
        raise MissingError(f"attack {attack.kind!r} lacks {lacking[0].split(': ')[0]}", hint="\n  ".join(lacking))
    outcomes = dict(done or {})
    todo = list({e.id: e for e in examples if e.id not in outcomes}.values())
    if todo:
        from robusweep.attacks import parts
        from robusweep.attacks.library import remembering_words
        from robusweep.attacks.lockstep import in_lockstep

        services = partial(parts.ask, victim), partial(parts.ask, exact)
        if victim is exact:
            services = services[0], services[0]
        searches = _Searches(lambda: _Search(attack, protocol, seed, services, bf16=bf16, device=device))
        predicted = services[1]([example.text for example in todo]).argmax(axis=1)
        jobs = [
            partial(searches.outcome, example, right=label == example.label)
            for example, label in zip(todo, predicted.tolist(), strict=True)
        ]
        with remembering_words(), _generators_restored():
            for i, outcome in in_lockstep(jobs, n_lanes=n_lanes):
                outcomes[todo[i].id] = outcome
                if on_outcome is not None:
                    on_outcome(outcome)
    return [outcomes[example.id] for example in examples]


class _Searches:
    """Searches that are not in use: a TextAttack attack holds the state of the one example it works on."""

    def __init__(self, build: Callable[[], _Search]) -> None:
        self._build = build
        self._idle: list[_Search] = []

    def outcome(self, example: Example, *, right: bool) -> AttackOutcome:
        search = self._idle.pop() if self._idle else self._build()
        outcome = search.confirmed(example) if right else search.misclassified(example)
        self._idle.append(search)
        return outcome


class _Search:
    """A TextAttack attack, built once, that is pointed at one example after the other."""

    def __init__(
        self,
        attack: Attack,
        protocol: Protocol,
        seed: int,
        services: tuple[Service, Service],
        *,
        bf16: bool,
        device: str,
    ) -> None:
        from robusweep.attacks import parts
        from robusweep.attacks.library import quiet

        self._kind, self._protocol, self._seed = attack.kind, protocol, seed
        self._fast, self._exact = services
        self._wrapper = parts.VictimWrapper(bf16=bf16, device=device)
        with quiet():
            self._attack = attack.build(protocol, self._wrapper)

    def misclassified(self, example: Example) -> AttackOutcome:
        return self._outcome(example, "misclassified", n_queries=0, n_words=_attacked_text(example).num_words)

    def confirmed(self, example: Example) -> AttackOutcome:
        """Attack the fast victim; attack the exact one where it does not agree with what came out."""
        from robusweep.attacks.lockstep import ask

        outcome = self._run(example, self._fast)
        if self._fast is self._exact or outcome.status == "survived":
            return outcome
        if outcome.status == "broken":
            (logits,) = ask(self._exact, [str(outcome.perturbed_text)])
            if logits.argmax() != example.label:
                return outcome
        return self._run(example, self._exact)

    def _run(self, example: Example, victim: Service) -> AttackOutcome:
        text = _attacked_text(example)
        budget = self._protocol.max_queries(text.num_words)
        self._attack.goal_function.query_budget = float("inf") if budget is None else budget
        self._wrapper.victim, self._wrapper.n_texts = victim, 0
        _seed_generators(derive(self._seed, self._kind, example.id))
        try:
            result = self._attack.attack(text, example.label)
        finally:
            self._attack.clear_cache()  # TextAttack keeps it after an example that it skips
            self._wrapper.victim = None
        return self._read(example, result, text)

    def _read(self, example: Example, result: Any, text: Any) -> AttackOutcome:
        from robusweep.attacks.parts import textattack

        results, n_words = textattack.attack_results, text.num_words
        if isinstance(result, results.SkippedAttackResult):
            return self._outcome(example, "misclassified", n_queries=0, n_words=n_words)
        if not isinstance(result, results.SuccessfulAttackResult):
            return self._outcome(example, "survived", n_queries=self._wrapper.n_texts, n_words=n_words)
        final = result.perturbed_result.attacked_text
        same_length = final.num_words == n_words
        changed = len(text.all_words_diff(final)) if same_length else text.words_diff_num(final)
        measured = self._protocol.min_similarity is not None
        return self._outcome(
            example,
            "broken",
            n_queries=self._wrapper.n_texts,
            n_words=n_words,
            n_words_changed=int(changed),
            similarity=final.attack_attrs.get("similarity_score") if measured else None,
            perturbed_text=final.text,
        )

    @staticmethod
    def _outcome(example: Example, status: Any, **fields: Any) -> AttackOutcome:
        return AttackOutcome(example_id=example.id, label=example.label, status=status, **fields)


def _attacked_text(example: Example) -> Any:
    from robusweep.attacks.parts import AttackedText

    return AttackedText(example.text)


def _seed_generators(seed: int) -> None:
    """Python's and NumPy's global generators, which TextAttack draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def _generators_restored() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
