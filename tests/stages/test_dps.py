from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jaxtyping import install_import_hook

from robusweep.adapters import Adapter, Full, Lora, Oft
from robusweep.training import Pgd, Radius, Standard, TrainingMethod
from robusweep.training.updates import Dps

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from robusweep.training.updates.dps_rule import DpsRule

install_import_hook(["robusweep.training.updates.dps_rule"], "beartype.beartype")

Load = Callable[..., Any]
Texts = tuple[list[list[int]], list[int]]
Values = dict[str, Any]
N_STEPS, STAGE = 60, 3  # update_ratio 0.05


def small_network() -> Module:
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.Embedding(7, 20)
            self.first, self.norm, self.second = nn.Linear(20, 10), nn.LayerNorm(10), nn.Linear(10, 3)

        def forward(self, ids: Tensor) -> Tensor:
            answer: Tensor = self.second(self.norm(self.first(self.embeddings(ids)).tanh()))
            return answer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small()


def begun(network: Module, **fields: Any) -> tuple[DpsRule, Optimizer]:
    import torch

    weights = dict(network.named_parameters())
    rule: Any = Dps(**fields).begin(weights, n_steps=N_STEPS, seed=0)
    return rule, torch.optim.AdamW(weights.values(), lr=1e-2, weight_decay=0.5)


def moved(network: Module, rule: DpsRule | None, optimiser: Optimizer, step: int) -> tuple[Values, Values]:
    """(weights, gradients) after one step on a batch of its own."""
    import torch

    rng = torch.Generator().manual_seed(100 + step)
    ids, labels = torch.randint(7, (16,), generator=rng), torch.randint(3, (16,), generator=rng)
    torch.nn.functional.cross_entropy(network(ids), labels).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    if rule:
        rule.move(optimiser)
    else:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {name: p.detach().clone() for name, p in network.named_parameters()}, gradients


def course(n_steps: int = 4 * STAGE, **fields: Any) -> tuple[list[Values], list[Values]]:
    """Weights before each step and after the last, and the gradient of each step, over two pairs of stages."""
    network = small_network()
    rule, optimiser = begun(network, **fields)
    weights = [{name: p.detach().clone() for name, p in network.named_parameters()}]
    gradients = []
    for step in range(n_steps):
        after, gradient = moved(network, rule, optimiser, step)
        weights.append(after)
        gradients.append(gradient)
    return weights, gradients


def same(one: Values, other: Values) -> Values:
    return {name: one[name] == other[name] for name in one}


MATRICES = {"first.weight": 60, "second.weight": 9}  # name: weights that rest, 30 % rounded down


def test_the_first_stage_moves_all_and_the_second_all_but_the_frozen_share() -> None:
    weights, _ = course()
    for pair in (0, 2 * STAGE):
        learnt = same(weights[pair], weights[pair + STAGE])
        assert not any(equal.all() for equal in learnt.values())
        rested = same(weights[pair + STAGE], weights[pair + 2 * STAGE])
        assert {name: int(rested[name].sum()) for name in MATRICES} == MATRICES
        assert not any(equal.any() for name, equal in rested.items() if name not in MATRICES)


def test_frozen_weights_are_bit_unchanged_at_every_step_and_are_those_with_the_smallest_sums() -> None:
    weights, gradients = course()
    for begin in (0, 2 * STAGE):
        for name, n_resting in MATRICES.items():
            total = sum(gradients[step][name].square() for step in range(begin, begin + STAGE))
            expected = total < total.flatten().sort().values[n_resting]  # sums start anew with every pair
            for step in range(begin + STAGE, begin + 2 * STAGE):
                before, after = weights[step][name], weights[step + 1][name]
                assert before[expected].equal(after[expected])
                assert not (before == after)[~expected].any()
    first, second = (same(weights[i], weights[i + STAGE])["first.weight"] for i in (STAGE, 3 * STAGE))
    assert not first.equal(second)


def test_moments_of_frozen_weights_fade() -> None:
    network = small_network()
    rule, optimiser = begun(network)
    for step in range(STAGE):
        moved(network, rule, optimiser, step)
    weight: Any = network.get_parameter("first.weight")
    before = {key: optimiser.state[weight][key].clone() for key in ("exp_avg", "exp_avg_sq")}
    start = weight.detach().clone()
    moved(network, rule, optimiser, STAGE)
    rests = weight.detach() == start
    assert int(rests.sum()) == 60
    for key, factor in (("exp_avg", 0.9), ("exp_avg_sq", 0.999)):
        found, expected = optimiser.state[weight][key], factor * before[key]
        assert found[rests].allclose(expected[rests], rtol=1e-5, atol=0)
        assert not found[~rests].allclose(expected[~rests], rtol=1e-5, atol=0)


def test_nothing_frozen_is_plain_training_bit_for_bit() -> None:
    weights, _ = course(frozen=0.0)
    network = small_network()
    _, optimiser = begun(network)
    for step in range(4 * STAGE):
        plain, _ = moved(network, None, optimiser, step)
        assert all(equal.all() for equal in same(plain, weights[step + 1]).values())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.99])
