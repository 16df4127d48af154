"""What makes passes cheap changes no answer: folded adapters, frozen weights in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Full, Lora, Oft

if TYPE_CHECKING:
    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]


def grown(adapter: Any, load_tiny: Load, family: str = "bert") -> Any:
    """A network whose adapter does something, in training mode."""
    import torch

    network = adapter.attach(load_tiny(family, dropout=0.1).network, head=["classifier.weight"], seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if ".lora_" in name or ".oft_" in name:
                p.add_(0.2 * torch.randn(p.shape, generator=rng))
    return network.train()


def test_a_search_folds_the_adapter_and_answers_alike(family: str, load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = grown(Lora(rank=2), load_tiny, family)
    step = make_step(network)
    plain = step.logits()
    lora = [module for module in network.modules() if hasattr(module, "lora_A")]
    assert lora
    with step.searching():
        assert all("forward" in vars(module) for module in lora)
        torch.testing.assert_close(step.logits(), plain, rtol=1e-5, atol=1e-5)
    assert not any("forward" in vars(module) for module in lora)
    assert step.logits().equal(plain)


@pytest.mark.parametrize(
    "adapter", [Lora(rank=2, dropout=0.1), Oft(block_size=8), Full()], ids=["dropout", "oft", "full"]
)
def test_what_can_not_be_folded_exactly_is_left_as_it_is(adapter: Any, load_tiny: Load, make_step: MakeStep) -> None:
    step = make_step(grown(adapter, load_tiny))
    plain = step.logits()
    with step.searching():
        assert step.logits().equal(plain)


def test_an_error_inside_a_search_unfolds_the_adapter(load_tiny: Load, make_step: MakeStep) -> None:
    network = grown(Lora(rank=2), load_tiny)
    step = make_step(network)
    with pytest.raises(RuntimeError, match="out of memory"), step.searching():
        raise RuntimeError("out of memory")
    assert not any("forward" in vars(module) for module in network.modules())


def test_the_direction_found_with_a_folded_adapter_is_that_of_the_adapter(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = grown(Lora(rank=2), load_tiny)
    step = make_step(network)
    delta = torch.zeros(*step.mask.shape, 32, requires_grad=True)
    gradient = step.gradient(step.loss(delta), delta)
    with step.searching():
        folded = step.gradient(step.loss(delta), delta)
    torch.testing.assert_close(folded, gradient, rtol=1e-4, atol=1e-6)


def test_frozen_weights_in_bfloat16_answer_bit_for_bit_and_come_back(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    from robusweep.training.precision import frozen_in_bf16

    network = grown(Lora(rank=2), load_tiny)
    step = make_step(network, bf16=True)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    plain = step.logits()
    with frozen_in_bf16(network, when=True):
        halved = [p for p in network.parameters() if p.dtype == torch.bfloat16]
        assert len(halved) > 10
        assert not any(p.requires_grad for p in halved)
        assert step.logits().equal(plain)
    assert all(p.equal(before[name]) for name, p in network.named_parameters())
    with frozen_in_bf16(network, when=False):
        assert all(p.dtype == torch.float32 for p in network.parameters())


def test_the_teacher_is_asked_once_for_a_batch(load_tiny: Load, make_step: MakeStep) -> None:
    network = grown(Lora(rank=2), load_tiny)
    step = make_step(network)
    first = step.teacher()
    assert step.teacher() is first
    assert step.costs.n_forward == 1
    assert network.training
