from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Adapter, Full, Lora, Oft
from robusweep.training import Pgd, Radius, Standard, TrainingMethod
from robusweep.training.regularisers import Rift
from robusweep.training.updates import Last

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
Texts = tuple[list[list[int]], list[int]]
Values = dict[str, Any]
ADAPTERS: dict[str, Adapter] = {"lora": Lora(rank=2), "oft": Oft(block_size=8), "full": Full()}
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS.keys())
SMALL = Rift(projection_hidden=16, projection_size=8)
STANDARD = Standard(n_epochs=2, batch_size=8, learning_rate=1e-2, weight_decay=0.1)
PGD = Pgd(radius=Radius(value=0.5), n_steps=2, n_epochs=2, batch_size=8, learning_rate=1e-2)


def adapted(adapter: Adapter, load_tiny: Load, **fields: Any) -> Any:
    from robusweep.model import head_names

    model = load_tiny(**fields)
    return adapter.attach(model.network, head=head_names(model.network), seed=0)


def trainable(network: Module) -> Values:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def copied(values: Values) -> Values:
    return {name: value.detach().clone() for name, value in values.items()}


def begun(update: Last, network: Module, *, decay: float = 0.0) -> tuple[Any, Any]:
    import torch

    weights = trainable(network)
    rule = update.begin(weights, n_steps=10, seed=0)
    return rule, torch.optim.AdamW(weights.values(), lr=1e-2, weight_decay=decay)


def gradient_at(network: Module, values: Values, batch: Callable[[Step], Any], step: Step) -> Values:
    """What ``batch`` leaves in the gradient when these are the network's own weights."""
    import torch

    weights, was = trainable(network), copied(trainable(network))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
    network.zero_grad(set_to_none=True)
    batch(step)
    found = {name: torch.zeros_like(w) if w.grad is None else w.grad.clone() for name, w in weights.items()}
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(was[name])
    return found


@contextmanager
def perturbations(step: Step) -> Iterator[list[Any]]:
    """Every perturbation that a pass of this step carries, in order."""
    seen: list[Any] = []
    plain = step._pass

    def watched(delta: Any, space: str) -> Any:
        if delta is not None:
            seen.append(delta.detach().clone())
        return plain(delta, space)

    step._pass = watched  # type: ignore[method-assign]
    yield seen


def assert_all_close(found: Values, expected: Values) -> None:
    import torch

    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@each_adapter
