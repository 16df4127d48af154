from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Adapter, Full, Lora
from robusweep.errors import StageError
from robusweep.training import Pgd, Radius, Standard, TrainingMethod

if TYPE_CHECKING:
    from robusweep.model import TextModel
    from robusweep.training.loop import Fitted
    from robusweep.training.step import Step

Load = Callable[..., Any]
Texts = tuple[list[list[int]], list[int]]

FEW: dict[str, Any] = {"n_epochs": 12, "batch_size": 8, "learning_rate": 1e-2}
METHODS: dict[str, TrainingMethod] = {
    "standard": Standard(**FEW),
    "pgd": Pgd(radius=Radius(value=0.1), n_steps=2, init_size=0.1, **FEW),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def train(
    model: TextModel, method: TrainingMethod, texts: Texts, *, adapter: Adapter | None = None, **options: Any
) -> tuple[dict[str, Any], Fitted]:
    """(trained tensors, how it went) of the model with an adapter on it."""
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    adapter = adapter or Lora(rank=4)
    network = adapter.attach(model.network, head=head_names(model.network), seed=0)
    fitted = fit(network, method, *texts, pad_id=1, **({"seed": 0, "bf16": False} | options))
    return adapter.extract(network), fitted


class Given(Standard):
    """Reports this loss and leaves this gradient in every coordinate."""

    loss: float = 1.0
    gradient: float = 1.0

    model_config = {"allow_inf_nan": True}

    def backward(self, step: Step) -> float:
        import torch

        for parameter in step.network.parameters():
            assert parameter.grad is None
            parameter.grad = torch.full_like(parameter, self.gradient)
        return self.loss


@each_method
def test_the_same_seed_trains_the_same_weights_and_another_seed_others(
    method: TrainingMethod, load_tiny: Load, separable: Texts
) -> None:
    short = method.model_copy(update={"n_epochs": 2})
    once, _ = train(load_tiny(dropout=0.1), short, separable)
    again, _ = train(load_tiny(dropout=0.1), short, separable)
    other, _ = train(load_tiny(dropout=0.1), short, separable, seed=1)
    assert all(once[name].equal(again[name]) for name in once)
    assert not all(once[name].equal(other[name]) for name in once)


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=4)], ids=["full", "lora"])
@each_method
def test_a_separable_task_is_learnt(
    method: TrainingMethod, adapter: Adapter, load_tiny: Load, separable: Texts
) -> None:
    from robusweep.model import victim

    model, losses = load_tiny(dropout=0.0), []
    gentle = method.model_copy(update={"learning_rate": 2e-3}) if isinstance(adapter, Full) else method
    tensors, fitted = train(
        model, gentle, separable, adapter=adapter, on_epoch=lambda epoch, loss: losses.append((epoch, loss))
    )
    assert [epoch for epoch, _ in losses] == list(range(12))
    assert losses[-1][1] == fitted.final_loss < 0.2 < losses[0][1]
    assert fitted.n_steps == 12 * 5
    assert fitted.seconds > 0
    assert 0.5 < fitted.token_efficiency <= 1
    fresh = load_tiny()
    answers = victim(fresh, adapter.fold(dict(fresh.network.named_parameters()), tensors), precision="fp32")
    texts = fresh.tokenizer.batch_decode(separable[0], skip_special_tokens=True)
    assert answers(texts).argmax(axis=1).tolist() == separable[1]


@pytest.mark.parametrize(
    "method",
    [Given(loss=math.nan), Given(loss=math.inf), Given(gradient=math.nan), Given(gradient=math.inf)],
    ids=["loss nan", "loss inf", "gradient nan", "gradient inf"],
)
def test_a_loss_or_gradient_that_is_not_finite_fails_the_stage(
    method: TrainingMethod, load_tiny: Load, separable: Texts
) -> None:
    with pytest.raises(StageError, match=r"train standard: loss .* in epoch 1"):
        train(load_tiny(), method, separable)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", [Standard(n_epochs=1), Given(loss=math.nan)], ids=["done", "failed"])
