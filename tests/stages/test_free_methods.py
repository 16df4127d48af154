"""FreeLB, FreeLB++ and TAVAT: every ascent step teaches the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.training import Radius
from robusweep.training.freelb import FreeLb
from robusweep.training.freelb_pp import FreeLbPp
from robusweep.training.tavat import Tavat

if TYPE_CHECKING:
    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
RADIUS = Radius(value=0.3)


def gradients(network: Any) -> dict[str, Any]:
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


@pytest.mark.parametrize(
    "method", [FreeLb(radius=RADIUS, init_size=0.2), FreeLbPp(n_steps=3)], ids=["freelb", "freelb_pp"]
)
def test_the_gradient_is_the_mean_of_those_at_each_perturbation(
    method: Any, load_tiny: Load, make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    network = load_tiny(dropout=0.0).network
    step = make_step(network)
    deltas: list[Any] = []
    plain = step._pass

    def watched(delta: Any, space: str) -> Any:
        deltas.append(delta.detach().clone())
        return plain(delta, space)

    monkeypatch.setattr(step, "_pass", watched)
    loss = method.backward(step)
    learnt = gradients(network)
    monkeypatch.undo()
    assert len(deltas) == 3
    assert len({float(delta.norm()) for delta in deltas}) == 3
    total = 0.0
    for delta in deltas:
        one = step.loss(delta)
        (one / 3).backward()
        total += float(one.detach()) / 3
    assert loss == pytest.approx(total, rel=1e-6)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(learnt[name], gradient, rtol=1e-5, atol=1e-6)


def test_free_passes_cost_one_forward_and_one_backward_each(load_tiny: Load, make_step: MakeStep) -> None:
    step = make_step(load_tiny().network)
    FreeLb(radius=RADIUS, n_steps=4).backward(step)
    assert (step.costs.n_forward, step.costs.n_backward) == (4, 4)
    assert step.costs.n_tokens == 4 * step.ids.numel()


def test_one_pass_from_the_clean_embeddings_is_standard_training(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.0).network
    make_step(network).loss().backward()
    plain = gradients(network)
    FreeLb(radius=RADIUS, n_steps=1).backward(make_step(network))
    once = gradients(network)
    assert all(plain[name].equal(once[name]) for name in plain)


def test_freelb_pp_leaves_the_ball_that_freelb_keeps(load_tiny: Load, make_step: MakeStep) -> None:
    def longest(method: Any) -> float:
        step, lengths = make_step(load_tiny(dropout=0.0).network), [0.0]
        plain = step._pass
        step._pass = lambda delta, space: (  # type: ignore[method-assign]
            lengths.append(float(delta.detach().flatten(1).norm(dim=1).max())) or plain(delta, space)  # type: ignore[func-returns-value]
        )
        method.backward(step)
        return max(lengths)

    fields: dict[str, Any] = {"n_steps": 6, "step_size": 0.2}
    assert longest(FreeLb(radius=RADIUS, **fields)) <= 0.3 * (1 + 1e-5)
    assert longest(FreeLbPp(**fields)) > 0.5


def test_the_vocabulary_remembers_the_words_of_the_batch_and_no_others(load_tiny: Load, make_step: MakeStep) -> None:
    from robusweep.training.base import Setting

    method = Tavat(radius=RADIUS, n_steps=3)
    network = load_tiny(dropout=0.0).network
    step = make_step(network, [9, 4])
    step.companion = method.companion(Setting(network, [], [], seed=1))
    before = step.companion.table.clone()
    assert float(before.abs().max()) <= 0.1 / 32**0.5
    method.backward(step)
    changed = (step.companion.table != before).any(dim=1).nonzero().flatten().tolist()
    assert set(changed) == set(step.ids[step.mask].tolist())
    assert 1 not in changed  # padding


def test_a_word_used_twice_remembers_the_mean(load_tiny: Load) -> None:
    import torch

    from robusweep.training.vocabulary import Vocabulary

    table = Vocabulary(load_tiny().network, size=0.0, seed=0)
    values = torch.tensor([[1.0], [3.0], [5.0]]).expand(3, 32)
    table.remember(torch.tensor([7, 9, 7]), values)
    assert table.table[7].tolist() == [3.0] * 32
    assert table.table[9].tolist() == [3.0] * 32
    table.remember(torch.tensor([9]), values[:1])
    assert table.table[9].tolist() == [1.0] * 32


@pytest.mark.parametrize("radius", [{"value": 0.3, "scope": "token"}, {"value": 0.3, "space": "post_ln"}])
def test_a_vocabulary_of_another_space_is_refused(radius: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="word embeddings"):
        Tavat.model_validate({"radius": radius})
