"""Robust tickets: what hard concrete gates promise, what their search leaves alone, and what is drawn from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from pydantic import ValidationError

install_import_hook(["robusweep.tickets.gates"], "beartype.beartype")

from robusweep.errors import StageError  # noqa: E402
from robusweep.tickets import CoefficientRecord, EarlyBird, Magnitude, RobustTicket  # noqa: E402
from robusweep.tickets import search as searching  # noqa: E402
from robusweep.tickets.gates import BETA, GAMMA, ZETA, HardConcrete, chance_open, masked  # noqa: E402
from robusweep.tickets.masks import Masks  # noqa: E402
from robusweep.tickets.parts import shape_of  # noqa: E402

Load = Callable[..., Any]
Separable = tuple[list[list[int]], list[int]]
SHAPE = (2, 4, 64)
SMALL: dict[str, Any] = {"batch_size": 8, "n_steps": 2, "min_neurons": 1, "n_epochs": 2}
FAST: dict[str, Any] = {**SMALL, "tuning_epochs": 1, "tuning_rate": 1e-3}  # 5 steps of tuning, 10 of search


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gates(opening: float = 0.9, seed: int = 3) -> HardConcrete:
    return HardConcrete(SHAPE, opening=opening, draws=draws(seed))


# ------------------------------------------------------------------------------------------------ gates
def test_a_gate_without_noise_is_the_stretched_sigmoid_cut_to_zero_and_one() -> None:
    gate, locations = gates().eval(), torch.linspace(-50, 50, 501)
    found = gate.gates(locations)
    assert found.min() == 0.0
    assert found.max() == 1.0
    assert (found.diff() >= 0).all()
    s = 1 / (1 + np.exp(-locations.double().numpy()))
    np.testing.assert_allclose(found.numpy(), np.clip(1.2 * s - 0.1, 0, 1), atol=1e-6)
    torch.testing.assert_close(gate.gates(gate.heads.detach()), torch.full((2, 4), 0.9))


def test_a_gate_with_noise_is_in_the_unit_interval_and_often_at_its_ends() -> None:
    found = gates().gates(torch.zeros(100_000))
    assert found.min() == 0.0
    assert found.max() == 1.0
    assert 0.1 < (found == 0).float().mean() < 0.3
    assert torch.equal(found, gates().gates(torch.zeros(100_000)))
    assert not torch.equal(found, gates(seed=4).gates(torch.zeros(100_000)))


@pytest.mark.parametrize("location", [-3.0, -1.0, 0.0, math.log(5), 4.0])
def test_the_expected_l0_norm_is_the_share_of_draws_above_zero(location: float) -> None:
    n = 400_000
    share = float((gates().gates(torch.full((n,), location)) > 0).double().mean())
    chance = 1 / (1 + math.exp(-(location - BETA * math.log(-GAMMA / ZETA))))
    assert float(chance_open(torch.tensor(location))) == pytest.approx(chance, abs=1e-6)
    assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / n))


@pytest.mark.parametrize(("progress", "grown"), [(0.05, 0.0), (0.25, 0.5), (0.4, 1.0), (1.0, 1.0)])
def test_the_gradient_of_the_penalty_is_that_of_the_closed_form(progress: float, grown: float) -> None:
    spec, gate = RobustTicket(l0=0.8), gates()
    with torch.no_grad():
        gate.heads.copy_(torch.linspace(-4, 4, 8).view(2, 4))
    penalty = spec.penalty(gate.heads, gate.neurons, progress)
    (penalty + 0 * gate.heads.sum()).backward()
    chance = torch.sigmoid(gate.heads.detach() - BETA * math.log(-GAMMA / ZETA))
    assert gate.heads.grad is not None
    torch.testing.assert_close(gate.heads.grad, grown * 0.8 / 2 * chance * (1 - chance) / 8)
    neurons = chance_open(gate.neurons.detach()).mean()
    assert penalty.item() == pytest.approx(float(grown * 0.8 * (chance.mean() + neurons) / 2), rel=1e-6)


def test_the_penalty_sets_in_at_once_without_a_ramp() -> None:
    spec = RobustTicket(l0_start=0.5, l0_ramp=0.0)
    before, after = (spec.penalty(gates().heads, gates().neurons, at).item() for at in (0.49, 0.5))
    assert before == 0.0
    assert after == pytest.approx(0.5 * float(chance_open(torch.tensor(math.log(5)))))


@pytest.mark.parametrize("what", ["heads", "neurons"])
def test_the_gradient_of_a_location_is_the_finite_difference_of_the_same_draw(
    family: str, load_tiny: Load, what: str
) -> None:
    network = load_tiny(family).network.double()
    ids = torch.randint(5, 105, (3, 9), generator=draws(0))
    gate = gates(0.5)
    locations = getattr(gate, what)

    def value() -> torch.Tensor:
        gate._draws.manual_seed(5)
        loss: torch.Tensor = torch.nn.functional.cross_entropy(network(input_ids=ids).logits, torch.tensor([0, 1, 1]))
        return loss

    with gate.on(network):
        value().backward()
        slopes = {}
        for place in [(0, 0), (0, 3), (1, 1), (1, 2)]:
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    before = locations[place].clone()
                    locations[place] = before + sign * 2.0**-10
                    ends.append(value())
                    locations[place] = before
            slopes[place] = float((ends[0] - ends[1]) / 2.0**-9)
    assert max(map(abs, slopes.values())) > 1e-4
    for place, slope in slopes.items():
        assert float(locations.grad[place]) == pytest.approx(slope, rel=5e-3, abs=1e-6)


def test_closed_gates_are_masked_units(load_tiny: Load) -> None:
    network = load_tiny("bert").network
    gate = gates().eval().requires_grad_(False)
    heads, neurons = np.ones((2, 4), dtype=bool), np.ones((2, 64), dtype=bool)
    heads[1, 2] = neurons[0, 5:30] = False
    gate.heads.copy_(torch.from_numpy(np.where(heads, 50.0, -50.0)))
    gate.neurons.copy_(torch.from_numpy(np.where(neurons, 50.0, -50.0)))
    ids = torch.randint(5, 105, (3, 9), generator=draws(0))
    with gate.on(network):
        gated = network(input_ids=ids).logits
    with masked(network, Masks(heads, neurons)):
        assert torch.equal(network(input_ids=ids).logits, gated)
    assert not torch.allclose(network(input_ids=ids).logits, gated)


def test_each_pass_draws_gates_anew(load_tiny: Load) -> None:
    network = load_tiny("bert", dropout=0.0).network
    ids = torch.randint(5, 105, (3, 9), generator=draws(0))
    with gates().on(network):
        assert not torch.equal(network(input_ids=ids).logits, network(input_ids=ids).logits)


# ------------------------------------------------------------------------------------------------ the search
@pytest.fixture
def found(load_tiny: Load, separable: Separable) -> Callable[..., CoefficientRecord]:
    """A search over forty texts: ``found("bert", seed=1, l0=2.0)``."""

    def run(family: str = "bert", *, seed: int = 0, bf16: bool = False, **fields: Any) -> CoefficientRecord:
        spec = RobustTicket(**FAST | fields)
        return spec.search(load_tiny(family).network, *separable, pad_id=1, seed=seed, bf16=bf16)

    return run


def test_locations_move_on_every_family_and_all_steps_are_counted(
    family: str, found: Callable[..., CoefficientRecord]
) -> None:
    record = found(family)
    assert record.neurons.shape == (10, *SHAPE[::2])
    assert record.heads.dtype == record.neurons.dtype == np.float32
    assert record.costs.n_steps == 10
    assert (record.costs.n_forward, record.costs.n_backward) == (5 + 2 * 10, 5 + 2 * 10)
    assert (np.diff(record.heads, axis=0) != 0).all()
    assert np.abs(record.neurons[-1] - math.log(5)).max() > 0.1


def test_a_search_is_reproducible_by_its_seed(found: Callable[..., CoefficientRecord]) -> None:
    one, same, other = found(), found(), found(seed=1)
    assert np.array_equal(one.neurons, same.neurons)
    assert np.array_equal(one.heads, same.heads)
    assert not np.array_equal(one.neurons[0], other.neurons[0])


def test_what_gates_draw_depends_on_the_seed(load_tiny: Load) -> None:
    network, still = load_tiny("bert").network, torch.zeros(64)
    one, same, other = (RobustTicket().gates(network, seed=seed).gates(still) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_network_is_left_and_the_tuned_weights_rest(load_tiny: Load, separable: Separable) -> None:
    network = load_tiny("bert").network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    RobustTicket(**FAST).search(network, *separable, pad_id=1, seed=0, bf16=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    run = searching._Search(network, *separable, spec=RobustTicket(**FAST), pad_id=1, seed=0, bf16=False)
    run.tune()
    tuned = {name: value.clone() for name, value in run.network.state_dict().items()}
    with run.gates.on(run.network):
        run.record(stop=True, on_step=None)
    assert all(torch.equal(value, tuned[name]) for name, value in run.network.state_dict().items())


def test_tuning_is_plain_training_that_learns_the_task(load_tiny: Load, separable: Separable) -> None:
    spec = RobustTicket(**FAST | {"tuning_epochs": 12, "tuning_rate": 5e-3})
    run = searching._Search(load_tiny("bert").network, *separable, spec=spec, pad_id=1, seed=0, bf16=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = run._batch(range(40))
        still = torch.zeros(*batch.ids.shape, 32)
        run.network.eval()
        untrained = batch.loss(still).item()
        run.network.train()
        run.tune()
        run.network.eval()
        assert batch.loss(still).item() < 0.1 < untrained
    assert run.n_forward == run.n_backward == 12 * 5


def test_without_tuning_the_gates_learn_on_the_network_as_it_is(found: Callable[..., CoefficientRecord]) -> None:
    record = found(tuning_epochs=0)
    assert record.costs.n_forward == 20
    assert not np.array_equal(record.neurons, found().neurons)


def test_the_penalty_closes_gates_and_a_search_without_adversary_is_another(
    found: Callable[..., CoefficientRecord],
) -> None:
    free, pressed = found(l0=0.0), found(l0=500.0, l0_start=0.0, l0_ramp=0.0)
    assert pressed.neurons[-1].mean() < free.neurons[-1].mean() - 0.2
    assert not np.array_equal(free.neurons, found(l0=0.0, n_steps=1, init_magnitude=0.0).neurons)


def test_a_head_that_misleads_is_closed_first(load_tiny: Load, separable: Separable) -> None:
    """After tuning, one head's part of the output is made many times as large: it drowns what the others say."""
    spec = RobustTicket(**FAST | {"tuning_epochs": 12, "tuning_rate": 5e-3, "n_epochs": 6, "l0": 0.0})
    run = searching._Search(load_tiny("bert").network, *separable, spec=spec, pad_id=1, seed=0, bf16=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        run.tune()
        with torch.no_grad():
            run.network.bert.encoder.layer[1].attention.output.dense.weight[:, 8:16] *= -20
        with run.gates.on(run.network):
            record = run.record(stop=True, on_step=None)
    assert record.heads[-1, 1].argmin() == 1
    drawn = RobustTicket(**FAST | {"n_epochs": 6, "head_density": 0.75}).draw(record, seed=0)
    assert not drawn.masks.heads[1, 1]


def test_gates_learn_in_bfloat16(found: Callable[..., CoefficientRecord]) -> None:
    record = found(bf16=True)
    assert record.neurons.dtype == np.float32
    assert (record.neurons[-1] != record.neurons[0]).mean() > 0.9


def test_a_search_that_diverges_says_which_ticket(load_tiny: Load, separable: Separable) -> None:
    network = load_tiny("bert").network
    with torch.no_grad():
        network.classifier.weight.fill_(float("inf"))
    with pytest.raises(StageError, match="ticket robust_ticket: loss nan"):
        RobustTicket(**FAST).search(network, *separable, pad_id=1, seed=0, bf16=False)


# ------------------------------------------------------------------------------------------------ drawing
def test_every_density_is_drawn_from_one_search_and_as_large_as_other_tickets(
    found: Callable[..., CoefficientRecord], load_tiny: Load
) -> None:
    record = found()
    for heads, neurons in ((1.0, 1.0), (0.75, 0.6), (0.5, 0.25), (0.25, 0.1)):
        fields: dict[str, Any] = {"head_density": heads, "neuron_density": neurons, "min_neurons": 1}
        drawn = RobustTicket(**FAST | fields).draw(record, seed=0)
        control = Magnitude(**fields).draw(load_tiny("bert").network, seed=0).masks
        assert drawn.masks.heads.sum() == control.heads.sum()
        assert drawn.masks.neurons.sum() == control.neurons.sum()
        kept, values = drawn.masks.neurons, record.neurons[-1]
        assert neurons == 1.0 or values[kept].min() >= np.sort(values[~kept])[-2:].min(), "the largest are kept"


def test_a_ticket_is_drawn_at_the_end_or_after_its_epochs(found: Callable[..., CoefficientRecord]) -> None:
    record = found()  # a gap is a step here
    last, early = (RobustTicket(**FAST, draw_epoch=epoch).draw(record, seed=0) for epoch in (None, 1.0))
    assert (last.gap, last.step, last.stop_step, last.fallback) == (10, 10, 10, None)
    assert (early.gap, early.step) == (5, 5)
    assert len(last.distances) == 9
    assert np.array_equal(last.masks.neurons, RobustTicket(**FAST).size.masks(*record.at(10)).neurons)


def test_keys_of_drawing_share_a_search_and_others_do_not() -> None:
    one = RobustTicket()
    same = RobustTicket(head_density=0.5, neuron_density=0.1, draw_epoch=1.5, scope="layer", round_to=8)
    assert one.search_digest == same.search_digest
    for change in ({"l0": 0.4}, {"tuning_epochs": 2}, {"gate_rate": 0.05}, {"n_steps": 4}, {"n_epochs": 4}):
        assert RobustTicket(**change).search_digest != one.search_digest
    assert one.search_digest != EarlyBird().search_digest


def test_what_can_not_be_is_refused(found: Callable[..., CoefficientRecord], load_tiny: Load) -> None:
    with pytest.raises(ValidationError, match=r"draw_epoch: 4\.0 comes after the 3 n_epochs"):
        RobustTicket(draw_epoch=4.0)
    with pytest.raises(StageError, match="drawn from a coefficient record"):
        RobustTicket().draw(load_tiny("bert").network, seed=0)
    longer = RobustTicket(**FAST | {"n_epochs": 3})
    record = found()
    assert RobustTicket(**FAST).suffices(record)
    assert not longer.suffices(record)
    with pytest.raises(StageError, match="drawn at gap 15, and the search ended after 10"):
        longer.draw(record, seed=0)


def test_gates_do_not_fit_another_shape(load_tiny: Load) -> None:
    network = load_tiny("bert").network
    assert shape_of(network) == SHAPE
    wrong = HardConcrete((2, 5, 64), opening=0.9, draws=draws())
    with pytest.raises(StageError, match=r"gates of shape \(2, 5, 64\)"), wrong.on(network):
        pass
