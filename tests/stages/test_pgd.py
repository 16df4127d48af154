from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Full, Lora
from robusweep.training import Pgd, Radius, Standard

if TYPE_CHECKING:
    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
Texts = tuple[list[list[int]], list[int]]


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2, dropout=0.1)], ids=["full", "lora"])
def test_radius_zero_is_standard_training_bit_for_bit_with_dropout_on(
    adapter: Full | Lora, load_tiny: Load, separable: Texts
) -> None:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    def trained(method: Standard | Pgd, seed: int = 3) -> dict[str, Any]:
        model = load_tiny(dropout=0.1)
        network = adapter.attach(model.network, head=head_names(model.network), seed=0)
        fitted = fit(network, method, *separable, pad_id=1, seed=seed, bf16=False)
        assert fitted.n_steps == 3
        return adapter.extract(network)

    fields: dict[str, Any] = {"n_epochs": 1, "batch_size": 16}
    plain = trained(Standard(**fields))
    zero = trained(Pgd(radius=Radius(value=0.0), init_size=0.5, **fields))
    small = trained(Pgd(radius=Radius(value=0.1), **fields))
    other_masks = trained(Standard(**fields), seed=4)
    assert all(plain[name].equal(zero[name]) for name in plain)
    assert not all(plain[name].equal(small[name]) for name in plain)
    assert not all(plain[name].equal(other_masks[name]) for name in plain)


@pytest.mark.parametrize("space", ["word", "post_ln"])
def test_the_adversarial_loss_exceeds_the_clean_and_the_random_one(
    space: str, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    from robusweep.training.embedding import ascend

    network = load_tiny().network
    radius = Radius.model_validate({"value": 1.0, "space": space})
    rises, over_random = [], []
    for seed in range(20):
        step = make_step(network, [12, 8, 5, 3], seed=seed)
        delta = ascend(step, radius, n_steps=3, step_size=None, init_size=0.0)
        noise = torch.randn(delta.shape, generator=step.draws) * step.mask[..., None]
        noise *= delta.flatten(1).norm(dim=1)[:, None, None] / noise.flatten(1).norm(dim=1)[:, None, None]
        with torch.no_grad():
            adversarial = step.loss(delta, space=radius.space)
            rises.append(bool(adversarial >= step.loss()))
            over_random.append(float(adversarial - step.loss(noise, space=radius.space)))
    assert sum(rises) >= 0.95 * len(rises)
    assert sum(over_random) > 0


def test_ascending_leaves_the_gradients_of_parameters_alone(load_tiny: Load, make_step: MakeStep) -> None:
    from robusweep.training.embedding import ascend

    network = load_tiny().network
    step = make_step(network)
    ascend(step, Radius(value=0.3), n_steps=2, step_size=None, init_size=0.1)
    assert all(p.grad is None for p in network.parameters())
    step.loss().backward()
    before = {name: p.grad.clone() for name, p in network.named_parameters()}
    ascend(step, Radius(value=0.3), n_steps=2, step_size=None, init_size=0.1)
    assert all(p.grad.equal(before[name]) for name, p in network.named_parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_the_gradient_is_that_of_the_loss_at_the_last_perturbation(load_tiny: Load, make_step: MakeStep) -> None:
    from robusweep.training.embedding import ascend

    network = load_tiny().network
    method = Pgd(radius=Radius(value=0.3), n_steps=2)
    loss = method.backward(make_step(network))
    learnt = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    step = make_step(network)
    by_hand = step.loss(ascend(step, method.radius, n_steps=2, step_size=None, init_size=0.0))
    by_hand.backward()
    assert float(by_hand.detach()) == loss
    assert all(p.grad.equal(learnt[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize(("value", "n_passes"), [(0.0, 1), (0.3, 4)])
def test_a_batch_costs_one_pass_for_each_ascent_step_and_one_to_learn(
    value: float, n_passes: int, load_tiny: Load, make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = make_step(load_tiny().network)
    passes: list[object] = []
    plain = step.loss
    monkeypatch.setattr(step, "loss", lambda *args, **named: passes.append(args) or plain(*args, **named))
    Pgd(radius=Radius(value=value), n_steps=3, init_size=0.1).backward(step)
    assert len(passes) == n_passes


def test_a_larger_ball_gives_a_larger_loss(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny().network
    losses = [Pgd(radius=Radius(value=v)).backward(make_step(network)) for v in (0.0, 0.1, 1.0)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_the_radius_grows_to_its_value_over_the_warm_up_and_stays_there() -> None:
    method = Pgd(radius=Radius(value=2.0), radius_warmup=0.5)
    values = [method.radius_at(progress).value for progress in (0.125, 0.25, 0.5, 0.75, 1.0)]
    assert values == [0.5, 1.0, 2.0, 2.0, 2.0]
    assert Pgd(radius=Radius(value=2.0)).radius_at(0.01).value == 2.0


def test_an_unbounded_radius_can_not_grow() -> None:
    with pytest.raises(ValueError, match="radius_warmup"):
        Pgd(radius=Radius(value=None), step_size=0.1, radius_warmup=0.5)


def test_early_steps_of_a_warm_up_stay_inside_the_smaller_ball(load_tiny: Load, make_step: MakeStep) -> None:
    model = load_tiny()
    seen: list[float] = []
    method = Pgd(radius=Radius(value=4.0), n_steps=2, radius_warmup=1.0)
    for progress in (0.25, 0.5, 1.0):
        step = make_step(model.network)
        step.progress = progress
        from robusweep.training.embedding import ascend

        radius = method.radius_at(progress)
        delta = ascend(step, radius, n_steps=2, step_size=None, init_size=0.0)
        seen.append(float(delta.flatten(1).norm(dim=1).max()))
        assert seen[-1] <= 4.0 * progress * (1 + 1e-5)
    assert seen == sorted(seen)
