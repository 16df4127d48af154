from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Adapter, AnyAdapter, Full, Lora, Oft
from robusweep.catalogue import kinds
from robusweep.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.model import TextModel

Load = Callable[..., Any]
ADAPTERS: dict[str, Adapter] = {
    "full": Full(),
    "lora": Lora(rank=2, alpha=5.0),
    "lora of keys": Lora(rank=4, alpha=4.0, targets=["key"]),
    "lora of all three": Lora(rank=1, alpha=8.0, targets=["value", "key", "query"]),
    "oft": Oft(block_size=8),
    "oft of all three in one block": Oft(block_size=32, targets=["key", "value", "query"]),
}
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS.keys())


def attached(adapter: Adapter, model: TextModel, seed: int = 0) -> Module:
    from robusweep.model import head_names

    return adapter.attach(model.network, head=head_names(model.network), seed=seed)


def shaken(network: Module) -> Module:
    """The network with noise on all that learns, as training would leave it."""
    import torch

    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return network


def logits(network: Module) -> Tensor:
    import torch

    ids = torch.randint(5, 105, (6, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answer: Tensor = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return answer


def test_every_kind_is_among_them() -> None:
    assert {adapter.kind for adapter in ADAPTERS.values()} == set(kinds(AnyAdapter))  # type: ignore[attr-defined]


@each_adapter
def test_attaching_changes_no_logit(adapter: Adapter, family: str, load_tiny: Load) -> None:
    before = logits(load_tiny(family).network)
    assert logits(attached(adapter, load_tiny(family)).eval()).equal(before)


@each_adapter
def test_folded_weights_answer_as_the_adapted_network(adapter: Adapter, family: str, load_tiny: Load) -> None:
    import torch
    from torch.func import functional_call

    adapted = shaken(attached(adapter, load_tiny(family))).eval()
    plain = load_tiny(family).network
    folded = adapter.fold(dict(plain.named_parameters()), adapter.extract(adapted))
    ids = torch.randint(5, 105, (6, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answer = functional_call(plain, folded, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    torch.testing.assert_close(answer, logits(adapted), rtol=1e-5, atol=1e-5)
    assert (answer - logits(plain)).abs().max() > 0.01
    assert not any(value.requires_grad for value in folded.values())  # no graph back to the base


@each_adapter
def test_extracted_tensors_are_copies_that_hold_the_head(adapter: Adapter, load_tiny: Load) -> None:
    import torch

    adapted = shaken(attached(adapter, load_tiny()))
    tensors = adapter.extract(adapted)
    kept = {name: value.clone() for name, value in tensors.items()}
    shaken(adapted)
    assert {"classifier.weight", "classifier.bias"} <= tensors.keys()
    assert all(value.equal(kept[name]) for name, value in tensors.items())
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in tensors.values())
    assert adapter.n_parameters(tensors) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@each_adapter
def test_what_learns_does_not_depend_on_the_global_random_state_nor_change_it(
    adapter: Adapter, load_tiny: Load
) -> None:
    import torch

    found = []
    for state in (5, 6):
        model = load_tiny()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            found.append(adapter.extract(attached(adapter, model)))
            assert torch.get_rng_state().equal(before)
    assert all(found[0][name].equal(found[1][name]) for name in found[0])


@pytest.mark.parametrize("adapter", [Lora(rank=2), Oft(block_size=8)], ids=["lora", "oft"])
def test_a_network_without_its_adapter_is_the_base_and_learns_on_afterwards(
    adapter: Adapter, family: str, load_tiny: Load
) -> None:
    import torch

    adapted = shaken(attached(adapter, load_tiny(family))).eval()
    plain = load_tiny(family).network
    head = {name.removeprefix("base_model.model."): p for name, p in adapted.named_parameters()}
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in head:  # the head stays on, trained as it is
                parameter.copy_(head[name])
    learning = [name for name, p in adapted.named_parameters() if p.requires_grad]
    with adapted.disable_adapter():  # type: ignore[operator]
        assert logits(adapted).equal(logits(plain))
    assert [name for name, p in adapted.named_parameters() if p.requires_grad] == learning


def test_oft_rotates_and_starts_at_the_identity() -> None:
    import torch

    from robusweep.adapters.oft import rotations

    entries = torch.randn(6, 16 * 15 // 2, generator=torch.Generator().manual_seed(0))
    turned = rotations(entries, 16)
    assert (turned.mT @ turned - torch.eye(16)).abs().max() < 1e-5
    torch.testing.assert_close(torch.linalg.det(turned), torch.ones(6), rtol=0, atol=1e-5)
    assert rotations(0 * entries, 16).equal(torch.eye(16).expand(6, 16, 16))
    assert (turned - torch.eye(16)).abs().amax(dim=(1, 2)).min() > 0.5


def test_oft_folds_as_peft_merges_and_keeps_the_angles_between_rows(load_tiny: Load) -> None:
    import torch

    adapter = Oft(block_size=8, targets=["query"])
    adapted: Any = shaken(attached(adapter, load_tiny()))
    base = dict(load_tiny().network.named_parameters())
    folded = adapter.fold(base, adapter.extract(adapted))
    merged = dict(adapted.merge_and_unload().named_parameters())
    names = [name for name in folded if name.endswith("query.weight")]
    assert len(names) == 2
    for name in names:
        torch.testing.assert_close(folded[name], merged[name], rtol=1e-5, atol=1e-6)
        gram, before = folded[name] @ folded[name].T, (base[name] @ base[name].T).detach()
        torch.testing.assert_close(gram, before, rtol=1e-4, atol=1e-5)
        assert not folded[name].allclose(base[name], atol=0.01)
        assert folded[name][:, :8].norm(dim=1).allclose(base[name][:, :8].norm(dim=1))  # blocks don't mix


def test_an_oft_block_that_does_not_divide_the_width_is_refused_with_those_that_do(load_tiny: Load) -> None:
    model = load_tiny()
    before = [name for name, _ in model.network.named_parameters()]
    with pytest.raises(RecipeError, match=r"adapter.block_size: 12 does not divide the 32 inputs of .* query map") as e:
        attached(Oft(block_size=12), model)
    assert e.value.hint == "take one of 2, 4, 8, 16, 32"
    assert [name for name, _ in model.network.named_parameters()] == before


def test_only_lora_and_head_learn(family: str, load_tiny: Load) -> None:
    from robusweep.model import head_names

    model = load_tiny(family)
    head = head_names(model.network)
    adapted = attached(Lora(rank=2), model)
    learning = {name.removeprefix("base_model.model.") for name, p in adapted.named_parameters() if p.requires_grad}
    assert set(head) <= learning
    assert len(head) >= 2
    low_rank = {name for name in learning if ".lora_A." in name or ".lora_B." in name}
    assert learning == low_rank | set(head)
    assert len(low_rank) == 2 * 2 * 2  # layers, roles, factors


def test_initial_weights_depend_on_the_seed_alone(load_tiny: Load) -> None:
    import torch

    def drawn(seed: int, state: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            tensors = Lora(rank=2).extract(attached(Lora(rank=2), load_tiny(), seed))
            assert torch.initial_seed() == state
            return tensors

    one, same, other = drawn(1, state=5), drawn(1, state=6), drawn(2, state=5)
    assert all(one[name].equal(same[name]) for name in one)
    factors = [name for name in one if name.endswith("lora_A")]
    assert factors
    assert not any(one[name].equal(other[name]) for name in factors)


def test_full_adapter_round_trip_is_exact(load_tiny: Load) -> None:
    adapted = shaken(attached(Full(), load_tiny()))
    trained = dict(adapted.named_parameters())
    folded = Full().fold(dict(load_tiny().network.named_parameters()), Full().extract(adapted))
    assert folded.keys() == trained.keys()
    assert all(value.equal(trained[name]) for name, value in folded.items())


def test_a_model_without_such_maps_is_refused_with_the_maps_it_has() -> None:
    import torch

    network = torch.nn.ModuleDict({"qkv_fused": torch.nn.Linear(4, 12), "value": torch.nn.Linear(4, 4)})
    with pytest.raises(RecipeError, match=r"no linear map for query \(its linear maps: qkv_fused, value\)") as e:
        Lora(rank=2).attach(network, head=[], seed=0)
    assert e.value.hint is not None
    assert "{kind: full}" in e.value.hint
    with pytest.raises(RecipeError, match="no linear map for key, query"):
        Lora(rank=2, targets=["key", "query"]).attach(network, head=[], seed=0)
