"""The search: what its adversaries do in a step, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["robusweep.tickets.ascent"], "beartype.beartype")

from robusweep.errors import StageError  # noqa: E402
from robusweep.tickets import CoefficientRecord, EarlyBird, Magnitude, RandomTicket  # noqa: E402
from robusweep.tickets import search as searching  # noqa: E402
from robusweep.tickets.ascent import Adversary, Batch, free_lb, length, moved, pgd, start  # noqa: E402
from robusweep.tickets.drawing import apart  # noqa: E402
from robusweep.tickets.gates import Gates  # noqa: E402
from robusweep.tickets.removal import removed  # noqa: E402
from robusweep.tickets.search import batches, rate_at, search  # noqa: E402

Load = Callable[..., Any]
Separable = tuple[list[list[int]], list[int]]
SHAPE = (2, 4, 64)
FAST: dict[str, Any] = {"batch_size": 2, "n_steps": 2, "learning_rate": 1e-3, "min_neurons": 1}  # 20 steps an epoch


def batch_on(network: Any, **fields: Any) -> Batch:
    """Three random texts of nine, four and seven tokens."""
    ids = torch.randint(5, 105, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 4, 7])[:, None]
    return Batch(network, ids.where(mask, 1), mask, torch.tensor([0, 1, 1]), **fields)


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def nothing() -> torch.Tensor:
    return torch.zeros(())


def deltas_of(climb: Any, network: Any, **fields: Any) -> tuple[list[torch.Tensor], Batch]:
    seen: list[torch.Tensor] = []
    batch = batch_on(network)
    adversary = Adversary(**{"n_steps": 5, "step_size": 0.01, "init_magnitude": 0.05} | fields)
    climb(batch, adversary, penalty=nothing, draws=draws(), on_delta=lambda d: seen.append(d.detach().clone()))
    return seen, batch


# ------------------------------------------------------------------------------------------------ one step
def test_freelb_learns_in_each_of_k_passes_and_moves_between_them(load_tiny: Load, family: str) -> None:
    seen, batch = deltas_of(free_lb, load_tiny(family).network)
    assert (batch.n_forward, batch.n_backward) == (5, 5)  # and no clean pass
    assert len(seen) == 5
    for before, after in pairwise(seen):  # four moves
        torch.testing.assert_close(length(after - before).flatten(), torch.full((3,), 0.01), rtol=1e-3, atol=0)
    assert all((delta[~batch.mask] == 0).all() for delta in seen)


def test_pgd_moves_k_times_and_learns_once(load_tiny: Load) -> None:
    network = load_tiny("bert", dropout=0.0).network.train()
    seen, batch = deltas_of(pgd, network)
    assert (batch.n_forward, batch.n_backward) == (6, 6)
    assert len(seen) == 6
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    batch.loss(seen[-1]).backward()
    own = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert len(found) == len(own) > 30
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_the_start_is_uniform_scaled_by_length_and_zero_on_padding() -> None:
    mask = torch.arange(400) < torch.tensor([400, 100])[:, None]
    delta = start(mask, 32, 0.05, draws())
    assert (delta[~mask] == 0).all()
    bound = 0.05 / (mask.sum(1) * 32).sqrt()
    assert (delta.abs().amax((1, 2)) <= bound).all()
    assert (delta.abs().amax((1, 2)) > 0.99 * bound).all()
    torch.testing.assert_close(length(delta).flatten(), torch.full((2,), 0.05 / 3**0.5), rtol=0.05, atol=0)


def test_a_move_is_as_long_as_the_step_for_each_text_and_a_zero_gradient_moves_nothing() -> None:
    gradient = torch.randn(3, 9, 8, generator=draws()) * torch.tensor([1e-6, 1.0, 0.0])[:, None, None]
    mask = torch.ones(3, 9, dtype=torch.bool)
    found = moved(torch.zeros(3, 9, 8), gradient, mask, Adversary(2, 0.3, 0.0))
    torch.testing.assert_close(length(found).flatten(), torch.tensor([0.3, 0.3, 0.0]))
    torch.testing.assert_close(found[1], gradient[1] / gradient[1].norm() * 0.3)


def test_padding_stays_unperturbed_and_out_of_the_length_whatever_its_gradient() -> None:
    mask = torch.tensor([[True, True, False]])
    found = moved(torch.zeros(1, 3, 8), torch.ones(1, 3, 8), mask, Adversary(2, 0.3, 0.0))
    assert (found[0, 2] == 0).all()
    torch.testing.assert_close(length(found).flatten(), torch.tensor([0.3]))


def test_perturbations_stay_in_a_ball_where_there_is_one(load_tiny: Load) -> None:
    free, _ = deltas_of(free_lb, load_tiny("bert").network, step_size=0.3)
    held, _ = deltas_of(free_lb, load_tiny("bert").network, step_size=0.3, max_norm=0.4)
    assert float(length(free[-1]).max()) > 0.5
    torch.testing.assert_close(held[1], free[1])
    assert max(float(length(delta).max()) for delta in held[1:]) <= 0.4 + 1e-6
    torch.testing.assert_close(length(held[-1]).flatten(), torch.full((3,), 0.4))


def test_freelb_leaves_the_mean_gradient_along_its_way(load_tiny: Load) -> None:
    network = load_tiny("bert", dropout=0.0).network.train()
    seen, batch = deltas_of(free_lb, network, n_steps=3)
    found = network.classifier.weight.grad.clone()
    network.zero_grad()
    for delta in seen:
        batch.loss(delta).backward()
    torch.testing.assert_close(found, network.classifier.weight.grad / 3)


def test_each_pass_has_dropout_masks_of_its_own(load_tiny: Load) -> None:
    network = load_tiny("bert", dropout=0.3).network.train()
    batch = batch_on(network)
    still = torch.zeros(3, 9, 32)
    assert not torch.equal(batch.loss(still), batch.loss(still))


def test_one_step_without_a_start_is_plain_training_with_the_penalty(load_tiny: Load) -> None:
    network, gates = load_tiny("bert", dropout=0.0).network.train(), Gates(SHAPE)
    batch = batch_on(network)

    def gradients() -> list[torch.Tensor]:
        found = [p.grad.clone() for p in (*network.parameters(), *gates.parameters()) if p.grad is not None]
        network.zero_grad()
        gates.zero_grad()
        return found

    with gates.on(network):
        free_lb(batch, Adversary(1, 0.1, 0.0), penalty=lambda: 0.3 * gates.heads.abs().sum(), draws=draws())
        found = gradients()
        logits = network(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
        (torch.nn.functional.cross_entropy(logits, batch.labels) + 0.3 * gates.heads.abs().sum()).backward()
        plain = gradients()
    assert (batch.n_forward, batch.n_backward) == (1, 1)
    assert len(found) == len(plain) > 30
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("climb", [free_lb, pgd])
def test_the_penalty_is_added_once_in_full(climb: Any, load_tiny: Load) -> None:
    spec = EarlyBird(l1_heads=0.25, l1_neurons=0.125)
    run = searching._Search(
        load_tiny("bert", dropout=0.0).network, [[2, 9, 3]], [0], spec=spec, pad_id=1, seed=0, bf16=False
    )
    with torch.no_grad():
        run.gates.heads[0] = -1.0
        run.gates.neurons[1] = -2.0
    grads = []
    with run.gates.on(run.network):
        for penalty in (nothing, run._penalty):
            run.gates.zero_grad()
            climb(batch_on(run.network), Adversary(4, 0.1, 0.05), penalty=penalty, draws=draws())
            grads.append([p.grad.clone() for p in run.gates.parameters() if p.grad is not None])
    for (without, given), c, weight in zip(
        zip(*grads, strict=True), run.gates.parameters(), (0.25, 0.125), strict=True
    ):
        torch.testing.assert_close(given - without, weight * c.detach().sign(), atol=1e-6, rtol=0)


def test_perturbations_are_added_where_positions_are_those_of_the_ids(load_tiny: Load, family: str) -> None:
    network = load_tiny(family).network
    batch = batch_on(network)
    logits = network(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    own = torch.nn.functional.cross_entropy(logits, batch.labels)
    width = batch.words.weight.shape[1]
    assert torch.equal(batch.loss(torch.zeros(3, 9, width)), own)
    assert not torch.equal(batch.loss(torch.randn(3, 9, width, generator=draws())), own)


# ------------------------------------------------------------------------------------------------ a whole search
@pytest.fixture
def found(load_tiny: Load, separable: Separable) -> Callable[..., CoefficientRecord]:
    """A search over forty texts: ``found("bert", bf16=True, n_steps=3)``."""

    def run(family: str = "bert", *, seed: int = 0, bf16: bool = False, stop: bool = True, **fields: Any) -> Any:
        network = load_tiny(family).network
        spec = EarlyBird(**FAST | fields)
        return search(network, *separable, spec=spec, pad_id=1, seed=seed, bf16=bf16, stop=stop)

    return run


def test_coefficients_of_every_step_are_recorded(family: str, found: Callable[..., CoefficientRecord]) -> None:
    record = found(family, window=20)
    assert record.heads.shape == (20, 2, 4)
    assert record.neurons.shape == (20, 2, 64)
    assert record.steps.tolist() == list(range(1, 21))
    assert (np.diff(record.heads, axis=0) != 0).all()
    assert record.heads.dtype == record.neurons.dtype == np.float32
    costs = record.costs
    assert (costs.n_steps, costs.n_forward, costs.n_backward, costs.stopped_early) == (20, 40, 40, False)
    assert costs.n_tokens > 40 * 2 * 3
    assert costs.seconds > 0
    drawn = EarlyBird(**FAST, window=20).draw(record, seed=0)
    assert (drawn.gap, drawn.fallback) == (20, "last")


def test_a_search_changes_nothing_of_the_network(load_tiny: Load, separable: Separable) -> None:
    network = load_tiny("bert").network
    network.bert.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    spec = EarlyBird(**FAST)
    record = search(network, *separable, spec=spec, pad_id=1, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert not network.bert.embeddings.word_embeddings.weight.requires_grad
    assert all(p.grad is None for p in network.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    masks = spec.draw(record, seed=0).masks  # rewound: kept units have pre-trained values, the classifier is as saved
    ticket = removed(network, masks).state_dict()
    up = "bert.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(ticket[up], before[up][torch.from_numpy(masks.neurons[0])])
    assert torch.equal(ticket["classifier.weight"], before["classifier.weight"])


def test_all_weights_train_with_the_coefficients(load_tiny: Load, separable: Separable) -> None:
    network = load_tiny("bert").network
    run = searching._Search(network, *separable, spec=EarlyBird(**FAST), pad_id=1, seed=0, bf16=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with run.gates.on(run.network):
        run._step([0, 1, 2], progress=0.1)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}
    assert len(changed) > 30
    assert {"classifier.weight", "bert.embeddings.word_embeddings.weight"} < changed
    assert [group["weight_decay"] for group in run.optimiser.param_groups] == [0.01, 0.0]
    assert {p.dtype for p in run.gates.parameters()} == {torch.float32}


def test_the_first_step_is_an_adamw_step_on_the_clipped_gradient(load_tiny: Load, separable: Separable) -> None:
    spec = EarlyBird(**FAST | {"n_steps": 1, "init_magnitude": 0.0, "l1_heads": 0.0, "l1_neurons": 0.0, "warmup": 0.0})
    network = load_tiny("bert", dropout=0.0).network
    record = search(network, *separable, spec=spec, pad_id=1, seed=0)
    gates, (first, *_) = (
        Gates(SHAPE),
        searching.batches(
            [len(ids) for ids in separable[0]], 2, rng=searching.generator(0, "ticket batches", 0), grouped=True
        ),
    )
    own = searching._Search(network, *separable, spec=spec, pad_id=1, seed=0, bf16=False)._batch(first)
    optimiser = torch.optim.AdamW([{"params": network.parameters()}, {"params": gates.parameters()}], lr=1e-3 * 0.975)
    optimiser.param_groups[1]["weight_decay"] = 0.0
    with gates.on(network):
        logits = network(input_ids=own.ids, attention_mask=own.mask.long()).logits
        torch.nn.functional.cross_entropy(logits, own.labels).backward()
    torch.nn.utils.clip_grad_norm_([*network.parameters(), *gates.parameters()], 1.0)
    optimiser.step()
    assert np.array_equal(record.heads[0], gates.heads.detach().numpy())
    assert np.array_equal(record.neurons[0], gates.neurons.detach().numpy())


def test_the_same_seed_gives_the_same_record_and_another_one_another(found: Callable[..., CoefficientRecord]) -> None:
    one, same, other = found(), found(), found(seed=1)
    assert np.array_equal(one.neurons, same.neurons)
    assert not np.array_equal(one.neurons[0], other.neurons[0])


def test_a_search_ends_as_soon_as_the_masks_have_settled(found: Callable[..., CoefficientRecord]) -> None:
    fields: dict[str, Any] = {"threshold": 0.4, "window": 2}
    ticket = EarlyBird(**FAST, **fields)
    short, whole = found(**fields), found(**fields, stop=False)
    n = short.costs.n_steps
    assert short.costs.stopped_early
    assert n < whole.costs.n_steps == 20
    assert np.array_equal(short.neurons, whole.neurons[:n])
    a, b = ticket.draw(short, seed=0), ticket.draw(whole, seed=0)
    assert apart(a.masks, b.masks) == (0.0, 0.0)
    assert (a.gap, a.step, a.stop_step) == (b.gap, b.step, b.stop_step)
    assert a.stop_step == n
    assert a.gap is not None
    assert a.gap + 2 == n  # a gap is a step here


def test_without_a_threshold_a_search_ends_where_the_ticket_is_drawn(found: Callable[..., CoefficientRecord]) -> None:
    record = found(threshold=None, draw_epoch=0.2)
    assert record.costs.n_steps == 4
    drawn = EarlyBird(**FAST, threshold=None, draw_epoch=0.2).draw(record, seed=0)
    assert (drawn.gap, drawn.step, drawn.stop_step, drawn.fallback) == (4, 4, 4, None)


def test_max_epochs_ends_a_search_and_the_schedule_is_that_of_n_epochs(
    found: Callable[..., CoefficientRecord],
) -> None:
    long, cut = (found(n_epochs=2, max_epochs=epochs, window=20) for epochs in (2.0, 1.3))
    assert (long.costs.n_steps, cut.costs.n_steps) == (40, 26)
    assert np.array_equal(cut.neurons, long.neurons[:26])
    assert not np.array_equal(cut.neurons[5], found(window=20).neurons[5])


def test_a_record_that_would_be_too_large_keeps_fewer_steps_and_all_gaps(
    found: Callable[..., CoefficientRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"gaps_per_epoch": 4, "window": 20}
    whole = found(**fields)
    monkeypatch.setattr(searching, "MOST_BYTES", 5 * 128 * 4)
    thin = found(**fields)
    assert thin.steps.tolist() == [4, 5, 8, 10, 12, 15, 16, 20]
    assert np.array_equal(thin.neurons, whole.neurons[thin.steps - 1])
    a, b = (EarlyBird(**FAST, **fields).draw(one, seed=0) for one in (whole, thin))
    assert apart(a.masks, b.masks) == (0.0, 0.0)


@pytest.mark.parametrize("adversary", ["freelb", "pgd"])
def test_coefficients_move_in_bfloat16_with_the_released_learning_rate(
    adversary: str, found: Callable[..., CoefficientRecord]
) -> None:
    record = found(bf16=True, learning_rate=2e-5, adversary=adversary)
    assert record.neurons.dtype == np.float32
    assert (record.neurons[-1] != 1).mean() > 0.95
    assert (record.heads[-1] != 1).all()
    assert 0 < np.abs(record.heads - 1).max() < 1e-3
    wide = found(learning_rate=2e-5, adversary=adversary)
    n = min(len(record.steps), len(wide.steps)) - 1
    agree = np.corrcoef(record.neurons[n].ravel(), wide.neurons[n].ravel())[0, 1]
    assert agree > 0.8  # bfloat16 is close to float32


def test_coefficients_have_a_learning_rate_of_their_own_where_it_is_given(
    found: Callable[..., CoefficientRecord],
) -> None:
    usual, faster = found(), found(coefficient_rate=0.01)
    assert np.abs(faster.heads[0] - 1).max() == pytest.approx(10 * np.abs(usual.heads[0] - 1).max(), rel=1e-2)


@pytest.mark.parametrize("kind", ["grouped", "shuffled"])
def test_batches_hold_every_text_once_and_both_classes_in_every_gap(kind: str) -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=4001).tolist()  # the first half is of one class
    order = list(batches(lengths, 8, rng=np.random.default_rng(1), grouped=kind == "grouped"))
    assert sorted(i for batch in order for i in batch) == list(range(4001))
    assert sorted(map(len, order)) == [1] + [8] * 500
    for begin in range(0, 500, 25):
        share = np.mean([i < 2000 for batch in order[begin : begin + 25] for i in batch])
        assert 0.3 < share < 0.7
    padding = 1 - sum(lengths) / sum(len(batch) * max(lengths[i] for i in batch) for batch in order)
    assert padding < 0.02 if kind == "grouped" else padding > 0.2


def test_a_search_over_sorted_texts_sees_both_classes_in_every_gap(load_tiny: Load, separable: Separable) -> None:
    tokens, labels = (list(one) for one in zip(*sorted(zip(*separable, strict=True), key=lambda t: t[1]), strict=True))
    assert labels == [0] * 20 + [1] * 20
    spec = EarlyBird(**FAST | {"gaps_per_epoch": 4, "threshold": None, "draw_epoch": 1.0, "n_steps": 1})
    record = search(load_tiny("bert").network, tokens, labels, spec=spec, pad_id=1, seed=0)
    assert record.costs.classes_by_gap == (2, 2, 2, 2)


def test_the_learning_rate_rises_and_falls() -> None:
    assert [rate_at(p, 0.1) for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])
    assert rate_at(0.0, 0.0) == 1.0


def test_on_step_hears_the_share_that_is_done(load_tiny: Load, separable: Separable) -> None:
    shares: list[float] = []
    spec = EarlyBird(**FAST | {"window": 20})
    spec.search(load_tiny("bert").network, *separable, pad_id=1, seed=0, bf16=False, on_step=shares.append)
    assert shares == pytest.approx([i / 20 for i in range(1, 21)])


def test_a_search_that_diverges_and_one_without_texts_are_refused(load_tiny: Load, separable: Separable) -> None:
    network = load_tiny("bert").network
    with pytest.raises(StageError, match="there are no texts"):
        search(network, [], [], spec=EarlyBird(), pad_id=1, seed=0)
    with torch.no_grad():
        network.classifier.weight.fill_(float("inf"))
    with pytest.raises(StageError, match="loss nan"):
        search(network, *separable, spec=EarlyBird(**FAST), pad_id=1, seed=0)


def test_a_record_of_a_search_is_found_again(found: Callable[..., CoefficientRecord], tmp_path: Path) -> None:
    record = found()
    record.save(tmp_path / "record.npz")
    again = CoefficientRecord.load(tmp_path / "record.npz")
    assert np.array_equal(record.neurons, again.neurons)
    assert record.costs == again.costs


# ------------------------------------------------------------------------------------------------ controls
def test_controls_are_as_large_as_a_searched_ticket(found: Callable[..., CoefficientRecord], load_tiny: Load) -> None:
    network = load_tiny("bert").network
    fields: dict[str, Any] = {"head_density": 0.5, "neuron_density": 0.4, "min_neurons": 1}
    masks = [
        EarlyBird(**FAST | fields).draw(found(), seed=0).masks,
        RandomTicket(**fields).draw(network, seed=0).masks,
        RandomTicket(**fields).draw(network, seed=1).masks,
        Magnitude(**fields).draw(network, seed=0).masks,
    ]
    assert len({(m.heads.sum(), m.neurons.sum()) for m in masks}) == 1
    assert len({m.neurons.tobytes() for m in masks}) == 4
    assert apart(masks[1], RandomTicket(**fields).draw(network, seed=0).masks) == (0.0, 0.0)


def test_a_magnitude_ticket_keeps_the_unit_that_was_made_large(load_tiny: Load) -> None:
    network = load_tiny("distilbert").network
    ffn = network.distilbert.transformer.layer[1].ffn
    with torch.no_grad():
        ffn.lin2.weight[:, 7] *= 100
        ffn.lin1.weight[9] = 0
        ffn.lin2.weight[:, 9] = 0
    masks = Magnitude(neuron_density=0.1, min_neurons=1).draw(network, seed=0).masks
    assert masks.neurons[1, 7]
    assert not Magnitude(neuron_density=0.9).draw(network, seed=0).masks.neurons[1, 9]
