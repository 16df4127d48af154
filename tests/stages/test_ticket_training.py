"""Training what a ticket keeps: plain, from the pre-trained weights, and nothing of the search in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from robusweep.adapters import Full, Lora
from robusweep.adapters.base import Adapter
from robusweep.tickets import EarlyBird
from robusweep.tickets.parts import parts_of
from robusweep.tickets.removal import removed
from robusweep.training.freelb import FreeLb
from robusweep.training.loop import fit
from robusweep.training.radius import Radius
from robusweep.training.standard import Standard

Load = Callable[..., Any]
Separable = tuple[list[list[int]], list[int]]


def on_ticket(load_tiny: Load, separable: Separable, adapter: Adapter, family: str = "bert") -> tuple[Any, Any]:
    """(the whole network, a searched ticket of it under an adapter)."""
    network = load_tiny(family).network
    spec = EarlyBird(head_density=0.5, neuron_density=0.5, n_steps=3, batch_size=4, threshold=None, min_neurons=1)
    record = spec.search(network, *separable, pad_id=1, seed=0, bf16=False)
    ticket = removed(network, spec.draw(record, seed=0).masks)
    head = [name for name, _ in ticket.named_parameters() if name.startswith("classifier")]
    return network, adapter.attach(ticket, head=head, seed=0)


def test_a_step_of_the_second_stage_is_one_forward_and_one_backward_pass(
    family: str, load_tiny: Load, separable: Separable
) -> None:
    _, ticket = on_ticket(load_tiny, separable, Full(), family)
    passes = {"forward": 0, "backward": 0}
    up = parts_of(ticket)[0].up

    def count(what: str) -> None:
        passes[what] += ticket.training  # the entropies behind the last epoch are measured in eval mode

    up.register_forward_hook(lambda *_: count("forward"))
    up.weight.register_hook(lambda _gradient: count("backward"))
    plain = fit(ticket, Standard(n_epochs=2, batch_size=8), *separable, pad_id=1, seed=0, bf16=False)
    assert plain.n_steps == 10
    assert (plain.n_forward, plain.n_backward) == (10, 10)
    assert passes == {"forward": 10, "backward": 10}
    adversarial = FreeLb(n_epochs=2, batch_size=8, radius=Radius(value=0.1), n_steps=3)
    fit(ticket, adversarial, *separable, pad_id=1, seed=0, bf16=False)
    assert passes == {"forward": 40, "backward": 40}  # the counters can tell


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2)], ids=lambda a: a.kind)
def test_no_coefficient_learns_or_stands_in_the_way_in_the_second_stage(
    adapter: Adapter, load_tiny: Load, separable: Separable
) -> None:
    network, ticket = on_ticket(load_tiny, separable, adapter)
    learns = {name for name, parameter in ticket.named_parameters() if parameter.requires_grad}
    own = {name for name, _ in network.named_parameters()}
    assert len(learns) > 3
    if isinstance(adapter, Full):
        assert learns == own
    else:
        assert all("lora_" in name or "classifier" in name for name in learns)
    of_coefficients = {(2, 4), (2, 64)}
    assert not [name for name, parameter in ticket.named_parameters() if tuple(parameter.shape) in of_coefficients]
    assert not [module for module in ticket.modules() if module._forward_pre_hooks]
    fit(ticket, Standard(n_epochs=1, batch_size=8), *separable, pad_id=1, seed=0, bf16=False)
    assert not [module for module in ticket.modules() if module._forward_pre_hooks]


def test_the_second_stage_starts_from_the_pre_trained_weights(load_tiny: Load, separable: Separable) -> None:
    network, ticket = on_ticket(load_tiny, separable, Full())
    kept = [parts.up.weight for parts in parts_of(ticket)]
    whole = [parts.up.weight for parts in parts_of(network)]
    for few, many in zip(kept, whole, strict=True):
        assert len(few) < len(many)
        assert all((many == row).all(dim=1).any() for row in few)
    assert torch.equal(ticket.classifier.weight, network.classifier.weight)
