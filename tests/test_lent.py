"""What a trial lends to training: words of each kind of vocabulary, synonyms, attacks on a network that learns."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robusweep.adapters import Adapter, Full, Lora
from robusweep.attacks import PROTOCOLS, attack_kinds
from robusweep.attacks.evaluation import Terms
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.cache import Cache, OutcomeLog
from robusweep.lent import Lender, lexicon_identity

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def lender(base: Any, folder: Path, *, adapter: Adapter | None = None, **options: Any) -> Lender:
    return Lender(
        base,
        identity="tiny",
        adapter=adapter or Lora(rank=2),
        attacks=lambda kind: attack_kinds()[kind].model_validate({"kind": kind}),
        terms=Terms(PROTOCOLS["standard_v1"], seed=0, bf16=False, device="cpu"),
        cache=Cache(folder),
        **options,
    )


def speaking(model: Any, folder: Path) -> Lender:
    """A lender whose tokenizer is this model of the tokenizers library."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)
    return lender(SimpleNamespace(tokenizer=tokenizer), folder)


def numbered(*tokens: str) -> dict[str, int]:
    return {token: i for i, token in enumerate([*SPECIAL, *tokens])}


def test_whole_words_and_continuations_are_told_apart_in_word_pieces(tmp_path: Path) -> None:
    from tokenizers import models

    ids = numbered("play", "##ing", "##s", "film", ".", "42", "é", "[unused1]", "##,")
    words = speaking(models.WordPiece(ids, unk_token="[UNK]"), tmp_path)
    assert words.whole_words() == {ids["play"]: "play", ids["film"]: "film"}
    assert words.continues() == {ids["##ing"], ids["##s"]}


def test_whole_words_and_continuations_are_told_apart_in_byte_pairs(tmp_path: Path) -> None:
    from tokenizers import models

    ids = numbered("Ġplay", "ing", "Ġfilm", ".", "'s", "Ġ42", "ĠcafÃ©", "Film", "Ġ,", "Ġ")
    words = speaking(models.BPE(ids, [], unk_token="[UNK]"), tmp_path)
    assert words.whole_words() == {ids["Ġplay"]: "play", ids["Ġfilm"]: "film"}
    assert words.continues() == {ids["ing"], ids["'s"], ids["Film"]}  # a sign behind a word does not go on with it


def test_whole_words_and_continuations_are_told_apart_in_sentence_pieces(tmp_path: Path) -> None:
    from tokenizers import models

    ids = numbered("▁play", "ing", "▁film", ".", "▁", "s")
    model = models.Unigram([(token, -1.0) for token in ids], unk_id=1)
    words = speaking(model, tmp_path)
    assert words.whole_words() == {ids["▁play"]: "play", ids["▁film"]: "film"}
    assert words.continues() == {ids["ing"], ids["s"]}


def test_every_token_of_a_vocabulary_without_marks_is_a_word(tmp_path: Path) -> None:
    from tokenizers import models

    ids = numbered("film", "good", "w3")
    words = speaking(models.WordPiece(ids, unk_token="[UNK]"), tmp_path)
    assert set(words.whole_words().values()) == {"film", "good"}
    assert words.continues() == set()


def test_synonyms_are_single_words_in_the_case_of_the_word(tmp_path: Path) -> None:
    lent = lender(None, tmp_path)
    plain, capital, upper = (lent.synonyms(word) for word in ("film", "Film", "FILM"))
    assert "movie" in plain
    assert "Movie" in capital
    assert "MOVIE" in upper
    assert not {"film", "Film", "FILM"} & {*plain, *capital, *upper}
    assert [name.lower() for name in capital] == [name.lower() for name in plain]
    assert all(name.replace("-", "").replace("'", "").isalpha() for name in plain)
    assert len(set(plain)) == len(plain)


def test_stop_words_and_unknown_words_have_no_synonyms(tmp_path: Path) -> None:
    lent = lender(None, tmp_path)
    assert "well" not in STOP_WORDS
    assert lent.synonyms("well")
    assert [lent.synonyms(word) for word in ("not", "Not", "over", "zzyzxq", "")] == [[], [], [], [], []]


def test_the_identity_of_the_lexicon_names_its_files() -> None:
    assert lexicon_identity()["wordnet"]["sha256"]


