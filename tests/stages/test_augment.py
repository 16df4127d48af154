from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lending import Lending
from pydantic import ValidationError

from robusweep.adapters import Lora
from robusweep.training import Standard, TrainingMethod
from robusweep.training.augment import Augment
from robusweep.training.rewording import EDITS, eda, with_synonyms

Load = Callable[..., Any]
TABLE = {"good": ["w1", "w2"], "bad": ["w3"]}
TEXTS = [f"{'good' if i % 2 else 'bad'} w{i % 9} w{i + 20}" for i in range(40)]
LABELS = [i % 2 for i in range(40)]
FEW: dict[str, Any] = {"n_epochs": 2, "batch_size": 16}


def setting_of(base: Any, lent: Lending, network: Any = None) -> Any:
    from robusweep.training.base import Setting

    return Setting(network or base.network, base.tokens(TEXTS), LABELS, seed=5, texts=TEXTS, lent=lent)


def words(base: Any, extra: Any) -> list[str]:
    return str(base.tokenizer.decode(extra.ids, skip_special_tokens=True)).split()


def train(base: Any, method: TrainingMethod, **options: Any) -> tuple[dict[str, Any], Any]:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    adapter = Lora(rank=2)
    network = adapter.attach(base.network, head=head_names(base.network), seed=0)
    fields = {"pad_id": 1, "seed": 0, "bf16": False, "texts": TEXTS, "lent": Lending(base, TABLE)}
    fitted = fit(network, method, base.tokens(TEXTS), LABELS, **(fields | options))
    return adapter.extract(network), fitted


@pytest.mark.parametrize("fields", [{"source": "synonyms"}, {"source": "eda"}, {"source": "attack", "attack": "pwws"}])
def test_no_share_is_standard_training_bit_for_bit(fields: dict[str, Any], load_tiny: Load) -> None:
    plain, _ = train(load_tiny(dropout=0.1), Standard(**FEW))
    zero, _ = train(load_tiny(dropout=0.1), Augment(share=0.0, **fields, **FEW))
    some, fitted = train(load_tiny(dropout=0.1), Augment(share=0.5, **fields, **FEW))
    assert all(plain[name].equal(zero[name]) for name in plain)
    assert not all(plain[name].equal(some[name]) for name in plain)
    assert fitted.n_steps == 2 * 4  # 40 + 20 texts in batches of 16


