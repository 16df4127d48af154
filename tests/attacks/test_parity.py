"""Outcomes in lockstep against ``textattack.Attacker``: the same attack object, seeded alike, on real texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from victims import WordPieces

from robusweep.attacks import PROTOCOLS, Attack, attack_kinds, run_attack
from robusweep.attacks.a2t import A2TWordNet
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.library import import_textattack, quiet
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.resources import TAGGER, WORDNET
from robusweep.attacks.run import seed_generators
from robusweep.attacks.textbugger import TextBuggerWordNet
from robusweep.attacks.textfooler import TextFoolerWordNet
from robusweep.examples import Example
from robusweep.record import AttackOutcome
from robusweep.seeds import derive

pytestmark = pytest.mark.skipif(bool(WORDNET.missing() or TAGGER.missing()), reason="WordNet or the tagger is missing")

SEED = 3
STANDARD = PROTOCOLS["standard_v1"]
SMALL = {"population": 8, "max_iterations": 3}
ATTACKS: list[Attack] = [
    DeepWordBug(),
    TextBuggerWordNet(),
    TextFoolerWordNet(),
    Pwws(),
    A2TWordNet(),
    attack_kinds()["genetic_wordnet"].model_validate({"kind": "genetic_wordnet"} | SMALL),
    attack_kinds()["pso_wordnet"].model_validate({"kind": "pso_wordnet"} | SMALL),
]


def textattacks_own(attack: Attack, victim: WordPieces, examples: Sequence[Example]) -> list[tuple[Any, ...]]:
    """(result, adversarial text, number of queries) from ``textattack.Attacker``, one example after the other.

    Each example is seeded just before it is attacked, and given its own budget: the dataset does both when it is read.
    """
    from robusweep.attacks import parts

    textattack = import_textattack()
    wrapper = parts.VictimWrapper(white_box=victim)
    wrapper.victim = victim
    with quiet():
        built = attack.build(STANDARD, wrapper)

    class Seeded(textattack.datasets.Dataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, i: int) -> Any:
            example = examples[i]
            n_words = parts.AttackedText(example.text).num_words
            built.goal_function.query_budget = STANDARD.max_queries(n_words)
            seed_generators(derive(SEED, attack.kind, example.id))
            return super().__getitem__(i)

    dataset = Seeded([(example.text, example.label) for example in examples])
    arguments = textattack.AttackArgs(num_examples=len(examples), silent=True, disable_stdout=True)
    results = textattack.Attacker(built, dataset, arguments).attack_dataset()
    found = []
    for result in results:
        kind = type(result).__name__.removesuffix("AttackResult")
        text = result.perturbed_text() if kind == "Successful" else None
        found.append((kind, text, result.num_queries))
    return found


def as_textattack_says(outcome: AttackOutcome) -> tuple[Any, ...]:
    kinds = {"broken": "Successful", "survived": "Failed", "misclassified": "Skipped"}
    return kinds[outcome.status], outcome.perturbed_text, outcome.n_queries


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_lockstep_outcomes_are_those_of_textattacks_attacker(
    attack: Attack, word_pieces: WordPieces, review_examples: list[Example], capfd: pytest.CaptureFixture[str]
) -> None:
    few = review_examples[:25] if "population" in type(attack).model_fields else review_examples[60:100]
    expected = textattacks_own(attack, word_pieces, few)
    assert {kind for kind, _, _ in expected} == {"Successful", "Failed", "Skipped"}
    for n_lanes in (1, 8, 64):
        outcomes = run_attack(
            attack,
            victim=word_pieces,
            exact=word_pieces,
            examples=few,
            protocol=STANDARD,
            seed=SEED,
            n_lanes=n_lanes,
            engine="textattack",
        )
        assert list(map(as_textattack_says, outcomes)) == expected
    capfd.readouterr()
