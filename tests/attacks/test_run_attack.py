"""Real TextAttack searches against a victim of seven words."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robusweep.attacks import PROTOCOLS, Attack, attack_kinds, run_attack
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.library import LEFT_OUT, import_textattack, quiet
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.resources import Resource, synonyms
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.attacks.textfooler_wordnet import TextFoolerWordNet
from robusweep.errors import MissingError, StageError
from robusweep.examples import Example
from robusweep.record import AttackOutcome
from robusweep.seeds import derive

STANDARD, LIBRARY = PROTOCOLS["standard_v1"], PROTOCOLS["library_default_v1"]
ATTACKS: list[Attack] = [cls.model_validate({"kind": kind}) for kind, cls in attack_kinds().items()]
UNAVAILABLE = [text for attack in ATTACKS for text in attack.missing()]
pytestmark = pytest.mark.skipif(bool(UNAVAILABLE), reason="; ".join(UNAVAILABLE))


WEIGHTS = {"good": 2.0, "great": 2.5, "happy": 1.5, "movie": 0.1, "bad": -2.0, "awful": -2.5, "sad": -1.5}


class BagOfWords:
    """Class 1 when the known words of a text add up to more than ``threshold``."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.extend(texts)
        sums = [sum(WEIGHTS.get(w, 0.0) for w in re.findall(r"\w+", text.lower())) for text in texts]
        score = np.asarray(sums, dtype=np.float32) - self.threshold
        return np.stack([-score, score], axis=1)


@pytest.fixture
def victim() -> BagOfWords:
    return BagOfWords()


@pytest.fixture
def examples() -> list[Example]:
    """Five that can be broken, one (the fifth) of stop words only, one (the sixth) that the victim gets wrong."""
    return [
        Example("The weather was good and everybody at the old harbour watched the boats leave.", 1),
        Example("A happy child ran through the garden while several dogs chased the red ball.", 1),
        Example("Great news: the company raised its prices and sold more cars than last year!", 1),
        Example("This good film has great actors, a happy ending and wonderful music throughout the story.", 1),
        Example("It was what it was, and we were there before they were.", 0),
        Example("An awful evening of noise, rain and long speeches about nothing in particular.", 1),
        Example("Good morning to the patient readers of this column about trains and stations.", 1),
    ]


def run(attack: Attack, victim: Any, examples: Sequence[Example], **changed: Any) -> list[AttackOutcome]:
    named: dict[str, Any] = {"exact": victim, "protocol": STANDARD, "seed": 7} | changed
    return run_attack(attack, victim=victim, examples=examples, **named)


def test_importing_textattack_leaves_the_process_as_it_was() -> None:
    logging.getLogger("somebody.else")
    environment = dict(os.environ)
    import_textattack()
    assert dict(os.environ) == environment
    assert not logging.getLogger("somebody.else").disabled
    assert not any(getattr(sys.modules.get(name), "__file__", "") is None for name in LEFT_OUT)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_outcomes_are_right_by_construction(attack: Attack, victim: BagOfWords, examples: list[Example]) -> None:
    outcomes = run(attack, victim, examples, protocol=LIBRARY)
    assert [o.example_id for o in outcomes] == [e.id for e in examples]
    assert [o.status for o in outcomes][:2] == ["broken", "broken"]  # one word carries the class
    assert outcomes[4].status == "survived"  # nothing but stop words
    assert outcomes[5].status == "misclassified"
    assert outcomes[5].n_queries == 0
    for outcome in outcomes:
        if outcome.status == "broken":
            assert outcome.perturbed_text is not None
            assert victim([outcome.perturbed_text]).argmax() != outcome.label
            assert outcome.n_words_changed is not None
            assert outcome.n_words_changed >= 1
        else:
            assert (outcome.perturbed_text, outcome.n_words_changed) == (None, None)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_every_broken_example_obeys_the_standard_protocol(
    attack: Attack, victim: BagOfWords, examples: list[Example]
) -> None:
    outcomes = run(attack, victim, examples)
    broken = [(e, o) for e, o in zip(examples, outcomes, strict=True) if o.status == "broken"]
    assert broken
    for example, outcome in broken:
        old, new = words_of(example.text), words_of(str(outcome.perturbed_text))
        changed = [a for a, b in zip(old, new, strict=True) if a != b]
        assert len(changed) == outcome.n_words_changed
        assert len(changed) <= 0.3 * len(old)
        assert not {word.lower() for word in changed} & STOP_WORDS
        assert outcome.n_queries <= 50 * len(old)
        if attack.level == "word":
            assert outcome.similarity is not None
            assert outcome.similarity >= 0.8
        else:
            assert outcome.similarity is None


