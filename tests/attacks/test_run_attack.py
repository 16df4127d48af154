"""Real TextAttack searches against victims that answer at once."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from victims import BagOfWords, WordPieces

from robusweep.attacks import PROTOCOLS, Attack, attack_kinds, run_attack
from robusweep.attacks.audit import violations
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.library import LEFT_OUT, import_textattack, quiet
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.resources import Resource, synonyms
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.attacks.textfooler import TextFoolerWordNet
from robusweep.errors import MissingError, StageError
from robusweep.examples import Example
from robusweep.record import AttackOutcome
from robusweep.seeds import derive

STANDARD, LIBRARY = PROTOCOLS["standard_v1"], PROTOCOLS["library_default_v1"]
SMALLER = {"population": 10, "max_iterations": 4, "restarts": 3}  # of population and random searches


def made(kind: str) -> Attack:
    cls = attack_kinds()[kind]
    return cls.model_validate({"kind": kind} | {k: v for k, v in SMALLER.items() if k in cls.model_fields})


AT_HAND = [attack for attack in map(made, attack_kinds()) if not attack.missing()]
SEARCHES = [attack for attack in AT_HAND if attack.goal == "change_label" and not attack.needs_gradients]
STRONG = [attack for attack in SEARCHES if attack.kind not in {"pruthi", "checklist_without_names"}]
NEEDED = [text for kind in ("pwws", "textfooler_wordnet") for text in made(kind).missing()]
pytestmark = pytest.mark.skipif(bool(NEEDED), reason="; ".join(NEEDED))


def run(attack: Attack, victim: Any, examples: Sequence[Example], **changed: Any) -> list[AttackOutcome]:
    named: dict[str, Any] = {"exact": victim, "protocol": STANDARD, "seed": 7} | changed
    return run_attack(attack, victim=victim, examples=examples, **named)


def test_importing_textattack_leaves_the_process_as_it_was() -> None:
    logging.getLogger("somebody.else")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("flair")  # brings in torch, which has wishes of its own for the environment
    environment = dict(os.environ)
    import_textattack()
    assert dict(os.environ) == environment
    assert not logging.getLogger("somebody.else").disabled
    assert not any(getattr(sys.modules.get(name), "__file__", "") is None for name in LEFT_OUT)


@pytest.mark.parametrize("attack", STRONG, ids=lambda attack: attack.kind)
def test_outcomes_are_right_by_construction(attack: Attack, victim: BagOfWords, examples: list[Example]) -> None:
    outcomes = run(attack, victim, examples, protocol=LIBRARY)
    assert [o.example_id for o in outcomes] == [e.id for e in examples]
    assert [o.status for o in outcomes][:2] == ["broken", "broken"]  # one word carries the class
    assert outcomes[4].status == "survived"  # nothing but stop words
    assert outcomes[5].status == "misclassified"
    assert outcomes[5].n_queries == 1
    for outcome in outcomes:
        if outcome.status == "broken":
            assert outcome.perturbed_text is not None
            assert victim([outcome.perturbed_text]).argmax() != outcome.label
            assert outcome.n_words_changed is not None
            assert outcome.n_words_changed >= 1
        else:
            assert (outcome.perturbed_text, outcome.n_words_changed) == (None, None)


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("attack", AT_HAND, ids=lambda attack: attack.kind)
def test_what_an_attack_breaks_obeys_the_protocol_by_an_independent_count(
    attack: Attack, word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    few = review_examples[:20]
    outcomes = run(attack, word_pieces, few)
    assert [violations(attack, STANDARD, e, o) for e, o in zip(few, outcomes, strict=True)] == [[]] * 20
    broken = [(e, o) for e, o in zip(few, outcomes, strict=True) if o.status == "broken"]
    assert broken or attack.kind in {"checklist_without_names", "input_reduction"}
    for example, outcome in broken:
        assert outcome.perturbed_text is not None
        same = word_pieces([outcome.perturbed_text]).argmax() == example.label
        assert same == (attack.goal == "keep_label")
        measured = attack.level != "char" and attack.goal == "change_label"
        assert (outcome.similarity is not None) == measured
        assert not measured or float(outcome.similarity or 0) >= 0.8


def test_numbers_and_contractions_are_what_checklist_changes(victim: BagOfWords) -> None:
    def counts_sevens(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray([[0.0, 1.0] if "7" in text else [1.0, 0.0] for text in texts], dtype=np.float32)

    example = Example("We have seen 7 trains at the station of our village today.", 1)
    (outcome,) = run(made("checklist_without_names"), counts_sevens, [example], protocol=LIBRARY)
    assert outcome.status == "broken"
    assert outcome.n_words_changed == 1


def test_input_reduction_keeps_the_label_to_the_last_word(victim: BagOfWords) -> None:
    sure, unsure = Example("A good old film of the thirties about a farm.", 1), Example("Sad old news of the farm.", 0)
    outcomes = run(made("input_reduction"), victim, [sure, unsure])
    assert outcomes[0].status == "survived"  # "A good": stop words can't be removed, and two words are not one
    (alone,) = run(made("input_reduction"), victim, [Example("good film", 1)])
    assert (alone.status, alone.perturbed_text) == ("broken", "good ")


def test_an_attack_on_gradients_is_refused_by_a_victim_without(victim: BagOfWords, examples: list[Example]) -> None:
    with pytest.raises(StageError, match="gives no gradients"):
        run(made("hotflip_wordnet"), victim, examples)


def test_hotflip_picks_the_flips_with_the_largest_true_gain(
    word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    """The victim is linear in its embeddings before the softmax, so the estimate ranks flips of equal length truly."""
    from robusweep.attacks import parts

    wrapper = parts.VictimWrapper(white_box=word_pieces)
    one = parts.GradientSwap(wrapper, 50, 1)
    every = parts.GradientSwap(wrapper, 50, 10**6)
    ranks = []
    for example in review_examples[:25]:
        text = parts.AttackedText(example.text)
        label = int(word_pieces([example.text]).argmax())
        options = every(text, indices_to_modify=range(text.num_words))
        losses = -np.log(parts.probabilities(word_pieces([t.text for t in options]))[:, label])
        (best,) = one(text, indices_to_modify=range(text.num_words))
        ranks.append(float((losses > losses[[t.text for t in options].index(best.text)]).mean()))
    assert np.median(ranks) < 0.05


def test_hard_labels_are_all_that_the_random_search_sees(
    word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    def labels_only(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[word_pieces(texts).argmax(axis=1)] * 50

    protocol = STANDARD.changed({"min_similarity": None})
    few, attack = review_examples[:15], made("hard_label_wordnet")
    shown = run(attack, word_pieces, few, protocol=protocol)
    assert run(attack, labels_only, few, protocol=protocol) == shown
    assert sum(o.status == "broken" for o in shown) > 5
    scored = run(Pwws(), labels_only, few, protocol=protocol)
    assert sum(o.status == "broken" for o in scored) < sum(o.status == "broken" for o in shown)


def test_a_library_success_that_changes_no_label_is_none(victim: BagOfWords, examples: list[Example]) -> None:
    """TextAttack's Kuleshov recipe succeeds as soon as the label's probability is below 0.7."""
    from robusweep.attacks import parts
    from robusweep.attacks.run import _Search, _Side

    search = _Search(DeepWordBug(), LIBRARY, 0, (_Side(victim), _Side(victim)), engine="auto", bf16=False, device="cpu")
    search._attack.goal_function.target_max_score = 0.99
    outcome = search._with_textattack(Example("A good old movie about a good farm", 1), _Side(victim))
    assert isinstance(search._attack, parts.textattack.Attack)
    assert outcome.status == "survived"


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
    """(status, perturbed text, number of queries) from TextAttack's recipe class and ``Attack.attack``."""
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
            found.append(("misclassified", None, result.num_queries))
        elif name == "SuccessfulAttackResult":
            found.append(("broken", result.perturbed_text(), result.num_queries))
        else:
            found.append(("survived", None, result.num_queries))
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
    outcome = run(DeepWordBug(), victim, examples[:1])[0]
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
    for attack in SEARCHES:
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


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda attack: attack.kind)
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
    assert n_calls[0] > n_calls[1] >= n_calls[2]


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
