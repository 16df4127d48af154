"""Adversarial self-attention: the mask, its gradient, the penalty, and what is left in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Lora
from robusweep.errors import StageError
from robusweep.training.asa import Asa

if TYPE_CHECKING:
    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
Texts = tuple[list[list[int]], list[int]]


def armed(network: Any, step: Step, *, seed: int = 0, scale: float = 1.0) -> Any:
    """An adversary on this step, its weights times ``scale``."""
    import torch

    from robusweep.training.adversary import Adversary

    step.companion = Adversary(network, seed=seed)
    with torch.no_grad():
        for linear in [*step.companion.queries, *step.companion.keys]:
            linear.weight.mul_(scale)
    return step.companion


def test_the_mask_is_hard_and_its_gradient_a_reversed_sigmoids() -> None:
    import torch

    from robusweep.training.adversary import hard_mask

    scores = torch.linspace(-3, 3, 101).requires_grad_(True)
    mask = hard_mask(scores)  # type: ignore[arg-type]
    assert set(mask.tolist()) == {0.0, 1.0}
    assert mask.equal((scores > 0).float())
    mask.sum().backward()
    soft = scores.detach().sigmoid()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, -soft * (1 - soft))


def test_padding_is_never_seen_and_a_token_always_sees_itself(
    family: str, load_tiny: Load, make_step: MakeStep
) -> None:
    from robusweep.training.adversary import hiding

    network = load_tiny(family, dropout=0.0).network
    step = make_step(network, [9, 4, 1])
    adversary = armed(network, step, scale=50)
    with hiding(step, adversary) as masks:
        step.logits()
    assert len(masks) == 2
    for pairs in masks:
        assert set(pairs.unique().tolist()) == {0.0, 1.0}
        assert not (pairs * ~step.mask[:, None, :]).any()
        assert bool((pairs.diagonal(dim1=1, dim2=2) == step.mask).all())
        assert 0.1 < float(pairs[step.mask].detach().mean()) < 0.95


def test_a_pair_that_is_hidden_carries_nothing(family: str, load_tiny: Load, make_step: MakeStep) -> None:
    """With every pair but a token's own hidden, a text's prediction depends on its first token alone."""
    import torch

    from robusweep.training.adversary import hiding

    network = load_tiny(family, dropout=0.0).network
    step = make_step(network, [6, 6])
    adversary = armed(network, step)
    with torch.no_grad():
        for linear in adversary.queries:
            linear.weight.zero_()  # scores of 0 are not positive
    with hiding(step, adversary):
        before = step.logits()
    step.ids = torch.cat([step.ids[:, :1], step.ids[:, 1:].flip(1)], dim=1)
    with hiding(step, adversary):
        assert torch.allclose(step.logits(), before, atol=1e-6)
    assert not torch.allclose(step.logits(), before, atol=1e-3)


def test_the_adversary_climbs_what_the_model_descends(load_tiny: Load, make_step: MakeStep) -> None:
    """Its gradient has the other sign, and none of it reaches the model through the mask's input."""
    from robusweep.training import adversary as module

    def gradients(reversal: float) -> tuple[Any, Any]:
        network = load_tiny(dropout=0.0).network
        step = make_step(network)
        companion = armed(network, step, scale=50)
        plain = module.hard_mask
        module.hard_mask = lambda scores: plain(scores, reversal=reversal)  # type: ignore[assignment]
        try:
            Asa(tau=0.3).backward(step)
        finally:
            module.hard_mask = plain
        return [p.grad for p in companion.parameters()], [p.grad for p in network.parameters() if p.grad is not None]

    forward, model = gradients(1.0)
    reverse, same = gradients(-1.0)
    assert any(bool(g.any()) for g in forward)
    assert all(a.equal(-b) for a, b in zip(forward, reverse, strict=True))
    assert all(a.equal(b) for a, b in zip(model, same, strict=True))