@pytest.mark.parametrize("share", [0.3, 1.0, 2.5])
def test_the_share_decides_how_many_texts_are_changed_each_once_before_one_twice(share: float, load_tiny: Load) -> None:
    base = load_tiny()
    extras = Augment(share=share).extras(setting_of(base, Lending(base, TABLE)), 0)
    assert extras is not None
    assert len(extras) == round(share * len(TEXTS))
    tails = [words(base, extra)[2] for extra in extras]  # the third word tells the text, and has no synonym
    assert max(tails.count(tail) for tail in tails) == -int(-share // 1)
    label_of = {text.split()[2]: label for text, label in zip(TEXTS, LABELS, strict=True)}
    assert [extra.label for extra in extras] == [label_of[tail] for tail in tails]
    assert {extra.weight for extra in extras} == {1.0}


def test_texts_are_made_once_and_a_smaller_share_takes_the_first_of_them(load_tiny: Load) -> None:
    base = load_tiny()
    setting = setting_of(base, Lending(base, TABLE))
    many, few = (Augment(share=share).extras(setting, 0) for share in (1.0, 0.25))
    assert many is not None
    assert few == many[: len(few or [])]
    assert Augment().extras(setting, 0) == many
    assert Augment().extras(setting, 1) is None


def test_texts_without_synonyms_are_left_out(load_tiny: Load) -> None:
    base = load_tiny()
    extras = Augment(share=1.0).extras(setting_of(base, Lending(base, {"good": ["w97"]})), 0)
    assert extras is not None
    assert len(extras) == sum("good" in text for text in TEXTS) == 20
    assert all(words(base, extra)[0] == "w97" for extra in extras)


def test_only_what_an_attack_turns_is_learnt_from_and_labels_stay(load_tiny: Load) -> None:
    base = load_tiny()
    lent = Lending(base, turns=lambda text: text.startswith("good"))
    method = Augment(source="attack", attack="pwws", share=0.5, n_queries=77, loss_weight=2.0)
    extras = method.extras(setting_of(base, lent), 0)
    assert extras is not None
    assert len(extras) == 20
    assert all(words(base, extra)[0] == "good" and words(base, extra)[-1] == "w0" for extra in extras)
    assert {(extra.label, extra.weight) for extra in extras} == {(1, 2.0)}
    assert {(a["network"], a["attack"], a["n_queries"]) for a in lent.asked} == {(None, "pwws", 77)}


def test_no_more_texts_are_attacked_than_it_takes(load_tiny: Load) -> None:
    base = load_tiny()
    lent = Lending(base)
    extras = Augment(source="attack", attack="pwws", share=0.1).extras(setting_of(base, lent), 0)
    assert len(extras or []) == 4
    assert [len(a["examples"]) for a in lent.asked] == [32]
    none = Lending(base, turns=lambda _text: False)
    assert Augment(source="attack", attack="pwws").extras(setting_of(base, none), 0) == []
    assert sum(len(a["examples"]) for a in none.asked) == 40


def test_the_reference_is_trained_alike_on_clean_texts() -> None:
    method = Augment(source="attack", attack="pwws", share=0.5, n_epochs=7, learning_rate=1e-3, max_grad_norm=None)
    assert method.reference == Standard(n_epochs=7, learning_rate=1e-3, max_grad_norm=None)
    assert method.attacks_with == ["pwws"]
    assert not method.needs_lexicon
    assert Augment().reference is None
    assert Augment().needs_lexicon
    assert Augment(source="attack", attack="pwws", share=0.0).reference is None


@pytest.mark.parametrize(
    "fields",
    [{"source": "attack"}, {"attack": "pwws"}, {"source": "attack", "attack": "pwws", "share": 1.5},
     {"source": "none"}],
)  # fmt: skip
def test_what_can_not_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Augment.model_validate(fields)


def test_a_heavier_text_counts_more(load_tiny: Load) -> None:
    light, _ = train(load_tiny(dropout=0.0), Augment(loss_weight=1.0, **FEW))
    heavy, _ = train(load_tiny(dropout=0.0), Augment(loss_weight=3.0, **FEW))
    assert not all(light[name].equal(heavy[name]) for name in light)


# ----------------------------------------------------------------------------------------------- rewording
SENTENCE = "A good film, with (good) actors and a bad end."


def table(word: str) -> list[str]:
    return {"good": ["fine"], "bad": ["poor", "ill"], "film": ["movie"]}.get(word, [])


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 1.0])
def test_synonyms_replace_so_many_words_and_leave_signs_and_order(share: float) -> None:
    old = SENTENCE.split()
    for seed in range(20):
        new = str(with_synonyms(SENTENCE, share, table, rng(seed))).split()
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert len(changed) == min(4, max(1, int(share * len(old))))
        assert set(changed) <= {("good", "fine"), ("(good)", "(fine)"), ("film,", "movie,"), ("bad", "poor"),
                                ("bad", "ill")}  # fmt: skip


def test_each_edit_of_eda_does_what_its_name_says() -> None:
    old = SENTENCE.split()
    replaced, inserted, swapped, deleted = (edit(list(old), 2, table, rng(3)) for edit in EDITS)
    assert sum(a != b for a, b in zip(old, replaced, strict=True)) == 2
    assert len(inserted) == len(old) + 2
    assert [word for word in inserted if word in old or word not in {"fine", "poor", "ill", "movie"}] == old
    assert sorted(swapped) == sorted(old)
    assert swapped != old
    assert len(deleted) == len(old) - 2
    assert [word for word in old if word in deleted] == deleted


def test_all_four_edits_of_eda_occur_and_none_leaves_a_text_as_it_was() -> None:
    found = [eda(SENTENCE, 0.2, table, rng(seed)) for seed in range(60)]
    assert SENTENCE not in found
    lengths = [len(text.split()) - len(SENTENCE.split()) for text in found if text]
    assert set(lengths) == {-2, 0, 2}
    assert {sorted(t.split()) == sorted(SENTENCE.split()) for t in found if t} == {True, False}


def test_a_text_of_one_word_or_none_is_left_alone_where_nothing_can_be_done() -> None:
    for seed in range(20):
        assert eda("end", 0.5, table, rng(seed)) is None
        assert eda("", 0.5, table, rng(seed)) is None
        assert with_synonyms("end.", 0.5, table, rng(seed)) is None
