"""Run one attack on a list of examples: many in lockstep, each seeded, verified with the exact victim, resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.errors import MissingError
from robusweep.examples import Example, TokenVictim, Victim
from robusweep.record import AttackOutcome
from robusweep.seeds import derive

if TYPE_CHECKING:
    from robusweep.attacks.lockstep import Service
    from robusweep.attacks.native import Found
    from robusweep.attacks.surface import Rows, Strings

N_LANES = 32  # examples that are attacked at once; a forward pass is then full on a CPU
Engine = Literal["auto", "textattack"]


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
    engine: Engine = "auto",
    bf16: bool = False,
    device: str = "cpu",
) -> list[AttackOutcome]:
    """One outcome for each example, in the order of ``examples``; it does not depend on that order.

    ``victim`` may be a fast approximation of ``exact`` (float32), or the same object. ``exact`` decides who is
    misclassified and confirms every success of ``victim``; where the two disagree, the example is attacked again with
    ``exact``, and that attack alone is its outcome. What survives the fast victim is not tried again.
    ``bf16`` and ``device`` are those of the sentence encoder, whose close decisions are repeated in float32.

    ``n_queries`` of an outcome is TextAttack's ``num_queries`` of the search that gave the outcome: the unchanged text
    counts, and so does a text that was asked before. Confirming a success is not counted.

    ``n_lanes`` examples are attacked at once, their queries gathered into common batches; a victim whose logits do not
    depend on what else is in a batch gives the same outcomes with any number. ``engine``: ``auto`` runs greedy word
    substitutions without TextAttack's objects, with the same outcomes; ``textattack`` never does.

    ``done`` maps ids of examples to outcomes of an earlier, interrupted run. ``on_outcome`` is called with each new
    outcome at once. Raises ``MissingError`` when a resource is not here, and ``StageError`` when the victim fails,
    gives logits that are not finite, or has no gradients for an attack that needs them.
    """
    if lacking := attack.missing(protocol):
        raise MissingError(f"attack {attack.kind!r} lacks {lacking[0].split(': ')[0]}", hint="\n  ".join(lacking))
    outcomes = dict(done or {})
    todo = list({e.id: e for e in examples if e.id not in outcomes}.values())
    if todo:
        from robusweep.attacks import parts
        from robusweep.attacks.library import remembering_words
        from robusweep.attacks.lockstep import in_lockstep

        fast, sure = _Side(victim), _Side(exact)
        if victim is exact:
            fast = sure
        build = partial(_Search, attack, protocol, seed, (fast, sure), engine=engine, bf16=bf16, device=device)
        searches = _Searches(build)
        predicted = parts.ask(exact, [example.text for example in todo]).argmax(axis=1)
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


class _Side:
    """A victim as the services that searches ask: about texts and, where it can, about token ids."""

    def __init__(self, victim: Victim) -> None:
        from robusweep.attacks import parts

        self.texts: Service = partial(parts.ask, victim)
        self.tokens = victim if isinstance(victim, TokenVictim) else None
        self.rows: Service | None = None
        if self.tokens is not None:
            self.rows = partial(parts.ask, cast("Victim", self.tokens.logits))  # the same, for rows of token ids

    def neighbours(self, text: str) -> tuple[Callable[[str], Rows | Strings], Service]:
        """How to ask about this text and its neighbours, and whom."""
        from robusweep.attacks.surface import Rows, Strings

        if self.tokens is not None and self.rows is not None:
            victim = self.tokens
            if Rows(victim, text).fits(victim.rows([text])[0]):
                return partial(Rows, victim), self.rows
        return Strings, self.texts


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
    """An attack, built once, that is pointed at one example after the other."""

    def __init__(
        self,
        attack: Attack,
        protocol: Protocol,
        seed: int,
        sides: tuple[_Side, _Side],
        *,
        engine: Engine,
        bf16: bool,
        device: str,
    ) -> None:
        from robusweep.attacks import parts
        from robusweep.attacks.library import quiet
        from robusweep.attacks.similarity import Similarity

        self._kind, self._goal, self._protocol, self._seed = attack.kind, attack.goal, protocol, seed
        self._fast, self._exact = sides
        self._wrapper = parts.VictimWrapper(bf16=bf16, device=device, white_box=self._exact.tokens)
        self._greedy = attack.greedy(protocol) if engine == "auto" else None
        self._similarity = None
        if self._greedy is not None and protocol.min_similarity is not None:
            minimum, block = protocol.min_similarity, protocol.similarity_block
            self._similarity = Similarity(minimum, block, bf16=bf16, device=device, draws=False)
        with quiet():
            self._attack = attack.build(protocol, self._wrapper)

    def misclassified(self, example: Example) -> AttackOutcome:
        return self._outcome(example, "misclassified", n_queries=1, n_words=_n_words(example))

    def confirmed(self, example: Example) -> AttackOutcome:
        """Attack the fast victim; attack the exact one where it does not agree with what came out."""
        from robusweep.attacks.lockstep import ask

        outcome = self._run(example, self._fast)
        if self._fast is self._exact or outcome.status == "survived":
            return outcome
        if outcome.status == "broken":
            (logits,) = ask(self._exact.texts, [str(outcome.perturbed_text)])
            if self._succeeds(int(logits.argmax()), example.label):
                return outcome
        return self._run(example, self._exact)

    def _succeeds(self, predicted: int, label: int) -> bool:
        return (predicted != label) == (self._goal == "change_label")

    def _run(self, example: Example, side: _Side) -> AttackOutcome:
        from robusweep.attacks.surface import Surface

        if not _n_words(example):  # nothing to change, which some of TextAttack's searches don't expect
            return self._outcome(example, "survived", n_queries=1, n_words=0)
        surface = Surface.of(example.text) if self._greedy is not None else None
        return self._with_textattack(example, side) if surface is None else self._natively(example, side, surface)

    def _natively(self, example: Example, side: _Side, surface: Any) -> AttackOutcome:
        from robusweep.attacks import native

        assert self._greedy is not None
        neighbours, service = side.neighbours(example.text)
        found: Found = native.search(
            self._greedy, self._protocol, surface, neighbours, service, example.label, self._similarity
        )
        return self._outcome(
            example,
            found.status,
            n_queries=found.n_queries,
            n_words=len(surface.words),
            exhausted=found.exhausted,
            n_words_changed=found.n_changed,
            similarity=found.similarity,
            perturbed_text=found.text,
        )

    def _with_textattack(self, example: Example, side: _Side) -> AttackOutcome:
        from robusweep.attacks.parts import AttackedText

        text = AttackedText(example.text)
        budget = self._protocol.max_queries(text.num_words)
        self._attack.goal_function.query_budget = float("inf") if budget is None else budget
        self._wrapper.victim = side.texts
        seed_generators(derive(self._seed, self._kind, example.id))
        try:
            result = self._attack.attack(text, example.label)
        finally:
            self._attack.clear_cache()  # TextAttack keeps it after an example that it skips
            self._wrapper.victim = None
        return self._read(example, result, text)

    def _read(self, example: Example, result: Any, text: Any) -> AttackOutcome:
        from robusweep.attacks.audit import n_words_changed
        from robusweep.attacks.parts import textattack

        n_words, n_queries = text.num_words, result.num_queries
        if isinstance(result, textattack.attack_results.SkippedAttackResult):
            return self._outcome(example, "misclassified", n_queries=n_queries, n_words=n_words)
        final, goal = result.perturbed_result, self._attack.goal_function
        if not self._reached(final, example.label):
            exhausted = n_queries >= goal.query_budget
            return self._outcome(example, "survived", n_queries=n_queries, n_words=n_words, exhausted=exhausted)
        measured = self._protocol.min_similarity is not None
        return self._outcome(
            example,
            "broken",
            n_queries=n_queries,
            n_words=n_words,
            n_words_changed=n_words_changed(text.words, final.attacked_text.words),
            similarity=final.attacked_text.attack_attrs.get("similarity_score") if measured else None,
            perturbed_text=final.attacked_text.text,
        )

    def _reached(self, final: Any, label: int) -> bool:
        """Whether the attack did what its goal asks, whatever the library calls a success."""
        if self._goal == "keep_label":
            return bool(final.output == label and final.attacked_text.num_words <= 1)
        return bool(final.output != label)

    @staticmethod
    def _outcome(example: Example, status: Any, **fields: Any) -> AttackOutcome:
        return AttackOutcome(example_id=example.id, label=example.label, status=status, **fields)


def _n_words(example: Example) -> int:
    from robusweep.attacks.library import words_from_text

    return len(words_from_text(example.text))


def seed_generators(seed: int) -> None:
    """Python's, NumPy's and torch's global generators, which TextAttack may draw from."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def _generators_restored() -> Iterator[None]:
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
