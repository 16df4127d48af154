"""The forward pass without padding against the model's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robusweep.examples import Row
from robusweep.packed import PackedEncoder, pack

Load = Callable[..., Any]


@pytest.fixture
def rows() -> list[Row]:
    """Forty rows of 1 to 30 tokens, sorted by length, most lengths more than once."""
    rng = np.random.default_rng(3)
    lengths = sorted([1, 2, 30, *rng.integers(2, 22, size=37).tolist()])
    return [rng.integers(5, 105, size=n) for n in lengths]


def electra(**changed: Any) -> Any:
    from transformers import ElectraConfig, ElectraForSequenceClassification

    torch.manual_seed(5)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ElectraConfig(vocab_size=110, intermediate_size=64, initializer_range=0.3, **(sizes | changed))
    return ElectraForSequenceClassification(config).eval()


def own_states(network: Any, row: Row) -> torch.Tensor:
    with torch.inference_mode():
        states: torch.Tensor = network.base_model(input_ids=torch.from_numpy(row)[None])[0][0]
    return states


def check(network: Any, rows: list[Row]) -> None:
    packed = pack(network)
    assert packed is not None
    states = [own_states(network, row) for row in rows]
    torch.testing.assert_close(packed.first(rows), torch.stack([s[0] for s in states]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(packed.mean(rows), torch.stack([s.mean(0) for s in states]), atol=2e-5, rtol=1e-4)


def test_packed_states_are_those_of_the_model(family: str, load_tiny: Load, rows: list[Row]) -> None:
    check(load_tiny(family).network, rows)


@pytest.mark.parametrize("embedding_size", [16, 32])
def test_packed_states_of_electra_with_and_without_its_projection(embedding_size: int, rows: list[Row]) -> None:
    check(electra(embedding_size=embedding_size), rows)


def test_logits_of_electra_are_those_of_the_model(tmp_path: Path, folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    from robusweep.model import load_classifier, victim

    electra(pad_token_id=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders["bert"]).save_pretrained(tmp_path)
    model = load_classifier(str(tmp_path), device="cpu")
    texts = ["good w1", "bad", "w3 w4 w5 w6"]
    with torch.inference_mode():
        own = [model.network(input_ids=torch.tensor([row])).logits[0].numpy() for row in model.tokens(texts)]
    np.testing.assert_allclose(victim(model, {}, precision="fp32")(texts), np.stack(own), atol=1e-5)


def test_padding_tokens_inside_a_text_keep_the_positions_of_roberta(load_tiny: Load) -> None:
    check(load_tiny("roberta").network, [np.array([2, 1, 9, 1, 12]), np.array([2, 9, 9, 9, 9, 1, 3])])


def test_removed_heads_and_neurons_are_packed_too(load_tiny: Load, rows: list[Row]) -> None:
    network = load_tiny("bert").network
    layer = network.bert.encoder.layer[0]
    attention = layer.attention.self
    for name in ("query", "key", "value"):
        linear = getattr(attention, name)
        linear.weight, linear.bias = (torch.nn.Parameter(p[8:]) for p in (linear.weight, linear.bias))
        linear.out_features = 24
    attention.num_attention_heads, attention.all_head_size = 3, 24
    output = layer.attention.output.dense
    output.weight = torch.nn.Parameter(output.weight[:, 8:])
    check(network, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_result_does_not_depend_on_the_rest_of_the_batch(
    dtype: torch.dtype, load_tiny: Load, rows: list[Row]
) -> None:
    packed = PackedEncoder(load_tiny("bert").network, dtype)
    together = packed.first(rows)
    alone = torch.cat([packed.first([row]) for row in rows])
    halves = torch.cat([packed.first(rows[:13]), packed.first(rows[13:])])
    assert torch.equal(together, alone)
    assert torch.equal(together, halves)


def test_what_this_module_does_not_know_is_not_packed(load_tiny: Load) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    assert pack(GPT2ForSequenceClassification(GPT2Config(**size)).eval()) is None
    network = load_tiny("bert").network
    layer = network.bert.encoder.layer[1]
    layer.output.dense = torch.nn.Sequential(layer.output.dense, torch.nn.Tanh())
    assert pack(network) is None
    other = load_tiny("bert").network
    other.bert.encoder.layer[0].register_forward_hook(lambda _layer, _args, out: (out[0] * 1.5,))
    assert pack(other) is None
