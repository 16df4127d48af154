"""Run one attack on a list of examples: seeded one by one, verified with the exact victim, resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.errors import MissingError
from robusweep.examples import Example, Victim
from robusweep.record import AttackOutcome
from robusweep.seeds import derive


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
) -> list[AttackOutcome]:
    """One outcome for each example, in the order of ``examples``; it does not depend on that order.

    ``victim`` may be a fast approximation of ``exact`` (float32), or the same object. ``exact`` decides who is
    misclassified and confirms every success of ``victim``; where the two disagree, the example is attacked again
    with ``exact``, and that attack alone is its outcome. What survives the fast victim is not tried again.

    ``n_queries`` of an outcome counts the texts that TextAttack handed to the victim in the search that gave the
    outcome: the unchanged text, and all others except those that TextAttack remembers from earlier in that search.
    Confirming a success is not counted.

    ``done`` maps ids of examples to outcomes of an earlier, interrupted run. ``on_outcome`` is called with each new
    outcome at once. Raises ``MissingError`` when a resource is not here, ``StageError`` when the victim fails or
    gives logits that are not finite.
    """
    if lacking := attack.missing(protocol):
        raise MissingError(f"attack {attack.kind!r} lacks {lacking[0].split(': ')[0]}", hint="\n  ".join(lacking))
    outcomes = dict(done or {})
    todo = list({e.id: e for e in examples if e.id not in outcomes}.values())
    if todo:
        from robusweep.attacks import parts

        search = _Search(attack, protocol, seed)
        clean = parts.ask(exact, [example.text for example in todo]).argmax(axis=1)
        for example, predicted in zip(todo, clean.tolist(), strict=True):
            if predicted != example.label:
                outcome = search.misclassified(example)
            else:
                outcome = search.confirmed(example, victim, exact)
            outcomes[example.id] = outcome
            if on_outcome is not None:
                on_outcome(outcome)
    return [outcomes[example.id] for example in examples]


class _Search:
    """A TextAttack attack, built once, that is pointed at one example and one victim after the other."""

    def __init__(self, attack: Attack, protocol: Protocol, seed: int) -> None:
        from robusweep.attacks import parts
        from robusweep.attacks.library import quiet

        self._kind, self._protocol, self._seed = attack.kind, protocol, seed
        self._wrapper = parts.VictimWrapper()
        with quiet():
            self._attack = attack.build(protocol, self._wrapper)

    def misclassified(self, example: Example) -> AttackOutcome:
        return self._outcome(example, "misclassified", n_queries=0, n_words=_attacked_text(example).num_words)

    def confirmed(self, example: Example, victim: Victim, exact: Victim) -> AttackOutcome:
        """Attack with ``victim``; attack again with ``exact`` where ``exact`` does not agree with what came out."""
        from robusweep.attacks import parts

        outcome = self._run(example, victim)
        if victim is exact or outcome.status == "survived":
            return outcome
        if outcome.status == "broken":
            broken = parts.ask(exact, [str(outcome.perturbed_text)]).argmax()
            if broken != example.label:
                return outcome
        return self._run(example, exact)

    def _run(self, example: Example, victim: Victim) -> AttackOutcome:
        from robusweep.attacks.library import remembering_words

        text = _attacked_text(example)
        budget = self._protocol.max_queries(text.num_words)
        self._attack.goal_function.query_budget = float("inf") if budget is None else budget
        self._wrapper.victim, self._wrapper.n_texts = victim, 0
        try:
            with remembering_words(), _seeded(derive(self._seed, self._kind, example.id)):
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators, which TextAttack draws from, seeded and put back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