def words_of(text: str) -> list[str]:
    found: list[str] = import_textattack().shared.utils.words_from_text(text)
    return found


def test_no_more_words_change_than_the_protocol_allows(victim: BagOfWords) -> None:
    example = Example("good news happy people great trains lovely stations green hills", 1)
    only_one = STANDARD.model_copy(update={"max_words_changed": 0.1, "min_similarity": None})
    free = STANDARD.model_copy(update={"max_words_changed": None, "min_similarity": None})
    assert run(DeepWordBug(), victim, [example], protocol=only_one)[0].status == "survived"
    assert run(DeepWordBug(), victim, [example], protocol=free)[0].status == "broken"


def test_an_impossible_similarity_leaves_every_example_standing(victim: BagOfWords, examples: list[Example]) -> None:
    strict = STANDARD.model_copy(update={"min_similarity": 1.0})
    assert {o.status for o in run(Pwws(), victim, examples, protocol=strict)} == {"survived", "misclassified"}


def test_the_query_budget_ends_an_attack(victim: BagOfWords, examples: list[Example]) -> None:
    tight = STANDARD.model_copy(update={"max_candidates": 1, "min_similarity": None})
    for outcome in run(Pwws(), victim, examples[:4], protocol=tight):
        assert outcome.n_queries <= outcome.n_words


@pytest.mark.parametrize(("attack", "recipe"), [(DeepWordBug(), "DeepWordBugGao2018"), (Pwws(), "PWWSRen2019")])
def test_library_default_outcomes_are_those_of_textattacks_own_recipe(
    attack: Attack, recipe: str, victim: BagOfWords, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = run(attack, victim, examples, protocol=LIBRARY)
    theirs = textattacks_own(recipe, attack.kind, examples, monkeypatch)
    assert {o.status for o in ours} == {"broken", "survived", "misclassified"}
    for outcome, (status, text, n_queries) in zip(ours, theirs, strict=True):
        assert (outcome.status, outcome.perturbed_text, outcome.n_queries) == (status, text, n_queries)


def textattacks_own(
    recipe: str, kind: str, examples: Sequence[Example], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str | None, int]]:
    """(status, perturbed text, texts handed to the model) from TextAttack's recipe class and ``Attack.attack``."""
    from robusweep.attacks import parts

    textattack = import_textattack()
    swaps, stops = (
        sys.modules["textattack.transformations.word_swaps.word_swap_wordnet"],
        sys.modules["textattack.constraints.pre_transformation.stopword_modification"],
    )
    monkeypatch.setattr(swaps, "wordnet", WordNetLikeNltk())
    monkeypatch.setattr(swaps.nltk, "download", lambda _name: True)
    monkeypatch.setattr(stops.nltk.corpus, "stopwords", StopWordsLikeNltk())
    found: list[tuple[str, str | None, int]] = []
    for example in examples:
        wrapper, model = parts.VictimWrapper(), BagOfWords()
        wrapper.victim = model
        with quiet():
            attack = getattr(textattack.attack_recipes, recipe).build(wrapper)
        seed = derive(7, kind, example.id)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        result = attack.attack(example.text, example.label)
        name = type(result).__name__
        if name == "SkippedAttackResult":
            found.append(("misclassified", None, 0))
        elif name == "SuccessfulAttackResult":
            found.append(("broken", result.perturbed_text(), len(model.asked)))
        else:
            found.append(("survived", None, len(model.asked)))
    return found


class WordNetLikeNltk:
    """One synset that holds all names of a word; test_lexicon shows that the names are nltk's."""

    def langs(self) -> list[str]:
        return ["eng"]

    def synsets(self, word: str, **_language: str) -> list[Any]:
        names = [*reversed(synonyms().of(word)), word]
        return [SimpleNamespace(lemma_names=lambda **_language: names)]


class StopWordsLikeNltk:
    def words(self, _language: str) -> list[str]:
        return sorted(STOP_WORDS)


@pytest.mark.parametrize("attack", [DeepWordBug(), TextFoolerWordNet()], ids=lambda attack: attack.kind)
def test_an_outcome_does_not_depend_on_the_other_examples(
    attack: Attack, victim: BagOfWords, examples: list[Example]
) -> None:
    forwards, backwards = run(attack, victim, examples), run(attack, victim, examples[::-1])
    assert forwards == backwards[::-1]
    assert forwards[3:4] == run(attack, victim, examples[3:4])


def test_another_seed_gives_other_typing_errors(victim: BagOfWords, examples: list[Example]) -> None:
    texts = {run(DeepWordBug(), victim, examples[:1], seed=seed)[0].perturbed_text for seed in range(6)}
    assert len(texts) > 1


