"""Coefficients as gates: 1 changes nothing, their gradient is the derivative, and bfloat16 does not round them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["robusweep.tickets.gates"], "beartype.beartype")

from robusweep.errors import StageError  # noqa: E402
from robusweep.tickets.gates import Gates, masked, scaled  # noqa: E402
from robusweep.tickets.masks import Masks  # noqa: E402
from robusweep.tickets.parts import parts_of, shape_of  # noqa: E402

Load = Callable[..., Any]
SHAPE = (2, 4, 64)


def texts() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 105, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 4, 7])[:, None]
    return {"input_ids": ids.where(mask, 1), "attention_mask": mask.long()}


def n_hooks(network: Any) -> int:
    return sum(len(module._forward_pre_hooks) for module in network.modules())


@pytest.mark.parametrize("bf16", [False, True])
def test_coefficients_of_one_change_no_bit_and_leave_the_network_as_it_was(
    family: str, load_tiny: Load, bf16: bool
) -> None:
    network = load_tiny(family).network
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        plain = network(**texts()).logits
        with Gates(shape_of(network)).on(network):
            assert n_hooks(network) == 4
            gated = network(**texts()).logits
        after = network(**texts()).logits
    assert torch.equal(plain, gated)
    assert torch.equal(plain, after)
    assert n_hooks(network) == 0


def test_coefficients_of_one_change_no_gradient(load_tiny: Load) -> None:
    def gradients(network: Any) -> list[torch.Tensor]:
        network.zero_grad()
        network(**texts()).logits.logsumexp(1).sum().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    network = load_tiny("bert").network
    plain = gradients(network)
    with Gates(SHAPE).on(network):
        gated = gradients(network)
    assert len(plain) == len(gated) > 30
    assert all(torch.equal(a, b) for a, b in zip(plain, gated, strict=True))


@pytest.mark.parametrize("what", ["heads", "neurons"])
def test_the_gradient_of_a_coefficient_is_the_finite_difference(family: str, load_tiny: Load, what: str) -> None:
    network = load_tiny(family).network.double()
    gates = Gates(SHAPE)
    coefficients = getattr(gates, what)

    def value() -> torch.Tensor:
        loss: torch.Tensor = torch.nn.functional.cross_entropy(network(**texts()).logits, torch.tensor([0, 1, 1]))
        return loss

    with gates.on(network):
        value().backward()
        for place in [(0, 0), (0, 3), (1, 2)]:
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    coefficients[place] = 1 + sign * 2.0**-12  # a float32, exactly
                    ends.append(value())
                    coefficients[place] = 1.0
            slope = (ends[0] - ends[1]) / 2.0**-11
            assert float(coefficients.grad[place]) == pytest.approx(float(slope), rel=1e-3, abs=1e-7)
    assert coefficients.grad.dtype == torch.float32


def test_a_heads_coefficient_is_that_of_its_attention_probabilities(load_tiny: Load) -> None:
    network = load_tiny("bert", attention="eager").network
    gates = Gates(SHAPE).requires_grad_(False)
    gates.heads.copy_(torch.linspace(-0.5, 1.5, 8).view(2, 4))
    own = network(**texts(), head_mask=gates.heads).logits
    with gates.on(network):
        torch.testing.assert_close(network(**texts()).logits, own)


def test_a_neurons_coefficient_is_that_of_its_activation(load_tiny: Load) -> None:
    network = load_tiny("distilbert").network
    gates = Gates(SHAPE).requires_grad_(False)
    gates.neurons.copy_(torch.linspace(-0.5, 1.5, 128).view(2, 64))
    with gates.on(network):
        gated = network(**texts()).logits
    for parts, coefficients in zip(parts_of(network), gates.neurons, strict=True):
        parts.down.weight = torch.nn.Parameter(parts.down.weight * coefficients)
    torch.testing.assert_close(network(**texts()).logits, gated)


def test_a_coefficient_finer_than_bfloat16_has_its_own_gradient() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    c = torch.tensor([1.0 + 2.0**-12, 1.0], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = scaled(x, c)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert c.dtype == torch.float32
    assert c.grad is not None
    assert c.grad.dtype == torch.float32
    exact = (2 * y.detach().double() * x.double()).view(50, 2, 4).sum(dim=(0, 2))
    torch.testing.assert_close(c.grad.double(), exact, rtol=1e-6, atol=0)  # bfloat16 would be off by 1e-3


def test_gates_stay_in_float32_on_a_network_of_another_type(load_tiny: Load) -> None:
    network = load_tiny("bert").network.to(torch.bfloat16)
    gates = Gates(SHAPE)
    with gates.on(network):
        network(**texts()).logits.float().logsumexp(1).sum().backward()
    assert gates.heads.grad is not None
    assert gates.heads.grad.dtype == torch.float32
    assert gates.heads.grad.abs().min() > 0


def test_gates_go_when_the_pass_fails(load_tiny: Load) -> None:
    network = load_tiny("bert").network
    with pytest.raises(IndexError), Gates(SHAPE).on(network):
        network(input_ids=torch.tensor([[9999]]))
    assert n_hooks(network) == 0


def test_gates_of_another_shape_and_networks_of_another_make_are_refused(load_tiny: Load) -> None:
    network = load_tiny("bert").network
    with pytest.raises(StageError, match=r"gates of shape \(2, 5, 64\)"), Gates((2, 5, 64)).on(network):
        pass
    with pytest.raises(StageError, match="needs a network of bert"):
        parts_of(torch.nn.Linear(2, 2))


def test_masks_of_all_units_change_nothing_and_fewer_do(load_tiny: Load) -> None:
    network = load_tiny("electra").network
    heads, neurons = np.ones((2, 4), dtype=bool), np.ones((2, 64), dtype=bool)
    plain = network(**texts()).logits
    with masked(network, Masks(heads, neurons)):
        assert torch.equal(network(**texts()).logits, plain)
    heads[1, 2] = False
    with masked(network, Masks(heads, neurons)):
        assert not torch.allclose(network(**texts()).logits, plain)
