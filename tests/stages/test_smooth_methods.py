"""Methods that compare two predictions: VAT, SMART, R3F, R-Drop; and the cheap baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.training import Radius, Standard
from robusweep.training.high_temperature import HighTemperature
from robusweep.training.label_smoothing import LabelSmoothing
from robusweep.training.r3f import R3f
from robusweep.training.rdrop import RDrop
from robusweep.training.smart import Smart
from robusweep.training.vat import Vat

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]


def carried(step: Step, method: Any) -> list[Tensor]:
    """The perturbations that the method's passes carry."""
    seen: list[Tensor] = []
    plain = step._pass

    def watched(delta: Any, space: str) -> Any:
        if delta is not None:
            seen.append(delta.detach().clone())
        return plain(delta, space)

    step._pass = watched  # type: ignore[method-assign]
    method.backward(step)
    return seen


def gradient_of(network: Any) -> list[Any]:
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    return found


def test_the_divergence_is_pytorchs_and_zero_between_equals() -> None:
    import torch
    from torch.nn.functional import kl_div

    from robusweep.training.divergence import kl, symmetric_kl

    p, q = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 3)
    expected = kl_div(q.log_softmax(1), p.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(kl(p, q), expected)
    torch.testing.assert_close(symmetric_kl(p, q), expected + kl(q, p))
    assert symmetric_kl(p, p).tolist() == [0.0] * 5


def test_smart_in_the_papers_ball_stays_in_it(load_tiny: Load, make_step: MakeStep) -> None:
    step = make_step(load_tiny(dropout=0.0).network)
    largest = [float(delta.abs().max()) for delta in carried(step, Smart(n_steps=3))]
    assert len(largest) == 4
    assert max(largest) <= 1e-5 * (1 + 1e-5)


def test_smart_as_in_mt_dnn_is_a_unit_in_each_token(load_tiny: Load, make_step: MakeStep) -> None:
    step = make_step(load_tiny(dropout=0.0).network)
    delta = carried(step, Smart(normalise="mtdnn_unit"))[-1]
    per_token = delta.abs().amax(dim=2)[step.mask]
    assert 0.8 < float(per_token.min()) <= float(per_token.max()) <= 1.0
    assert not delta[~step.mask].any()


def test_mt_dnns_variant_takes_no_radius() -> None:
    with pytest.raises(ValueError, match="mtdnn_unit has no radius"):
        Smart.model_validate({"normalise": "mtdnn_unit", "radius": 0.1})


def test_the_proximal_term_is_zero_at_first_and_pulls_later(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    from robusweep.training.base import Setting
    from robusweep.training.running_mean import distance_to_mean

    network = load_tiny(dropout=0.0).network
    method = Smart(proximal_weight=1.0, proximal_momentum=0.5)
    step = make_step(network)
    step.companion = method.companion(Setting(network, [], [], seed=0))
    assert float(distance_to_mean(step, step.logits()).detach()) == 0.0
    before = network.classifier.weight.detach().clone()
    with torch.no_grad():
        network.classifier.weight[0, :9].add_(1.0)
    apart = distance_to_mean(step, step.logits())
    assert float(apart.detach()) > 1e-3
    apart.backward()
    assert float(network.classifier.weight.grad.abs().sum()) > 0
    mean = step.companion.weights()["classifier.weight"]
    torch.testing.assert_close(mean[0, :9], before[0, :9] + 0.5)  # half of the way, after the second call
    assert mean[1].equal(before[1])
    assert step.proxy is None


@pytest.mark.parametrize(
    ("radius", "noise"),
    [
        (Radius(value=0.3, norm="linf", scope="coordinate"), "uniform"),
        (Radius(value=0.3), "uniform"),
        (Radius(value=0.3, scope="token"), "uniform"),
        (Radius(value=0.3, norm="linf", scope="coordinate"), "normal"),
    ],
)
def test_r3fs_noise_has_the_radius_as_its_size(
    radius: Radius, noise: Any, load_tiny: Load, make_step: MakeStep
) -> None:
    step = make_step(load_tiny(dropout=0.0).network, [40, 30, 20])
    (delta,) = carried(step, R3f(radius=radius, noise=noise))
    assert not delta[~step.mask].any()
    if noise == "normal":
        assert float(delta[step.mask].std()) == pytest.approx(0.3, rel=0.05)
    elif radius.scope == "coordinate":
        assert float(delta.abs().max()) <= 0.3
        assert float(delta[step.mask].std()) == pytest.approx(0.3 / 3**0.5, rel=0.05)
    else:
        length = delta.flatten(1).norm(dim=1) if radius.scope == "sentence" else delta.norm(dim=2)[step.mask]
        assert float(length.max()) <= 0.3 * (1 + 1e-5)
        assert float(length.mean()) > 0.26


def test_without_noise_or_dropout_nothing_is_added_to_the_loss(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.0).network
    plain = Standard().backward(make_step(network))
    tiny = Radius(value=1e-30, norm="linf", scope="coordinate")
    for method in [R3f(radius=tiny), RDrop(), Smart(radius=tiny), Vat(radius=Radius(value=1e-30))]:
        assert method.backward(make_step(network)) == pytest.approx(plain, abs=2e-6)


def test_independent_dropout_adds_r_drops_term(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = load_tiny(dropout=0.3).network.train()
    tiny = Radius(value=1e-30, norm="linf", scope="coordinate")
    losses = []
    for dropout in ("shared", "independent"):
        torch.manual_seed(0)
        losses.append(R3f(radius=tiny, dropout=dropout).backward(make_step(network)))
    assert losses[1] > losses[0] + 1e-3


def test_vat_moves_by_its_radius_from_a_probe_of_its_own(load_tiny: Load, make_step: MakeStep) -> None:
    step = make_step(load_tiny(dropout=0.0).network)
    deltas = carried(step, Vat(radius=Radius(value=0.5), n_steps=2, probe_size=0.01))
    lengths = [delta.flatten(1).norm(dim=1) for delta in deltas]
    assert [round(float(length.max()), 5) for length in lengths] == [0.01, 0.01, 0.5]
    assert step.costs.n_forward == 4
    assert step.costs.n_backward == 3


def test_vat_does_not_look_at_labels(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.0).network
    one, other = make_step(network), make_step(network)
    other.labels = 1 - other.labels
    method = Vat(radius=Radius(value=0.5))
    assert all(a.equal(b) for a, b in zip(carried(one, method), carried(other, method), strict=True))


def test_an_unbounded_vat_has_no_length() -> None:
    with pytest.raises(ValueError, match="no length"):
        Vat.model_validate({"radius": None})


def test_no_smoothing_and_temperature_one_are_standard_training(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.0).network
    plain = (Standard().backward(make_step(network)), gradient_of(network))
    for method in (LabelSmoothing(smoothing=0.0), HighTemperature(temperature=1.0)):
        loss, gradient = method.backward(make_step(network)), gradient_of(network)
        assert loss == plain[0]
        assert all(a.equal(b) for a, b in zip(gradient, plain[1], strict=True))


def test_smoothed_targets_and_hot_logits_are_as_defined(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.0).network
    step = make_step(network)
    log_p = step.logits().detach().log_softmax(1)
    right = log_p.gather(1, step.labels[:, None]).squeeze(1)
    expected = -(0.8 * right + 0.2 * log_p.mean(dim=1)).mean()
    assert LabelSmoothing(smoothing=0.2).backward(step) == pytest.approx(float(expected), rel=1e-5)
    cold = (step.logits().detach() / 50).log_softmax(1).gather(1, step.labels[:, None]).mean()
    assert HighTemperature(temperature=50.0).backward(step) == pytest.approx(-float(cold), rel=1e-5)


def test_perturbations_that_bfloat16_would_round_away_are_trained_in_float32() -> None:
    assert R3f().needs_float32
    assert Smart().needs_float32
    assert not R3f(radius=Radius(value=0.02, norm="linf", scope="coordinate")).needs_float32