def test_the_global_generators_are_left_as_they_were(victim: BagOfWords, examples: list[Example]) -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.getstate(), np.random.get_state()[1].tolist()
    run(DeepWordBug(), victim, examples[:2])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == expected


def test_queries_are_the_texts_that_the_victim_was_given(victim: BagOfWords, examples: list[Example]) -> None:
    outcome = run(Pwws(), victim, examples[:1])[0]
    assert outcome.n_queries == len(victim.asked) - 1  # the clean prediction of all examples comes before


def test_a_success_that_the_exact_victim_does_not_confirm_is_attacked_again(examples: list[Example]) -> None:
    class Credulous(BagOfWords):
        """Believes that every changed text is of the other class."""

        def __call__(self, texts: Sequence[str]) -> Any:
            logits = super().__call__(texts)
            changed = [i for i, text in enumerate(texts) if text not in {e.text for e in examples}]
            logits[changed] = logits[changed][:, ::-1]
            return logits

    exact = BagOfWords()
    alone = run(Pwws(), exact, examples)
    both = run(Pwws(), Credulous(), examples, exact=exact)
    assert both == alone
    liar_alone = run(Pwws(), Credulous(), examples)
    assert liar_alone != alone


def test_a_fast_victim_that_is_wrong_about_the_clean_text_is_not_believed(examples: list[Example]) -> None:
    exact, stubborn = BagOfWords(), BagOfWords(threshold=100.0)  # always class 0
    assert run(DeepWordBug(), stubborn, examples[:4], exact=exact) == run(DeepWordBug(), exact, examples[:4])


def test_done_outcomes_are_reused_and_new_ones_reported_at_once(victim: BagOfWords, examples: list[Example]) -> None:
    whole = run(DeepWordBug(), victim, examples)
    done = {o.example_id: o for o in whole[:3]}
    victim.asked.clear()
    reported: list[AttackOutcome] = []
    assert run(DeepWordBug(), victim, examples, done=done, on_outcome=reported.append) == whole
    assert sorted(reported, key=lambda o: o.example_id) == sorted(whole[3:], key=lambda o: o.example_id)
    assert not {e.text for e in examples[:3]} & set(victim.asked)
    victim.asked.clear()
    assert run(DeepWordBug(), victim, examples, done={o.example_id: o for o in whole}) == whole
    assert victim.asked == []


@pytest.mark.parametrize("text", ["", "!!! ...", "good"])
def test_texts_of_no_word_or_one_are_attacked_without_an_error(text: str, victim: BagOfWords) -> None:
    label = int(victim([text]).argmax())
    for attack in ATTACKS:
        assert run(attack, victim, [Example(text, label)])[0].status in {"survived", "broken"}


def test_a_victim_that_fails_or_says_nan_is_an_error_and_no_score(examples: list[Example]) -> None:
    def nan_later(texts: Sequence[str]) -> Any:
        known = {e.text for e in examples}
        return np.asarray([[0.0, 1.0] if text in known else [np.nan, 0.0] for text in texts], dtype=np.float32)

    def dies(texts: Sequence[str]) -> Any:
        raise RuntimeError("out of memory")

    for victim, message in ((nan_later, "not finite"), (dies, "out of memory")):
        with pytest.raises(StageError, match=message):
            run(DeepWordBug(), victim, examples)


def test_an_attack_without_its_resources_is_refused_before_it_starts(
    victim: BagOfWords, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Resource, "missing", lambda self: f"{self.name}: {self.install}")
    with pytest.raises(MissingError, match="pip install"):
        run(Pwws(), victim, examples)
    assert victim.asked == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_outcomes_do_not_depend_on_how_many_are_attacked_at_once(attack: Attack, examples: list[Example]) -> None:
    found = []
    for n_lanes in (1, 3, 32):
        calls: list[int] = []
        victim = BagOfWords()

        def counted(texts: Sequence[str], victim: BagOfWords = victim, calls: list[int] = calls) -> NDArray[np.float32]:
            calls.append(len(texts))
            return victim(texts)

        found.append((run(attack, counted, examples, n_lanes=n_lanes), len(calls), sum(calls)))
    outcomes, n_calls, n_texts = zip(*found, strict=True)
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert n_texts[0] == n_texts[1] == n_texts[2]
    assert n_calls[0] > n_calls[1] > n_calls[2]


def test_what_fails_in_one_search_ends_the_attack(examples: list[Example]) -> None:
    victim = BagOfWords()

    def fails_late(texts: Sequence[str]) -> NDArray[np.float32]:
        if len(victim.asked) > 40:
            raise RuntimeError("out of memory")
        return victim(texts)

    state = random.getstate()
    with pytest.raises(StageError, match="out of memory"):
        run(DeepWordBug(), fails_late, examples)
    assert random.getstate() == state