def test_a_mask_that_keeps_all_pairs_makes_this_r_drop(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = load_tiny(dropout=0.3).network.train()
    torch.manual_seed(0)
    step = make_step(network)
    companion = armed(network, step)
    with torch.no_grad():
        for query, key in zip(companion.queries, companion.keys, strict=True):
            query.weight.zero_(), key.weight.zero_()
            query.bias.fill_(1.0), key.bias.fill_(1.0)
    method = Asa(tau=0.0)
    loss = method.backward(step)
    assert companion.readings()["keep_ratio"] == 1.0
    torch.manual_seed(0)
    twin = make_step(network)
    first, second = twin.logits(), twin.logits(dropout="independent")
    from robusweep.training.divergence import symmetric_kl

    expected = twin.cross_entropy(first) + symmetric_kl(first, second).mean() / 2
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_penalty_counts_as_it_says(load_tiny: Load) -> None:
    import torch

    from robusweep.training.adversary import Adversary

    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    pairs = torch.ones(2, 4, 4) * mask[:, None, :]
    penalty = Adversary.penalty
    assert float(penalty([pairs, pairs], mask, how="sum_all")) == 2 * (4 * 3 + 4 * 2) / 2
    assert float(penalty([pairs, pairs], mask, how="sum_valid")) == 2 * (9 + 4) / 2
    assert float(penalty([pairs, pairs], mask, how="mean_valid")) == 1.0
    assert float(penalty([pairs * 0, pairs], mask, how="mean_valid")) == 0.5
    wider = torch.nn.functional.pad(mask, (0, 4))
    larger = torch.ones(2, 8, 8) * wider[:, None, :]
    assert float(penalty([larger], wider, how="sum_all")) == 2 * float(penalty([pairs], mask, how="sum_all"))
    assert float(penalty([larger], wider, how="sum_valid")) == float(penalty([pairs], mask, how="sum_valid"))


def test_a_larger_tau_hides_fewer_pairs(load_tiny: Load, separable: Texts) -> None:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    ratios = []
    for tau in (0.0, 0.5, 5.0):
        model = load_tiny(dropout=0.0)
        network = Lora(rank=2).attach(model.network, head=head_names(model.network), seed=0)
        method = Asa(tau=tau, n_epochs=12, learning_rate=1e-2, warmup_share=0.2, batch_size=8)
        ratios.append(fit(network, method, *separable, pad_id=1, seed=0, bf16=False).readings["keep_ratio"])
    assert ratios[0] < ratios[2]
    assert ratios == sorted(ratios)
    assert 0 < ratios[0] < 1


def test_what_is_trained_is_used_without_the_adversary(load_tiny: Load, separable: Texts, make_step: MakeStep) -> None:
    """The adapter holds no adversary, and the model answers bit for bit as one that never met it."""
    import torch

    from robusweep.model import head_names
    from robusweep.training.loop import fit

    model, adapter = load_tiny(dropout=0.1), Lora(rank=2)
    network = adapter.attach(model.network, head=head_names(model.network), seed=0)
    fit(network, Asa(n_epochs=1, batch_size=8), *separable, pad_id=1, seed=0, bf16=False)
    tensors = adapter.extract(network)
    assert all(".lora_" in name or name.startswith("classifier") for name in tensors)
    fresh = adapter.attach(load_tiny(dropout=0.1).network, head=head_names(load_tiny().network), seed=1)
    with torch.no_grad():
        for name, p in fresh.named_parameters():
            p.copy_(network.get_parameter(name))
    assert make_step(fresh.eval()).logits().equal(make_step(network.eval()).logits())


def test_the_first_share_of_the_run_is_clean(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.0).network
    step = make_step(network)
    companion = armed(network, step)
    step.progress = 0.2
    Asa(warmup_share=0.5).backward(step)
    assert step.costs.n_forward == 1
    assert companion.readings() == {}
    step.progress = 0.6
    Asa(warmup_share=0.5).backward(step)
    assert step.costs.n_forward == 3
    assert set(companion.readings()) == {"keep_ratio", "keep_ratio.layer_1", "keep_ratio.layer_2"}


def test_attention_that_takes_no_mask_for_each_pair_is_refused(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny("distilbert", dropout=0.0, attention="eager").network  # its mask has one row for all queries
    step = make_step(network)
    armed(network, step)
    with pytest.raises(StageError, match="takes no mask for each pair"):
        Asa().backward(step)