def test_the_first_step_at_rate_one_is_one_of_plain_gradient_descent(
    adapter: Adapter, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    def learn(step: Step) -> None:
        step.learn(step.loss())

    plain = adapted(adapter, load_tiny, dropout=0.0)
    learn(make_step(plain))
    torch.optim.SGD(trainable(plain).values(), lr=0.1).step()

    network = adapted(adapter, load_tiny, dropout=0.0)
    rule, optimiser = begun(Last(rate=1.0, proxy_rate=0.1), network)
    step = make_step(network)
    rule.prepare(step)
    learn(step)
    rule.move(optimiser)
    assert_all_close(copied(trainable(network)), copied(trainable(plain)))


def test_three_steps_by_hand(load_tiny: Load, make_step: MakeStep) -> None:
    """theta' = theta - rate (theta - (omega - beta g(omega))), with omega the theta of the step before."""
    network, beta, rate = adapted(Lora(rank=2), load_tiny, dropout=0.0), 0.3, 0.8
    rule, optimiser = begun(Last(rate=rate, proxy_rate=beta), network)
    theta = omega = copied(trainable(network))
    for seed in range(3):
        step = make_step(network, seed=seed)
        g = gradient_at(network, omega, lambda s: s.learn(s.loss()), make_step(network, seed=seed))
        expected = {n: theta[n] - rate * (theta[n] - (omega[n] - beta * g[n])) for n in theta}
        rule.prepare(step)
        step.learn(step.loss())
        rule.move(optimiser)
        optimiser.zero_grad(set_to_none=True)
        omega, theta = theta, copied(trainable(network))
        assert_all_close(theta, expected)
    assert not all(theta[name].equal(omega[name]) for name in theta)


def test_the_search_asks_the_weights_and_the_learning_pass_the_proxy(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = adapted(Lora(rank=2), load_tiny, dropout=0.0)
    rule, _ = begun(Last(), network)
    step = make_step(network)
    before = step.logits()
    with torch.no_grad():
        for weight in trainable(network).values():
            weight += 0.1
    now = make_step(network).logits()
    rule.prepare(step)
    assert step.logits().equal(before)
    with step.searching():
        torch.testing.assert_close(step.logits(), now, rtol=1e-4, atol=1e-4)  # folded: up to rounding
    assert not before.allclose(now, atol=0.01)


def test_pgd_finds_its_perturbation_at_the_weights_and_learns_at_the_proxy(
    load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    network = adapted(Lora(rank=2), load_tiny, dropout=0.0)
    rule, _ = begun(Last(), network)
    proxy = copied(trainable(network))
    with torch.no_grad():
        for weight in trainable(network).values():
            weight += 0.1
    plain, step = make_step(network), make_step(network)
    with perturbations(plain) as expected:
        PGD.backward(plain)
    network.zero_grad(set_to_none=True)
    rule.prepare(step)
    with perturbations(step) as found:
        PGD.backward(step)
    assert len(found) == len(expected) >= 2
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    gradients = copied({name: weight.grad for name, weight in trainable(network).items()})
    assert_all_close(gradients, gradient_at(network, proxy, lambda s: s.learn(s.loss(found[-1])), make_step(network)))


def test_null_lets_the_optimiser_take_the_step_from_the_proxy(load_tiny: Load, make_step: MakeStep) -> None:
    """At rate 1 the first step is AdamW's own, bit for bit, weight decay included."""
    one, other = (adapted(Lora(rank=2), load_tiny, dropout=0.0) for _ in range(2))
    rule, optimiser = begun(Last(rate=1.0), one, decay=0.5)
    _, plain = begun(Last(), other, decay=0.5)
    step, bare = make_step(one), make_step(other)
    rule.prepare(step)
    step.learn(step.loss())
    rule.move(optimiser)
    bare.learn(bare.loss())
    plain.step()
    after, expected = copied(trainable(one)), copied(trainable(other))
    assert all(after[name].equal(expected[name]) for name in after)


def test_gradients_of_a_batch_in_parts_add_up_in_the_weights_own(load_tiny: Load, make_step: MakeStep) -> None:
    network = adapted(Lora(rank=2), load_tiny, dropout=0.0)
    rule, _ = begun(Last(), network)
    steps = [make_step(network, seed=seed) for seed in range(2)]
    expected = [
        gradient_at(network, copied(trainable(network)), lambda s: s.learn(s.loss()), make_step(network, seed=seed))
        for seed in range(2)
    ]
    for step in steps:
        rule.prepare(step)
        step.learn(step.loss())
    assert_all_close(
        {name: weight.grad for name, weight in trainable(network).items()},
        {name: expected[0][name] + expected[1][name] for name in expected[0]},
    )
    assert all(leaf.grad is None for leaf in rule._proxy.values())


def test_distillation_by_hand_and_regularisers_stay_with_the_pass_that_learns(
    load_tiny: Load, make_step: MakeStep
) -> None:
    import torch
    from torch.nn import functional as F

    network = adapted(Lora(rank=2), load_tiny, dropout=0.1).train()
    maps = SMALL.companion(hidden_size=32, n_classes=2, seed=0)
    rule, _ = begun(Last(distillation=0.95, temperature=6.0), network)
    step = make_step(network)
    step._regularisers = [(SMALL, maps)]
    delta = torch.randn(*step.mask.shape, 32, generator=torch.Generator().manual_seed(5)) * step.mask[..., None]
    clean, attacked = step.logits().detach(), step.logits(delta)
    term = SMALL.penalty(step, maps).detach()
    p, q = (attacked / 6).log_softmax(1), (clean / 6).log_softmax(1)
    apart = F.kl_div(q, p, reduction="batchmean", log_target=True)
    expected = 0.05 * F.cross_entropy(attacked, step.labels) + 0.95 * apart + term
    rule.prepare(step)
    n_before = step.costs.n_forward
    assert step.learn(step.loss(delta)) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert step.costs.n_forward == n_before + 2  # the attacked pass and the clean one; the teacher answered above
    assert step.answer is not None
    assert step.answer.equal(attacked)
    step._regularisers = []
    alone = step.loss()  # a method that learns from clean texts: p is q
    assert step.learn(alone) == pytest.approx(0.05 * float(alone.detach()), rel=1e-5)


@each_adapter
@pytest.mark.parametrize(
    "update", [Last(), Last(proxy_rate=0.5), Last(distillation=0.5)], ids=["adamw", "gradient", "distilled"]
)
def test_a_separable_task_is_learnt(update: Last, adapter: Adapter, load_tiny: Load, separable: Texts) -> None:
    from robusweep.training.loop import fit

    rate = 2e-3 if isinstance(adapter, Full) else 1e-2
    method = PGD.model_copy(
        update={"update": update, "n_epochs": 13, "radius": Radius(value=0.05), "learning_rate": rate}
    )
    losses: list[float] = []
    fit(adapted(adapter, load_tiny, dropout=0.0), method, *separable, pad_id=1, seed=0, bf16=False,
        on_epoch=lambda _, loss: losses.append(loss))  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("method", [STANDARD, PGD], ids=["standard", "pgd"])
def test_no_update_changes_nothing_and_last_changes_what_is_learnt(
    method: TrainingMethod, load_tiny: Load, separable: Texts
) -> None:
    plain = trained(method, load_tiny, separable)
    null = trained(method.model_copy(update={"update": None}), load_tiny, separable)
    last = trained(method.model_copy(update={"update": Last()}), load_tiny, separable)
    assert all(plain[name].equal(null[name]) for name in plain)
    assert not any(plain[name].equal(last[name]) for name in plain)


def test_projections_of_a_regulariser_are_moved_by_the_optimiser_whatever_the_proxy_does(
    load_tiny: Load, separable: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    made: list[Any] = []
    companion = Rift.companion

    def kept(self: Rift, **named: Any) -> Any:
        made.append(companion(self, **named))
        made.append(copy.deepcopy(made[0]))
        return made[0]

    monkeypatch.setattr(Rift, "companion", kept)
    method = STANDARD.model_copy(update={"update": Last(proxy_rate=0.1), "regularisers": [SMALL]})
    trained(method, load_tiny, separable)
    after, before = (module.state_dict() for module in made)
    assert not any(after[name].equal(before[name]) for name in before)


@pytest.mark.parametrize("update", [Last(), Last(proxy_rate=0.1, distillation=0.5)], ids=["adamw", "gradient"])
@pytest.mark.parametrize("share", [0.05, 0.55])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    update: Last, share: float, load_tiny: Load, separable: Texts, tmp_path: Path
) -> None:
    from robusweep.training.checkpoint import Checkpoint

    class KilledError(Exception):
        pass

    def die(progress: float) -> None:
        if progress > share:
            raise KilledError

    method = PGD.model_copy(update={"update": update, "regularisers": [SMALL]})
    whole = trained(method, load_tiny, separable)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        trained(method, load_tiny, separable, on_step=die, checkpoint=Checkpoint(path, "k", seconds=0))
    rest = trained(method, load_tiny, separable, checkpoint=Checkpoint(path, "k", seconds=0))
    assert all(whole[name].equal(rest[name]) for name in whole)


def trained(method: TrainingMethod, load_tiny: Load, texts: Texts, **options: Any) -> Values:
    from robusweep.training.loop import fit

    network = adapted(Lora(rank=2), load_tiny, dropout=0.1)
    fit(network, method, *texts, pad_id=1, seed=0, bf16=False, **options)
    return Lora(rank=2).extract(network)
