from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robusweep.model as stage
from robusweep.queries import QueryMemory

victim_module = import_module("robusweep.model.victim")  # the package exports a function of the same name
Load = Callable[..., Any]
Shapes = list[tuple[int, int]]


def watched(model: Any) -> Shapes:
    """Collects the [rows, tokens] of every forward pass, of copies of the network too."""
    shapes: Shapes = []
    model.network.register_forward_pre_hook(
        lambda _network, _args, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_a_victim_answers_each_text_alike_alone_in_company_and_in_any_order(
    family: str, load_tiny: Load, random_texts: list[str]
) -> None:
    ask = stage.victim(load_tiny(family), {}, precision="fp32")
    together = ask(random_texts)
    assert together.shape == (200, 2)
    assert together.dtype == np.float32
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(ask([random_texts[i] for i in order]), together[order], atol=1e-5)
    alone = np.concatenate([ask([text]) for text in random_texts[:20]])
    np.testing.assert_allclose(alone, together[:20], atol=1e-5)
    assert together.std(axis=0).min() > 0.01  # the answers do depend on the text


def test_a_padded_victim_fills_its_token_budget_and_pads_to_the_longest_text_of_a_batch(
    load_tiny: Load, random_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(victim_module.TOKENS_PER_BATCH, "cpu", 100)
    model = load_tiny()
    packed = stage.victim(model, {}, precision="fp32")(random_texts)
    monkeypatch.setattr("robusweep.packed.pack", lambda *_: None)
    shapes = watched(model)
    np.testing.assert_allclose(stage.victim(model, {}, precision="fp32")(random_texts), packed, atol=1e-5)
    lengths = sorted(len(row) for row in model.tokens(random_texts))
    assert sum(rows for rows, _ in shapes) == 200
    assert all(rows * tokens <= 100 for rows, tokens in shapes)
    served = 0
    for rows, tokens in shapes:  # shortest texts first, each batch as wide as its longest text
        assert tokens == lengths[served + rows - 1]
        served += rows
    computed = sum(rows * tokens for rows, tokens in shapes)
    assert sum(lengths) > 0.9 * computed
    assert len(shapes) < 1.3 * computed / 100 + 1


def test_a_text_longer_than_the_budget_still_gets_its_answer(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_tiny()
    texts = ["w1 " * 30, "w2", "w3 " * 35]
    expected = stage.victim(model, {}, precision="fp32")(texts)
    monkeypatch.setitem(victim_module.TOKENS_PER_BATCH, "cpu", 8)
    np.testing.assert_allclose(stage.victim(model, {}, precision="fp32")(texts), expected, atol=1e-5)


def test_no_texts_give_no_rows(load_tiny: Load) -> None:
    model = load_tiny(labels=("a", "b", "c"))
    answer = stage.victim(model, {}, precision="fp32")([])
    assert (answer.shape, answer.dtype) == ((0, 3), np.float32)
    assert model.tokens([]) == []


def test_an_empty_text_and_unknown_words_are_answered(load_tiny: Load) -> None:
    answer = stage.victim(load_tiny(), {}, precision="fp32")(["", "   ", "\u2603 unseen"])
    assert np.isfinite(answer).all()
    np.testing.assert_allclose(answer[0], answer[1], atol=1e-6)


def test_texts_are_cut_to_max_tokens_with_both_special_tokens_kept(load_tiny: Load) -> None:
    model = load_tiny(max_tokens=8)
    (row,) = model.tokens(["good " * 50])
    assert row == [2, *[5] * 6, 3]
    ask = stage.victim(model, {}, precision="fp32")
    np.testing.assert_array_equal(ask(["good " * 6]), ask(["good " * 6 + "bad"]))


def test_texts_never_outgrow_the_position_embeddings(family: str, load_tiny: Load) -> None:
    model = load_tiny(family, max_tokens=4096)
    assert model.max_tokens == 64
    assert np.isfinite(stage.victim(model, {}, precision="fp32")(["good " * 100])).all()


def test_bfloat16_answers_nearly_all_texts_alike(load_tiny: Load, random_texts: list[str]) -> None:
    model = load_tiny()
    exact = stage.victim(model, {}, precision="fp32")(random_texts)
    fast = stage.victim(model, {}, precision="bf16")(random_texts)
    assert fast.dtype == np.float32
    assert not np.array_equal(fast, exact)
    assert (fast.argmax(1) == exact.argmax(1)).mean() > 0.95
    assert next(model.network.parameters()).element_size() == 4  # the model itself stays in float32


def test_a_victim_owns_its_copy_and_holds_the_parameters_it_was_given(load_tiny: Load, random_texts: list[str]) -> None:
    import torch

    model = load_tiny()
    plain = stage.victim(model, {}, precision="fp32")
    before = plain(random_texts)
    other_head = {"classifier.bias": torch.tensor([1.0, -2.0])}
    shifted = stage.victim(model, other_head, precision="fp32")
    bias = model.network.classifier.bias.detach().numpy()
    np.testing.assert_allclose(shifted(random_texts) - before, [np.array([1.0, -2.0]) - bias] * 200, atol=1e-5)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    other_head["classifier.bias"].zero_()
    np.testing.assert_array_equal(plain(random_texts), before)
    assert not np.array_equal(shifted(random_texts), before)


def test_a_victim_answers_without_dropout_even_when_the_model_trains(load_tiny: Load) -> None:
    model = load_tiny(dropout=0.5)
    model.network.train()
    ask = stage.victim(model, {}, precision="fp32")
    np.testing.assert_array_equal(ask(["good w1 w2"]), ask(["good w1 w2"]))
    assert model.network.training


def test_texts_that_were_asked_before_are_not_computed_again(load_tiny: Load, random_texts: list[str]) -> None:
    ask = stage.victim(load_tiny(), {}, precision="fp32")
    first = ask([*random_texts, *random_texts])
    assert ask.n_computed == len({tuple(row) for row in load_tiny().tokens(random_texts)})
    n_computed = ask.n_computed
    np.testing.assert_array_equal(ask(random_texts[::-1])[::-1], first[:200])
    np.testing.assert_array_equal(first[:200], first[200:])
    assert ask.n_computed == n_computed


def test_what_a_victim_has_answered_outlives_it(load_tiny: Load, random_texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "queries" / "a.bin"
    first = stage.victim(load_tiny(), {}, precision="fp32", memory=QueryMemory(path))
    expected = first(random_texts)
    again = stage.victim(load_tiny(), {}, precision="fp32", memory=QueryMemory(path))
    np.testing.assert_array_equal(again(random_texts), expected)
    assert (first.n_computed > 0, again.n_computed) == (True, 0)


def test_a_temperature_divides_the_logits_and_shares_what_is_known(load_tiny: Load, random_texts: list[str]) -> None:
    ask = stage.victim(load_tiny(), {}, precision="fp32")
    plain = ask(random_texts)
    cooler = ask.tempered(4.0)
    np.testing.assert_allclose(cooler(random_texts), plain / 4.0, rtol=1e-6)
    assert cooler.n_computed == ask.n_computed
    np.testing.assert_array_equal(cooler.tempered(None)(random_texts), plain)


def test_parts_of_a_text_make_the_row_of_the_whole_text(family: str, load_tiny: Load, random_texts: list[str]) -> None:
    model = load_tiny(family, max_tokens=20)
    ask = stage.victim(model, {}, precision="fp32")
    for text in random_texts[:50]:
        parts = [part if i == 0 else f" {part}" for i, part in enumerate(text.split(" "))]
        row = ask.row(ask.pieces(parts))
        assert row.tolist() == ask.rows([text])[0].tolist() == model.tokens([text])[0]
        np.testing.assert_array_equal(ask.logits([row]), ask([text]))


def test_a_gradient_is_that_of_the_loss_of_the_prediction_at_the_word_embeddings(family: str, load_tiny: Load) -> None:
    import torch

    model = load_tiny(family)
    ask = stage.victim(model, {}, precision="bf16").tempered(2.0)
    text = "good w1 w2 bad"
    (found,) = ask.gradients([text])
    assert found.ids.tolist() == model.tokens([text])[0]
    assert found.tokens[1] == "good"
    assert found.values.shape == (6, 16 if family == "electra" else 32)
    embeddings = model.network.get_input_embeddings()(torch.from_numpy(found.ids)[None])
    label = model.network(inputs_embeds=embeddings).logits.argmax(1)

    @torch.no_grad()
    def loss(shift: float) -> float:
        moved = embeddings + shift * torch.from_numpy(found.values)
        return float(torch.nn.functional.cross_entropy(model.network(inputs_embeds=moved).logits / 2.0, label))

    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    assert slope == pytest.approx(float((found.values**2).sum()), rel=0.02)
