"""What a system costs: operations and parameters, against counts made by hand from the network's shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from robusweep.costs import Costs, Meter
from robusweep.mixing import Emulated, Fixed, OfLogits, PerText, TrainedSet
from robusweep.mixture import Factors, Member
from robusweep.model import TextModel
from robusweep.tickets import Masks
from robusweep.tickets.removal import removed

N, WIDTH, NEURONS, LAYERS, CLASSES = 7, 32, 64, 2, 2
Load = Callable[..., TextModel]


def by_hand(n: int = N, width: int = WIDTH, neurons: int = NEURONS, inner: int = WIDTH) -> int:
    """Two for each multiplication of a BERT's maps and attention; ``inner``: of all heads of a layer together."""
    maps = 4 * width * inner + 2 * width * neurons
    attention = 2 * n * inner  # scores, then their product with the values
    return 2 * (LAYERS * n * (maps + attention) + width * width + width * CLASSES)


def adapters(model: TextModel, n: int = 2, *, rank: int | None = 3) -> TrainedSet:
    """Adapters with a head each and, with a rank, a low-rank change of the first query map."""
    own: dict[str, Any] = dict(model.network.named_parameters())
    head = {name: value.detach() for name, value in own.items() if name.startswith("classifier")}
    factors = {}
    if rank is not None:
        factors = {
            "bert.encoder.layer.0.attention.self.query": Factors(torch.ones(rank, WIDTH), torch.ones(WIDTH, rank))
        }
    members = [Member(head, factors) for _ in range(n)]
    return TrainedSet(
        ["clean", *(f"adversarial.{i}" for i in range(n - 1))], own, [head] * n, members, [(0.0, 1.0)] * n
    )


def n_parameters(model: TextModel) -> int:
    return sum(p.numel() for p in model.network.parameters())


def test_one_network_costs_what_its_maps_and_attention_multiply(load_tiny: Load) -> None:
    model = load_tiny("bert")
    assert Meter(model, n_tokens=N).costs(Fixed({})) == Costs(by_hand(), n_parameters(model))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra"])
def test_each_family_has_the_same_layers_and_another_head(load_tiny: Load, family: str) -> None:
    model = load_tiny(family)
    found, longer = (Meter(model, n_tokens=n).costs(Fixed({})).inference_flops for n in (N, N + 1))
    per_token = 2 * 16 * WIDTH if family == "electra" else 0  # its embeddings are projected
    assert longer - found == by_hand(N + 1) - by_hand() + per_token


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_the_count_does_not_depend_on_the_kernel_of_attention(load_tiny: Load, attention: str) -> None:
    model = load_tiny("bert")
    model.network.config._attn_implementation = attention
    assert Meter(model, n_tokens=N).costs(Fixed({})).inference_flops == by_hand()
    assert model.network.config._attn_implementation == attention


def test_mixed_answers_run_every_adapter_and_ship_it(load_tiny: Load) -> None:
    model = load_tiny("bert")
    trained = adapters(model, 3)
    found = Meter(model, n_tokens=N).costs(OfLogits(trained, (0.5, 0.25, 0.25)))
    factors, head = 2 * 3 * WIDTH, WIDTH * CLASSES + CLASSES
    assert found == Costs(3 * by_hand(), n_parameters(model) + 3 * factors + 2 * head)


@pytest.mark.parametrize("rule", ["entropy_ratio", "emea"])
def test_weights_of_each_text_cost_the_adapters_and_the_passes_of_their_rule(load_tiny: Load, rule: str) -> None:
    model = load_tiny("bert")
    steps = {"n_steps": 2, "step_size": 0.1} if rule == "emea" else {}
    found = Meter(model, n_tokens=N).costs(PerText(adapters(model), rule, steps)).inference_flops
    low_rank, heads = 2 * 2 * N * 2 * 3 * WIDTH, 2 * WIDTH * CLASSES  # of two adapters; one head is in the pass already
    mixed = by_hand() + low_rank + heads
    passes = 1 + (2 if rule == "emea" else 0)
    least = 2 * by_hand() + passes * mixed
    assert found == least if rule == "entropy_ratio" else found > least  # emea goes backwards, too


def test_a_ticket_costs_less_and_so_does_a_network_whose_units_are_not_read(load_tiny: Load) -> None:
    model = load_tiny("bert")
    heads, neurons = np.ones((LAYERS, 4), dtype=bool), np.ones((LAYERS, NEURONS), dtype=bool)
    heads[:, 2:], neurons[:, 16:] = False, False
    small: Any = removed(model.network, Masks(heads, neurons))
    ticket = TextModel(small, model.tokenizer, model.label_names, model.max_tokens, model.device)
    cut = Meter(ticket, n_tokens=N).costs(Fixed({}))
    assert cut == Costs(by_hand(neurons=16, inner=16), sum(p.numel() for p in small.parameters()))
    own = dict(model.network.named_parameters())
    zeroed = {}
    for i in range(LAYERS):
        output, down = (
            f"bert.encoder.layer.{i}.attention.output.dense.weight",
            f"bert.encoder.layer.{i}.output.dense.weight",
        )
        zeroed |= {name: own[name].detach().clone() for name in (output, down)}
        zeroed[output][:, 16:] = 0
        zeroed[down][:, 16:] = 0
    assert Meter(model, n_tokens=N, may_be_pruned=True).costs(Fixed(zeroed)) == cut
    assert Meter(model, n_tokens=N, may_be_pruned=True).costs(Fixed({})).inference_flops == by_hand()


def test_an_emulated_system_carries_the_large_model(load_tiny: Load, folders: Any) -> None:
    model, large = load_tiny("bert"), str(folders["bert"])
    found = Meter(model, n_tokens=N).costs(Emulated(adapters(model), large, 1.0))
    plain = Meter(model, n_tokens=N).costs(OfLogits(adapters(model), (0.5, 0.5)))
    assert found.inference_flops == plain.inference_flops + by_hand()
    assert found.n_parameters == plain.n_parameters + n_parameters(model)


def test_counting_leaves_the_network_and_the_generator_as_they_were(load_tiny: Load) -> None:
    model = load_tiny("bert")
    state, before = torch.random.get_rng_state(), [p.clone() for p in model.network.parameters()]
    trained = [p.requires_grad for p in model.network.parameters()]
    Meter(model, n_tokens=N).costs(PerText(adapters(model), "entropy_ratio"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))
    assert all(p.grad is None for p in model.network.parameters())
    assert [p.requires_grad for p in model.network.parameters()] == trained
    assert all("forward" not in module.__dict__ for module in model.network.modules())