# ------------------------------------------------------------------------------------------------ attacks
@pytest.fixture
def trained(classifier: Path) -> Callable[[Adapter], tuple[Any, Any]]:
    """(the fine-tuned tiny BERT, a copy of it with this adapter on)."""

    def made(adapter: Adapter) -> tuple[Any, Any]:
        import copy

        from robusweep.model import head_names, load_classifier

        base = load_classifier(str(classifier), device="cpu")
        network = copy.deepcopy(base.network)
        return base, adapter.attach(network, head=head_names(network), seed=0)

    return made


TEXTS = [(f"the {noun} was truly {word}", int(word == "splendid")) for noun in ("film", "plot", "scene", "story")
         for word in ("splendid", "dreadful")]  # fmt: skip


def attacked(lent: Lender, network: Any, **options: Any) -> list[str | None]:
    fields = {"attack": "deepwordbug", "n_queries": 200, "seed": 1}
    return lent.attacked(TEXTS, network=network, **(fields | options))


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2, dropout=0.5)], ids=["full", "lora"])
def test_an_attack_turns_the_network_as_it_stands_and_leaves_it_as_it_was(
    adapter: Adapter, trained: Any, tmp_path: Path
) -> None:
    import torch

    base, network = trained(adapter)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.02)
    network.train()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = attacked(lender(base, tmp_path, adapter=adapter), network)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.get_rng_state().equal(states[2])
    assert all(module.training for module in network.modules())
    assert all(p.equal(before[name]) for name, p in network.named_parameters())
    assert all(p.grad is not None and p.grad.eq(1).all() for p in network.parameters() if p.requires_grad)
    assert sum(text is not None for text in found) >= 2
    network.eval()
    for (old, label), new in zip(TEXTS, found, strict=True):
        if new is not None:
            ids = torch.tensor(base.tokens([old, new]))
            with torch.no_grad():
                assert network(input_ids=ids).logits.argmax(dim=1).tolist()[0] == label
                assert network(input_ids=ids).logits.argmax(dim=1).tolist()[1] != label


def test_an_attack_depends_on_its_seed_alone_and_not_on_the_company(trained: Any, tmp_path: Path) -> None:
    base, network = trained(Lora(rank=2))
    once = attacked(lender(base, tmp_path / "a"), network)
    random.seed(5)
    assert attacked(lender(base, tmp_path / "b"), network) == once
    few = lender(base, tmp_path / "c").attacked(
        TEXTS[3:5], network=network, attack="deepwordbug", n_queries=200, seed=1
    )
    assert few == once[3:5]


def test_a_budget_bounds_the_queries_for_each_text(trained: Any, tmp_path: Path) -> None:
    base, network = trained(Lora(rank=2))
    assert attacked(lender(base, tmp_path), network, n_queries=1) == [None] * len(TEXTS)
    logs = [OutcomeLog(path) for path in (tmp_path / "attack").glob("*.jsonl")]
    outcomes = [outcome for log in logs for outcome in log.done.values()]
    assert len(outcomes) == len(TEXTS)
    assert {outcome.n_queries for outcome in outcomes} == {1}


def test_a_wrong_answer_is_not_attacked(trained: Any, tmp_path: Path) -> None:
    base, network = trained(Lora(rank=2))
    turned = [(text, 1 - label) for text, label in TEXTS]
    found = lender(base, tmp_path).attacked(turned, network=network, attack="deepwordbug", n_queries=200, seed=1)
    assert found == [None] * len(TEXTS)


def test_what_was_attacked_before_a_cut_is_not_attacked_again(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, network = trained(Lora(rank=2))
    once = attacked(lender(base, tmp_path), network)

    def forbidden(self: OutcomeLog, outcome: object) -> None:
        raise AssertionError("a text was attacked again")

    monkeypatch.setattr(OutcomeLog, "append", forbidden)
    assert attacked(lender(base, tmp_path), network) == once


def test_without_a_network_the_reference_is_attacked(trained: Any, tmp_path: Path) -> None:
    import torch

    base, network = trained(Lora(rank=2))
    once = attacked(lender(base, tmp_path / "a"), network)
    assert attacked(lender(base, tmp_path / "b", reference={}), None) == once
    blind = {name: torch.zeros_like(p) for name, p in base.network.named_parameters() if name.startswith("classifier")}
    assert attacked(lender(base, tmp_path / "c", reference=blind), None) == [None] * len(TEXTS)