def test_each_matrix_rests_with_its_share_and_ties_stay_free(share: float) -> None:
    import torch

    from robusweep.training.updates.dps_rule import smallest

    for n in (1, 7, 100):
        sums = torch.randperm(n, generator=torch.Generator().manual_seed(n)).reshape(1, n).float()
        rests = smallest(sums, share)
        assert int(rests.sum()) == int(share * n)
        assert not rests.any() or sums[rests].max() < sums[~rests].min()
    assert not smallest(torch.zeros(4, 5), share).any()
    assert int(smallest(torch.tensor([[0.0, 1, 1, 1, 2]]), 0.5).sum()) == 1


@pytest.mark.parametrize("n_done", [1, STAGE - 1, STAGE, STAGE + 1, 2 * STAGE, 3 * STAGE + 1])
def test_a_rule_restored_in_the_middle_of_a_stage_goes_on_as_if_nothing_had_happened(n_done: int) -> None:
    import copy

    expected, _ = course()
    network = small_network()
    rule, optimiser = begun(network)
    for step in range(n_done):
        moved(network, rule, optimiser, step)
    state = {name: value.clone() for name, value in rule.state().items()}
    weights, moments = copy.deepcopy(network.state_dict()), copy.deepcopy(optimiser.state_dict())

    fresh = small_network()
    rule, optimiser = begun(fresh)
    fresh.load_state_dict(weights)
    optimiser.load_state_dict(moments)
    rule.restore(state)
    for step in range(n_done, 4 * STAGE):
        after, _ = moved(fresh, rule, optimiser, step)
        assert all(equal.all() for equal in same(after, expected[step + 1]).values())


@pytest.mark.parametrize(("n_steps", "ratio", "stage"), [(60, 0.05, 3), (10, 0.05, 1), (100, 0.5, 50), (59, 0.05, 2)])
def test_a_stage_is_a_share_of_the_run_and_at_least_one_step(n_steps: int, ratio: float, stage: int) -> None:
    weights = dict(small_network().named_parameters())
    rule: Any = Dps(update_ratio=ratio).begin(weights, n_steps=n_steps, seed=0)
    assert rule._stage == stage


ADAPTERS: dict[str, tuple[Adapter, str]] = {  # with what its matrices are called
    "lora": (Lora(rank=4), ".lora_"),
    "oft": (Oft(block_size=8), ".oft_R"),
    "full": (Full(), "encoder"),
}


@pytest.mark.parametrize(("adapter", "part"), ADAPTERS.values(), ids=ADAPTERS.keys())
def test_only_matrices_of_linear_maps_take_part(adapter: Adapter, part: str, family: str, load_tiny: Load) -> None:
    from torch.nn import Embedding

    from robusweep.model import head_names

    network = load_tiny(family).network
    tables = {id(m.weight) for m in network.modules() if isinstance(m, Embedding)}
    network = adapter.attach(network, head=head_names(network), seed=0)
    weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
    rule: Any = Dps().begin(weights, n_steps=100, seed=0)
    expected = {name for name, p in weights.items() if p.dim() == 2 and id(p) not in tables}
    assert set(rule._matrices) == expected
    assert any("classifier" in name and name.endswith("weight") for name in expected)
    if not isinstance(adapter, Full):
        assert sum(part in name for name in expected) >= 4
    else:
        assert tables


METHODS: list[TrainingMethod] = [
    Standard(n_epochs=2, batch_size=8, weight_decay=0.1),
    Pgd(radius=Radius(value=0.1), n_steps=2, n_epochs=2, batch_size=8, weight_decay=0.1, accumulate=2),
]


@pytest.mark.parametrize("method", METHODS, ids=["standard", "pgd"])
@pytest.mark.parametrize("adapter", [each for each, _ in ADAPTERS.values()], ids=ADAPTERS.keys())
def test_a_run_with_dps_differs_from_a_plain_one_and_equals_it_with_nothing_frozen(
    method: TrainingMethod, adapter: Adapter, load_tiny: Load, separable: Texts
) -> None:
    plain = trained(method, adapter, load_tiny, separable)
    none = trained(with_dps(method, frozen=0.0), adapter, load_tiny, separable)
    some = trained(with_dps(method, update_ratio=0.2), adapter, load_tiny, separable)
    assert all(plain[name].equal(none[name]) for name in plain)
    assert not all(plain[name].equal(some[name]) for name in plain)


@pytest.mark.parametrize("share", [0.15, 0.35, 0.55, 0.85])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    share: float, load_tiny: Load, separable: Texts, tmp_path: Path
) -> None:
    from robusweep.training.checkpoint import Checkpoint

    class KilledError(Exception):
        pass

    def die(progress: float) -> None:
        if progress > share:
            raise KilledError

    method = with_dps(METHODS[0], update_ratio=0.2)  # stages of two steps in ten
    whole = trained(method, Lora(rank=2), load_tiny, separable)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        trained(method, Lora(rank=2), load_tiny, separable, on_step=die, checkpoint=Checkpoint(path, "k", seconds=0))
    rest = trained(method, Lora(rank=2), load_tiny, separable, checkpoint=Checkpoint(path, "k", seconds=0))
    assert all(whole[name].equal(rest[name]) for name in whole)


def with_dps(method: TrainingMethod, **fields: Any) -> TrainingMethod:
    return method.model_copy(update={"update": Dps(**fields)})


def trained(method: TrainingMethod, adapter: Adapter, load_tiny: Load, texts: Texts, **options: Any) -> Values:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    model = load_tiny(dropout=0.1)
    network = adapter.attach(model.network, head=head_names(model.network), seed=0)
    fit(network, method, *texts, pad_id=1, seed=0, bf16=False, **options)
    return adapter.extract(network)