def test_mode_and_global_random_state_are_as_before(
    method: TrainingMethod, training: bool, load_tiny: Load, separable: Texts
) -> None:
    import torch

    from robusweep.training.loop import fit

    network = load_tiny().network.train(training)
    state = torch.get_rng_state()
    try:
        fit(network, method, *separable, pad_id=1, seed=0, bf16=True)
    except StageError:
        assert isinstance(method, Given)
    assert torch.get_rng_state().equal(state)
    assert all(module.training == training for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_dropout_does_not_depend_on_the_global_random_state(load_tiny: Load, separable: Texts) -> None:
    import torch

    def trained(state: int) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            return train(load_tiny(dropout=0.1), Standard(n_epochs=1), separable)[0]

    one, other = trained(1), trained(2)
    assert all(one[name].equal(other[name]) for name in one)


def test_a_frozen_parameter_does_not_move(load_tiny: Load, separable: Texts) -> None:
    model, fresh = load_tiny(), load_tiny()
    train(model, Standard(n_epochs=1, weight_decay=0.5), separable)
    frozen = [p for p in model.network.parameters() if not p.requires_grad]
    kept = {p.data_ptr(): p for p in frozen}
    assert len(kept) > 10
    before = dict(fresh.network.named_parameters())
    for name, parameter in model.network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.equal(before[name.replace(".base_layer.", ".")])


def test_weights_move_by_the_sum_of_the_scheduled_rates(load_tiny: Load, separable: Texts) -> None:
    """Under a constant gradient every step of Adam is as long as its learning rate, in every coordinate."""
    import torch

    from robusweep.training.loop import rate_at

    method = Given(n_epochs=3, batch_size=16, learning_rate=1e-3, warmup=0.5)
    before = {name: value.detach().clone() for name, value in load_tiny().network.named_parameters()}
    tensors, fitted = train(load_tiny(), method, separable, adapter=Full())
    assert (fitted.n_steps, fitted.final_loss) == (9, 1.0)
    distance = 1e-3 * sum(rate_at((step + 0.5) / 9, 0.5) for step in range(9))
    for name, value in tensors.items():
        torch.testing.assert_close(before[name] - value, torch.full_like(value, distance), rtol=0.01, atol=1e-6)


def test_gradients_are_clipped_to_their_greatest_norm(load_tiny: Load, separable: Texts) -> None:
    """A norm far below Adam's epsilon leaves next to nothing of a step."""
    before = {name: value.detach().clone() for name, value in load_tiny().network.named_parameters()}
    method = Given(n_epochs=1, learning_rate=1e-2, max_grad_norm=1e-12)
    tensors, _ = train(load_tiny(), method, separable, adapter=Full())
    assert max(float((value - before[name]).abs().max()) for name, value in tensors.items()) < 1e-5


@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("n_steps", [1, 2, 7, 100])
def test_the_rate_rises_to_its_peak_once_and_falls_to_nearly_zero(n_steps: int, warmup: float) -> None:
    from robusweep.training.loop import rate_at

    rates = [rate_at((step + 0.5) / n_steps, warmup) for step in range(n_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert abs((peak + 0.5) / n_steps - warmup) <= 1 / n_steps
    assert rates[-1] <= 0.5 / n_steps / (1 - warmup) + 1e-9
    assert (rate_at(0.0, warmup), rate_at(1.0, warmup)) == (0.0 if warmup else 1.0, 0.0)


@each_method
def test_bfloat16_trains_close_to_float32_and_attends_in_float32(
    method: TrainingMethod, load_tiny: Load, separable: Texts
) -> None:
    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    seen: list[Any] = []

    class Spy(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.scaled_dot_product_attention:
                seen.append({value.dtype for value in args if isinstance(value, torch.Tensor)})
            return func(*args, **(kwargs or {}))

    losses: list[float] = []
    with Spy():
        narrow, _ = train(
            load_tiny(dropout=0.0), method, separable, bf16=True, on_epoch=lambda _, loss: losses.append(loss)
        )
    assert seen
    assert all(dtypes == {torch.float32} for dtypes in seen)
    assert losses[-1] < 0.5 * losses[0]
    assert all(value.dtype == torch.float32 for value in narrow.values())
    one = method.model_copy(update={"n_epochs": 1, "learning_rate": 1e-4})
    wide, exact = train(load_tiny(dropout=0.0), one, separable)
    close, rounded = train(load_tiny(dropout=0.0), one, separable, bf16=True)
    assert rounded.final_loss == pytest.approx(exact.final_loss, rel=0.03)
    assert not all(wide[name].equal(close[name]) for name in wide)


def test_attention_hands_back_the_dtype_that_came_in(load_tiny: Load) -> None:
    import torch
    from torch.nn import functional as F

    from robusweep.training.precision import fp32_attention

    with fp32_attention(load_tiny().network, when=True):
        for dtype in (torch.float32, torch.bfloat16):
            q = torch.ones(1, 1, 2, 8, dtype=dtype)
            assert F.scaled_dot_product_attention(q, q, q).dtype == dtype
            assert F.scaled_dot_product_attention(query=q, key=q, value=q).dtype == dtype
