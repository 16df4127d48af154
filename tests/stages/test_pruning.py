"""Pruning after training: what surgery on one map promises, and what the walk through a network does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor

install_import_hook(["robusweep.pruning.surgery"], "beartype.beartype")

from robusweep import model as model_stage  # noqa: E402
from robusweep.errors import StageError  # noqa: E402
from robusweep.mixing import Fixed  # noqa: E402
from robusweep.model.victim import padded_to_longest  # noqa: E402
from robusweep.packed import layers_of  # noqa: E402
from robusweep.pruned import check_prunable, masks_of, pruned  # noqa: E402
from robusweep.pruning import Akr, MagnitudePruning, Pruning, surgery  # noqa: E402
from robusweep.pruning import walk as walking  # noqa: E402
from robusweep.pruning.surgery import damped, resolved, smallest, without_groups, without_weights  # noqa: E402
from robusweep.tickets.masks import Masks  # noqa: E402
from robusweep.tickets.parts import parts_of  # noqa: E402
from robusweep.tickets.removal import removed  # noqa: E402

Load = Callable[..., Any]
MAPS = ("query", "key", "value", "output", "up", "down")
SPARSITIES = (0.2, 0.5, 0.8)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(d: int, n: int = 400, seed: int = 1) -> Tensor:
    """[n, d]: readings whose coordinates tell much about each other."""
    return drawn(n, d, seed=seed) + drawn(n, 3, seed=seed + 1) @ (3 * drawn(3, d, seed=seed + 2))


def cost(w: Tensor, after: Tensor, hessian: Tensor) -> float:
    change = (after - w).double()
    return float((change @ hessian * change).sum())


def best_on(support: Tensor, w: Tensor, hessian: Tensor) -> Tensor:
    """The map of least cost whose row i is zero outside ``support[i]``."""
    found = torch.zeros_like(w)
    for i, kept in enumerate(support):
        found[i, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ w[i])
    return found


# ------------------------------------------------------------------------------------------------ single weights
def by_the_definition(w: Tensor, hessian: Tensor, n: int, block: int) -> Tensor:
    """Column by column, with the inverse of the Hessian of the columns that are left computed anew each time."""
    w, d = w.clone(), w.shape[1]
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(d)]
    at = torch.stack([inverse[0, 0] for inverse in inverses])
    shares = smallest(w.square() / at, n).sum(dim=0)
    for begin in range(0, d, block):
        end = min(d, begin + block)
        going = smallest(w[:, begin:end].square() / at[begin:end], int(shares[begin:end].sum()))
        for j in range(begin, end):
            for i in going[:, j - begin].nonzero()[:, 0]:
                w[i, j:] -= w[i, j] / at[j] * inverses[j][:, 0]
                w[i, j] = 0.0
    return w


@pytest.mark.parametrize("block", [1, 4, 5, 64])
def test_removal_along_the_columns_is_optimal_brain_surgery_on_those_left(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgery, "BLOCK", block)
    w, x = drawn(6, 14), correlated(14)
    hessian = damped(x.T @ x, 0.01)
    found = without_weights(w, hessian, 40)
    torch.testing.assert_close(found, by_the_definition(w, hessian, 40, block), atol=1e-9, rtol=1e-9)
    assert int((found == 0).sum()) == 40


def test_a_weight_of_the_first_column_is_made_up_for_as_well_as_can_be() -> None:
    w, x = drawn(1, 10), correlated(10)
    w[0, 0] = 1e-4
    hessian = damped(x.T @ x, 0.01)
    found = without_weights(w, hessian, 1)
    support = torch.ones(1, 10, dtype=torch.bool)
    support[0, 0] = False
    torch.testing.assert_close(found, best_on(support, w, hessian))
    inverse = torch.linalg.inv(hessian)
    assert cost(w, found, hessian) == pytest.approx(float(w[0, 0] ** 2 / inverse[0, 0]))


@pytest.mark.parametrize("n", [1, 33, 500, 1999, 3999])
def test_as_many_weights_go_as_are_to_go_whatever_the_blocks(n: int) -> None:
    w, x = drawn(40, 100).float(), correlated(100)
    found = without_weights(w, damped(x.T @ x, 0.01), n)
    assert found.dtype == torch.float32
    assert int((found == 0).sum()) == n


@pytest.mark.parametrize("share", SPARSITIES)
def test_surgery_costs_less_than_leaving_out_the_smallest_and_than_its_mask_alone(share: float) -> None:
    w, x = drawn(40, 100), correlated(100)
    hessian = damped(x.T @ x, 0.01)
    n = round(share * w.numel())
    found = without_weights(w, hessian, n)
    smallest_out = w.masked_fill(smallest(w.abs(), n), 0.0)
    assert cost(w, found, hessian) < cost(w, w * (found != 0), hessian)
    assert cost(w, found, hessian) < 0.5 * cost(w, smallest_out, hessian)
    assert cost(w, found, hessian) >= cost(w, best_on(found != 0, w, hessian), hessian) - 1e-9


def test_equal_values_are_taken_from_the_first_on() -> None:
    assert smallest(torch.tensor([[2.0, 1.0, 1.0], [1.0, 0.5, 1.0]]), 3).tolist() == [
        [False, True, True],
        [False, True, False],
    ]


# ------------------------------------------------------------------------------------------------ whole units
@pytest.mark.parametrize(("size", "n"), [(1, 1), (1, 5), (3, 1), (3, 3), (4, 2)])
def test_groups_go_in_the_order_of_what_they_cost_and_the_rest_makes_up_exactly(size: int, n: int) -> None:
    w, x = drawn(5, 12), correlated(12)
    hessian = damped(x.T @ x, 0.01)
    support = torch.ones(5, 12, dtype=torch.bool)
    for _ in range(n):  # one at a time, each the cheapest by trying all
        tries = {}
        for g in range(12 // size):
            if support[0, g * size]:
                without = support.clone()
                without[:, g * size : (g + 1) * size] = False
                tries[g] = cost(w, best_on(without, w, hessian), hessian)
        gone = min(tries, key=lambda g: tries[g])
        support[:, gone * size : (gone + 1) * size] = False
    found = without_groups(w, hessian, n, size=size)
    assert torch.equal(found != 0, support)
    torch.testing.assert_close(found, best_on(support, w, hessian), atol=1e-9, rtol=1e-9)


def test_many_groups_go_in_rounds_and_the_rest_still_makes_up_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = drawn(6, 60), correlated(60)
    hessian = damped(x.T @ x, 0.01)
    one_by_one = without_groups(w, hessian, 40, size=1)
    monkeypatch.setattr(surgery, "ROUNDS", 7)
    found = without_groups(w, hessian, 40, size=1)
    kept = (found != 0).any(dim=0)
    assert int(kept.sum()) == 20
    torch.testing.assert_close(found, best_on(kept.expand(6, -1), w, hessian), atol=1e-8, rtol=1e-8)
    assert cost(w, found, hessian) == pytest.approx(cost(w, one_by_one, hessian), rel=0.1)


def test_magnitude_removes_the_smallest_weights_and_columns_and_changes_no_other() -> None:
    w, seen = drawn(8, 12), Any
    found = MagnitudePruning().without_weights(w, seen, 30)  # type: ignore[arg-type] - it does not look
    kept = found != 0
    assert int(kept.sum()) == 8 * 12 - 30
    assert torch.equal(found[kept], w[kept])
    assert w[~kept].abs().max() <= w[kept].abs().min()
    found = MagnitudePruning().without_inputs(w, seen, 2, size=3)  # type: ignore[arg-type]
    norms = w.view(8, 4, 3).square().sum(dim=(0, 2))
    assert torch.equal((found == 0).all(dim=0).view(4, 3).all(dim=1), smallest(norms, 2))
    assert torch.equal(found[found != 0], w[found != 0])


# ------------------------------------------------------------------------------------------------ inherited errors
def test_a_map_is_solved_for_what_it_reads_now() -> None:
    w, x = drawn(5, 8), correlated(8)
    read = x + drawn(len(x), 8, seed=9)
    gram, cross = read.T @ read, x.T @ read
    found = resolved(w, gram, cross, damping=0.05)
    strength = 0.05 * float(gram.diagonal().mean())
    rows = torch.cat([read, strength**0.5 * torch.eye(8, dtype=torch.float64)])
    wanted = torch.cat([x @ w.T, strength**0.5 * w.T])
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, wanted).solution.T)
    without = ((x @ w.T - read @ w.T) ** 2).sum()
    assert float(((x @ w.T - read @ found.T) ** 2).sum()) < 0.8 * float(without)


def test_a_map_behind_nothing_pruned_stays_bit_for_bit() -> None:
    w, x = drawn(5, 8).float(), correlated(8)
    gram = x.T @ x
    assert torch.equal(resolved(w, gram, gram.clone(), damping=0.1), w)


def test_a_map_that_reads_zeros_alone_can_be_pruned() -> None:
    w, nothing = drawn(4, 6), torch.zeros(6, 6, dtype=torch.float64)
    assert torch.equal(resolved(w, nothing, nothing, damping=0.1), w)
    assert int((without_weights(w, damped(nothing, 0.1), 10) == 0).sum()) == 10


# ------------------------------------------------------------------------------------------------ a network
@pytest.fixture
def base(load_tiny: Load, family: str) -> Any:
    return load_tiny(family)


def batches_of(base: Any, texts: list[str]) -> list[dict[str, Tensor]]:
    rows = [np.array(row) for row in sorted(base.tokens(texts), key=len)]
    return [padded_to_longest(rows[i : i + 16], base) for i in range(0, len(rows), 16)]


def states(network: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    with torch.no_grad():
        found = [network.base_model(**batch)[0][batch["attention_mask"].bool()] for batch in batches]
    return torch.cat(found)


def weights_of(network: Any) -> Iterator[tuple[str, Tensor]]:
    for i, parts in enumerate(parts_of(network)):
        yield from ((f"{i}.{name}", getattr(parts, name).weight) for name in MAPS)


def spec(kind: str, **fields: Any) -> Pruning:
    made: Pruning = {"akr": Akr, "magnitude": MagnitudePruning}[kind](**{"n_texts": 64} | fields)
    return made


def test_the_walk_runs_layers_as_the_network_does(base: Any, random_texts: list[str]) -> None:
    batches = batches_of(base, random_texts[:40])
    calls = [walking._first_call(base.network, batch) for batch in batches]
    with torch.no_grad():
        found = [call.states for call in calls]
        for layer in layers_of(base.network):
            _, found = walking._read(layer, [], calls, found)
    real = torch.cat([x[call.real] for x, call in zip(found, calls, strict=True)])
    torch.testing.assert_close(real, states(base.network, batches))


@pytest.mark.parametrize("kind", ["akr", "magnitude"])
@pytest.mark.parametrize("sparsity", [*SPARSITIES, 0.37])
def test_each_map_loses_its_share_to_the_weight_and_nothing_else_changes(
    base: Any, kind: str, sparsity: float, random_texts: list[str]
) -> None:
    own = {name: value.clone() for name, value in base.network.state_dict().items()}
    system, told = pruned(Fixed({}), spec(kind, sparsity=sparsity), base, random_texts)
    assert all(torch.equal(value, own[name]) for name, value in base.network.state_dict().items())
    network = model_stage.filled(base, system.parameters)
    found = dict(weights_of(network))
    for weight in found.values():
        assert abs(int((weight == 0).sum()) - sparsity * weight.numel()) <= 0.5 + 1e-6
    n = sum(weight.numel() for weight in found.values())
    assert told.zeros == sum(int((weight == 0).sum()) for weight in found.values()) / n
    assert (told.kind, told.units) == (kind, "weights")
    assert {name.rpartition(".")[2] for name in system.parameters} == {"weight"}
    assert len(system.parameters) == len(found) == 12


@pytest.mark.parametrize("units", ["weights", "structured"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_akr_errs_less_than_magnitude_on_the_texts_it_reads(
    base: Any, units: str, sparsity: float, random_texts: list[str]
) -> None:
    batches, found = batches_of(base, random_texts[:64]), {}
    dense = states(base.network, batches)
    for kind in ("akr", "magnitude"):
        system, told = pruned(Fixed({}), spec(kind, sparsity=sparsity, units=units), base, random_texts)
        network = model_stage.filled(base, system.parameters)
        found[kind] = told.error, float((states(network, batches) - dense).square().sum())
    assert 0 < found["akr"][0] < found["magnitude"][0]
    assert 0 < found["akr"][1] < found["magnitude"][1]


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_maps_that_are_solved_anew_inherit_less_error(base: Any, sparsity: float, random_texts: list[str]) -> None:
    batches = batches_of(base, random_texts[:64])
    anew, as_was = (
        walking.walk(base.network, batches, Akr(sparsity=sparsity, resolve=resolve)) for resolve in (True, False)
    )
    first = [f"0.{name}" for name in ("query", "key", "value")]
    behind = anew.errors.keys() - set(first)
    assert all(anew.errors[name] == as_was.errors[name] for name in first), "nothing before them was pruned"
    assert len(behind) == 9
    assert sum(anew.errors[name] for name in behind) < sum(as_was.errors[name] for name in behind)


def test_the_error_is_that_of_the_outputs_of_each_map(base: Any, random_texts: list[str]) -> None:
    batches = batches_of(base, random_texts[:20])
    walked = walking.walk(base.network, batches, Akr(sparsity=0.5))
    thin = model_stage.filled(base, walked.parameters)
    outputs: dict[str, dict[str, list[Tensor]]] = {}
    for name, network in (("dense", copy.deepcopy(base.network)), ("thin", thin)):
        caught = outputs[name] = {}
        for i, parts in enumerate(parts_of(network)):
            for part in MAPS:
                linear, rows = getattr(parts, part), caught.setdefault(f"{i}.{part}", [])
                linear.register_forward_hook(lambda m, _a, out, rows=rows: rows.append(out - m.bias))
        states(network, batches)
    for name, error in walked.errors.items():
        of = [
            torch.cat([x[b["attention_mask"].bool()] for x, b in zip(outputs[which][name], batches, strict=True)])
            for which in ("dense", "thin")
        ]
        assert error == pytest.approx(float((of[0] - of[1]).square().sum() / of[0].square().sum()), rel=1e-3)


@pytest.mark.parametrize("kind", ["akr", "magnitude"])
@pytest.mark.parametrize("units", ["weights", "structured"])
def test_a_sparsity_of_zero_gives_the_very_parameters(
    base: Any, kind: str, units: str, random_texts: list[str]
) -> None:
    name, last = list(base.network.named_parameters())[-1]
    system = Fixed({name: last.detach() + 1})
    found, told = pruned(system, spec(kind, sparsity=0.0, units=units), base, random_texts)
    assert found is system
    assert (told.zeros, told.error) == (0.0, 0.0)


def test_a_share_that_rounds_to_nothing_changes_nothing(load_tiny: Load, random_texts: list[str]) -> None:
    system, told = pruned(Fixed({}), Akr(sparsity=1e-5, n_texts=10), load_tiny("bert"), random_texts)
    assert not system.parameters
    assert told.error == 0.0


def test_pruning_starts_from_the_systems_parameters(load_tiny: Load, random_texts: list[str]) -> None:
    base = load_tiny("bert")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    changed = {name: base.network.state_dict()[name] * 2, "classifier.bias": torch.tensor([1.0, 2.0])}
    found, _ = pruned(Fixed(changed, chosen_weight=0.3), spec("magnitude", sparsity=0.5), base, random_texts)
    kept = found.parameters[name] != 0
    assert torch.equal(found.parameters[name][kept], changed[name][kept])
    assert torch.equal(found.parameters["classifier.bias"], changed["classifier.bias"])
    assert found.chosen_weight == 0.3


def test_the_first_texts_are_read_and_padding_is_not(load_tiny: Load, random_texts: list[str]) -> None:
    base = load_tiny("bert")
    twelve = spec("akr", sparsity=0.5, n_texts=12)
    one, same, fewer, other = (
        pruned(Fixed({}), twelve, base, texts)[0].parameters
        for texts in (random_texts, random_texts[:12], random_texts[:11], random_texts[12:])
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], fewer[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    rows = [np.array(row) for row in base.tokens(random_texts[:12])]
    together = walking.walk(base.network, [padded_to_longest(rows, base)], twelve)
    alone = walking.walk(base.network, [padded_to_longest([row], base) for row in rows], twelve)
    assert together.errors == pytest.approx(alone.errors, rel=1e-2)


def test_one_thread_computes_and_the_number_is_put_back(
    load_tiny: Load, random_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real, before = [], walking.walk, torch.get_num_threads()

    def spying(*args: Any) -> walking.Walked:
        seen.append(torch.get_num_threads())
        return real(*args)

    monkeypatch.setattr(walking, "walk", spying)
    torch.set_num_threads(2)
    try:
        pruned(Fixed({}), Akr(n_texts=4), load_tiny("bert"), random_texts)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------ units taken out
def logits(network: Any, base: Any, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(**batch).logits for batch in batches_of(base, texts)])


@pytest.mark.parametrize("kind", ["akr", "magnitude"])
@pytest.mark.parametrize(("sparsity", "n_heads", "n_neurons"), [(0.25, 3, 48), (0.5, 2, 32), (0.97, 1, 2)])
def test_whole_units_go_and_taking_them_out_changes_nothing(
    base: Any, kind: str, sparsity: float, n_heads: int, n_neurons: int, random_texts: list[str]
) -> None:
    system, told = pruned(Fixed({}), spec(kind, sparsity=sparsity, units="structured"), base, random_texts)
    masks = masks_of(system.parameters, base.network)
    assert masks is not None
    assert masks.heads.sum(axis=1).tolist() == [n_heads] * 2
    assert masks.neurons.sum(axis=1).tolist() == [n_neurons] * 2
    network = model_stage.filled(base, system.parameters)
    for parts, heads, neurons in zip(parts_of(network), masks.heads, masks.neurons, strict=True):
        dropped = torch.from_numpy(~heads).repeat_interleave(8)
        assert (parts.output.weight[:, dropped] == 0).all()
        assert (parts.output.weight[:, ~dropped] != 0).any(dim=0).all()
        assert all((one.weight[dropped] == 0).all() for one in (parts.query, parts.key, parts.value))
        assert (parts.down.weight[:, ~neurons] == 0).all()
        assert (parts.up.bias[torch.from_numpy(~neurons)] == 0).all()
    smaller = removed(network, masks)
    n_maps = sum(weight.numel() for _, weight in weights_of(base.network))
    n_left = sum(weight.numel() for _, weight in weights_of(smaller))
    assert told.zeros == pytest.approx(1 - n_left / n_maps), "what is zero is what can go"
    torch.testing.assert_close(
        logits(smaller, base, random_texts[:20]), logits(network, base, random_texts[:20]), atol=1e-6, rtol=1e-6
    )
    assert not torch.allclose(logits(network, base, random_texts[:20]), logits(base.network, base, random_texts[:20]))


def test_a_ticket_is_pruned_further(load_tiny: Load, random_texts: list[str]) -> None:
    base = load_tiny("bert")
    neurons = np.random.default_rng(0).random((2, 64)) < [[0.8], [0.4]]
    first = Masks(np.array([[True, False, True, True], [False, True, False, True]]), neurons)
    ticket = replace(base, network=removed(base.network, first))
    for units in ("weights", "structured"):
        system, told = pruned(Fixed({}), spec("akr", units=units), ticket, random_texts)
        assert 0.4 < told.zeros < 0.8
        assert masks_of(system.parameters, ticket.network) is None
    found = [(p.output.weight != 0).any(dim=0).sum() for p in parts_of(model_stage.filled(ticket, system.parameters))]
    assert found == [8, 8], "of 3 heads 2 go, of 2 one"


def test_units_that_are_all_read_need_no_masks_and_those_no_weight_reads_are_found(load_tiny: Load) -> None:
    network = load_tiny("distilbert").network
    assert masks_of({}, network) is None
    name = "distilbert.transformer.layer.1.ffn.lin2.weight"
    weight = network.state_dict()[name].clone()
    weight[:, [4, 9]] = 0.0
    found = masks_of({name: weight}, network)
    assert found is not None
    assert np.flatnonzero(~found.neurons[1]).tolist() == [4, 9]
    assert found.heads.all()
    assert found.neurons[0].all()
    emptied = masks_of({name: weight * 0}, network)
    assert emptied is not None
    assert emptied.neurons[1].sum() == 1, "a layer keeps one neuron"


def test_a_network_of_another_make_is_refused_before_anything_is_trained(load_tiny: Load) -> None:
    base = load_tiny("bert")
    check_prunable(base)
    base.network.config.model_type = "deberta-v2"
    with pytest.raises(StageError, match=r"prune: needs a network of bert.* and this is deberta-v2"):
        check_prunable(base)
