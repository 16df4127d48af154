from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Adapter, AnyAdapter, Full, Houlsby, Ia3, Lora, Oft, Pfeiffer, Prefix, Prompt
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
    "lora of every map of the last layer": Lora(
        rank=2, alpha=3.0, targets=["query", "key", "value", "output", "up", "down"], layers=1
    ),
    "rslora": Lora(variant="rslora", rank=4, alpha=6.0),
    "dora": Lora(variant="dora", rank=2, alpha=5.0),
    "oft": Oft(block_size=8),
    "oft of all three in one block": Oft(block_size=32, targets=["key", "value", "query"]),
    "ia3": Ia3(),
    "houlsby": Houlsby(reduction=4),
    "pfeiffer": Pfeiffer(reduction=8, activation="silu"),
    "prefix": Prefix(length=3),
    "prompt": Prompt(length=3),
}
INSERTED = {name: adapter for name, adapter in ADAPTERS.items() if not adapter.folds}
NO_START = {"prefix", "prompt"}  # whose untrained state changes answers already
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS.keys())
can_be_off = {name: adapter for name, adapter in ADAPTERS.items() if adapter.can_be_off}
with_layers = {name: adapter for name, adapter in ADAPTERS.items() if "layers" in type(adapter).model_fields}
each_that_can_be_off = pytest.mark.parametrize("adapter", can_be_off.values(), ids=can_be_off.keys())
each_with_layers = pytest.mark.parametrize("adapter", with_layers.values(), ids=with_layers.keys())
each_inserted = pytest.mark.parametrize("adapter", INSERTED.values(), ids=INSERTED.keys())


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

    with torch.no_grad():
        answer: Tensor = network(**inputs()).logits
    return answer


def inputs() -> dict[str, Tensor]:
    """Six texts of different lengths, padded on the right."""
    import torch

    ids = torch.randint(5, 105, (6, 11), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(11) < torch.tensor([11, 7, 9, 2, 11, 5])[:, None]).long()
    return {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}


def answers(network: Module, parameters: Mapping[str, Tensor]) -> Tensor:
    """Logits of the network with these parameters put in place of its own."""
    import torch
    from torch.func import functional_call

    with torch.no_grad():
        answer: Tensor = functional_call(network, dict(parameters), (), inputs()).logits
    return answer


def kind_of(adapter: Adapter) -> str:
    return str(adapter.model_dump()["kind"])


def test_every_kind_is_among_them() -> None:
    assert set(map(kind_of, ADAPTERS.values())) == set(kinds(AnyAdapter))
    assert set(map(kind_of, INSERTED.values())) > NO_START


@each_adapter
def test_attaching_changes_no_logit(adapter: Adapter, family: str, load_tiny: Load) -> None:
    import torch

    before = logits(load_tiny(family).network)
    after = logits(attached(adapter, load_tiny(family)).eval())
    if kind_of(adapter) in NO_START:
        assert (after - before).abs().max() > 0.001
    else:  # DoRA divides each row by its own length
        rounding = 1e-5 if adapter == ADAPTERS["dora"] else 0.0
        torch.testing.assert_close(after, before, rtol=rounding, atol=rounding)


@each_adapter
def test_folded_weights_answer_as_the_adapted_network(adapter: Adapter, family: str, load_tiny: Load) -> None:
    import torch

    from robusweep.mixture import folded as folded_member

    adapted = shaken(attached(adapter, load_tiny(family))).eval()
    host = adapter.host(load_tiny(family).network)
    base = dict(host.named_parameters())
    tensors = adapter.extract(adapted)
    folded = adapter.fold(base, tensors)
    answer = answers(host, folded)
    torch.testing.assert_close(answer, logits(adapted), rtol=1e-5, atol=1e-5)
    assert (answer - logits(load_tiny(family).network)).abs().max() > 0.01
    assert not any(value.requires_grad for value in folded.values())  # no graph back to the base
    member = adapter.member(base, tensors)
    assert ("factors" in adapter.spaces) == bool(member.factors)
    again = folded_member(member, base)
    assert again.keys() == folded.keys()
    assert all(value.allclose(folded[name], atol=1e-6) for name, value in again.items())


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


@each_that_can_be_off
def test_a_network_without_its_adapter_is_the_base_and_learns_on_afterwards(
    adapter: Adapter, family: str, load_tiny: Load
) -> None:
    import torch

    adapted: Any = shaken(attached(adapter, load_tiny(family))).eval()
    plain = load_tiny(family).network
    head = {name.removeprefix("base_model.model."): p for name, p in adapted.named_parameters()}
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in head:  # the head stays on, trained as it is
                parameter.copy_(head[name])
    learning, on = [name for name, p in adapted.named_parameters() if p.requires_grad], logits(adapted)
    copied = copy.deepcopy(adapted)
    with copied.disable_adapter():
        assert logits(copied).equal(logits(plain))
        assert logits(adapted).equal(on)
    with adapted.disable_adapter():
        assert logits(adapted).equal(logits(plain))
    assert logits(adapted).equal(on)
    assert logits(copied).equal(on)
    assert [name for name, p in adapted.named_parameters() if p.requires_grad] == learning


@each_adapter
def test_training_changes_the_answers_which_a_host_then_gives_and_nothing_else_moves(
    adapter: Adapter, family: str, load_tiny: Load, separable: tuple[list[list[int]], list[int]]
) -> None:
    import torch

    from robusweep.training import Standard
    from robusweep.training.loop import fit

    host = adapter.host(load_tiny(family).network)
    network = attached(adapter, replace(load_tiny(family), network=copy.deepcopy(host)))
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    before, start = copy.deepcopy(network.state_dict()), logits(network.eval())
    fit(network, Standard(n_epochs=1, learning_rate=0.01, batch_size=8), *separable, pad_id=1, seed=0, bf16=False)
    after = network.state_dict()
    assert {name for name in before if not before[name].equal(after[name])} <= learning
    if adapter != Full():
        assert len(learning) < len(before)
    trained = logits(network)
    assert (trained - start).abs().max() > 0.01
    base = dict(host.named_parameters())
    again = answers(host, adapter.fold(base, adapter.extract(network)))
    torch.testing.assert_close(again, trained, rtol=1e-5, atol=1e-5)


@each_adapter
def test_a_host_is_made_once_and_leaves_the_given_network_as_it_was(
    adapter: Adapter, family: str, load_tiny: Load
) -> None:
    model = load_tiny(family)
    network, before = model.network, {name: p.clone() for name, p in model.network.named_parameters()}
    host = adapter.host(network)
    assert adapter.host(host) is host
    assert (host is network) == adapter.folds
    own = dict(network.named_parameters())
    assert own.keys() == before.keys()
    assert all(value.equal(before[name]) for name, value in own.items())
    if adapter.folds:
        return
    on_plain = adapter.extract(attached(adapter, model))
    on_host = adapter.extract(attached(adapter, replace(model, network=copy.deepcopy(host))))
    assert on_plain.keys() == on_host.keys() <= dict(host.named_parameters()).keys()
    assert all(value.equal(on_host[name]) for name, value in on_plain.items())
    if kind_of(adapter) not in NO_START:
        assert logits(host).equal(logits(load_tiny(family).network))


@each_inserted
def test_only_the_modules_and_the_head_learn_and_the_rest_is_the_base_byte_for_byte(
    adapter: Adapter, family: str, load_tiny: Load
) -> None:
    from robusweep.model import head_names

    network = attached(adapter, load_tiny(family))
    plain = load_tiny(family).network
    head = head_names(plain)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    rest = [p for name, p in network.named_parameters() if name not in learning]
    frozen = [p for name, p in plain.named_parameters() if name not in head]
    assert set(head) < learning
    assert len(rest) == len(frozen)
    assert sorted(map(bytes_of, rest)) == sorted(map(bytes_of, frozen))


def bytes_of(parameter: Tensor) -> bytes:
    return parameter.detach().numpy().tobytes()


@each_inserted
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_answer_does_not_depend_on_padding_nor_on_how_attention_is_computed(
    adapter: Adapter, attention: str, family: str, load_tiny: Load
) -> None:
    import torch

    if attention == "sdpa" and family == "electra":
        pytest.skip("transformers has none")
    network: Any = shaken(attached(adapter, load_tiny(family, attention=attention))).eval()
    usual = shaken(attached(adapter, load_tiny(family))).eval()
    given, together = inputs(), logits(network)
    torch.testing.assert_close(together, logits(usual), rtol=1e-5, atol=1e-5)
    for i, length in enumerate(given["attention_mask"].sum(dim=1).tolist()):
        with torch.no_grad():
            alone = network(**{name: value[i : i + 1, :length] for name, value in given.items()}).logits
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


@each_inserted
def test_a_perturbation_of_a_modules_network_fits_every_space_and_has_a_gradient(
    adapter: Adapter, family: str, load_tiny: Load, make_step: Callable[..., Any]
) -> None:
    import torch

    step = make_step(shaken(attached(adapter, load_tiny(family))).eval())
    clean = step.logits()
    for space in ("word", "post_ln", "layer:1", "layer:2"):
        delta = torch.zeros(*step.ids.shape, step.hidden_size(space), requires_grad=True)
        logits_at = step.logits(delta, space=space)
        torch.testing.assert_close(logits_at, clean, rtol=1e-5, atol=1e-6)
        (slope,) = torch.autograd.grad(step.cross_entropy(logits_at), delta)
        assert slope.abs().max() > 0
        assert slope[~step.mask].abs().max() < 1e-8


@each_adapter
def test_members_can_be_mixed_for_each_text(adapter: Adapter, family: str, load_tiny: Load) -> None:
    """Weights of 1 and 0 give a member's own answers, and an adapter mixed with itself is that adapter."""
    import torch

    from robusweep.mixture import Blend

    host = adapter.host(load_tiny(family).network).eval()
    base = dict(host.named_parameters())
    found = [adapter.extract(attached(adapter, load_tiny(family), seed)) for seed in (1, 2)]
    rng = torch.Generator().manual_seed(4)
    found = [{n: v + 0.1 * torch.randn(v.shape, generator=rng) for n, v in tensors.items()} for tensors in found]
    each = [answers(host, adapter.fold(base, tensors)) for tensors in found]
    assert (each[0] - each[1]).abs().max() > 0.01
    a, b = (adapter.member(base, tensors) for tensors in found)
    with torch.no_grad():
        rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 3)
        expected = torch.stack([each[i % 2][i] for i in range(6)])
        torch.testing.assert_close(Blend(host, [a, b])(rows, **inputs()), expected, rtol=1e-4, atol=1e-4)
        itself = Blend(host, [a, a])(torch.full((6, 2), 0.5), **inputs())
    torch.testing.assert_close(itself, each[0], rtol=1e-4, atol=1e-4)


@each_inserted
def test_the_victim_of_a_host_answers_with_its_modules(adapter: Adapter, family: str, load_tiny: Load) -> None:
    import numpy as np
    import torch

    from robusweep.model import victim

    model = load_tiny(family)
    adapted = shaken(attached(adapter, load_tiny(family))).eval()
    hosting = replace(model, network=adapter.host(model.network))
    parameters = adapter.fold(dict(hosting.network.named_parameters()), adapter.extract(adapted))
    rows = [row[mask.bool()].numpy() for row, mask in zip(*inputs().values(), strict=True)]
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.2)):
        answered = victim(hosting, parameters, precision=precision).logits(rows)  # type: ignore[arg-type]
        torch.testing.assert_close(torch.from_numpy(answered), logits(adapted), rtol=tolerance, atol=tolerance)
    untrained = adapter.fold(
        dict(hosting.network.named_parameters()), adapter.extract(attached(adapter, load_tiny(family)))
    )
    assert not np.allclose(victim(hosting, untrained, precision="fp32").logits(rows), answered, atol=0.01)


@each_with_layers
def test_only_the_asked_layers_change(adapter: Adapter, family: str, load_tiny: Load) -> None:
    from robusweep.model import head_names

    def changed(adapter: Adapter) -> set[str]:
        found = adapter.extract(attached(adapter, load_tiny(family)))
        return set(found) - set(head_names(load_tiny(family).network))

    top, both, every = (changed(adapter.model_copy(update={"layers": layers})) for layers in (1, 2, None))
    assert both == every
    assert top == {name for name in every if ".layer.1." in name}
    assert len(top) == len(every) / 2


@each_with_layers
def test_more_layers_than_the_model_has_are_refused_with_their_number(
    adapter: Adapter, family: str, load_tiny: Load
) -> None:
    too_many, model = adapter.model_copy(update={"layers": 3}), load_tiny(family)
    before = [name for name, _ in model.network.named_parameters()]
    for put in (lambda: attached(too_many, model), lambda: too_many.host(model.network)):
        if adapter.folds and "host" in put.__code__.co_names:
            continue
        with pytest.raises(RecipeError, match=r"adapter\.layers: 3, but this model has 2 layers") as e:
            put()
        assert e.value.hint == "take 1 to 2, or null for all of them"
    assert [name for name, _ in model.network.named_parameters()] == before


@each_inserted
def test_a_network_without_such_layers_is_refused(adapter: Adapter) -> None:
    import torch

    network = torch.nn.ModuleDict({"query": torch.nn.Linear(4, 4)})
    for put in (adapter.host, lambda network: adapter.attach(network, head=[], seed=0)):
        with pytest.raises(RecipeError, match=rf"adapter.kind: {kind_of(adapter)} can't .* layers of ModuleDict"):
            put(network)


def test_every_map_of_a_layer_has_its_role(family: str, load_tiny: Load) -> None:
    from robusweep.adapters.targets import ROLES, target_names

    network = load_tiny(family).network
    every = [name for role in ROLES for name in target_names(network, [role])]
    assert len(every) == len(set(every)) == 2 * 6
    assert set(every) == {n for n, m in network.named_modules() if ".layer." in n and type(m).__name__ == "Linear"}
    output, down = ("attention.output.dense", "1.output.dense")
    if family == "distilbert":
        output, down = "attention.out_lin", "1.ffn.lin2"
    assert target_names(network, ["output"], 1)[0].endswith(output)
    assert target_names(network, ["down"], 1)[0].endswith(down)


def test_a_bottleneck_adds_what_its_formula_says_where_it_stands(load_tiny: Load) -> None:
    import torch
    from torch.nn import functional as F

    adapted: Any = shaken(attached(Houlsby(reduction=8, activation="relu", layers=1), load_tiny()))
    part = adapted.bert.encoder.layer[1].attention.output.dense
    assert part.down.out_features == 32 // 8
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    before = part.linear(x)
    expected = before + F.relu(before @ part.down.weight.T + part.down.bias) @ part.up.weight.T + part.up.bias
    torch.testing.assert_close(part(x), expected)
    lower = adapted.bert.encoder.layer[0]
    assert isinstance(lower.attention.output.dense, torch.nn.Linear)
    assert attached(Houlsby(reduction=100), load_tiny()).bert.encoder.layer[0].output.dense.down.out_features == 1  # type: ignore[union-attr, operator, index]


def test_a_prefix_of_one_row_is_one_more_key_and_value(load_tiny: Load) -> None:
    """Attention of the first layer, written out."""
    import torch

    adapted: Any = shaken(attached(Prefix(length=1), load_tiny())).eval()
    attention = adapted.bert.encoder.layer[0].attention.self
    inner, x = attention.attention, torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = attention(x, attention_mask=torch.zeros(1, 1, 4, 4))[0]
        key = torch.cat([inner.key.prefix.rows, inner.key.linear(x[0])])
        value = torch.cat([inner.value.prefix.rows, inner.value.linear(x[0])])
        q, k, v = (t.view(-1, 4, 8).transpose(0, 1) for t in (inner.query(x[0]), key, value))
        expected = (q @ k.mT / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(found[0], expected.transpose(0, 1).reshape(4, 32), rtol=1e-5, atol=1e-5)


def test_a_prompt_is_more_tokens_behind_the_embeddings(load_tiny: Load) -> None:
    """The encoder of the plain model, given the prompt and the embedded text in one sequence, says the same."""
    import torch

    adapted: Any = shaken(attached(Prompt(length=3), load_tiny())).eval()
    plain: Any = load_tiny().network.eval()
    ids = inputs()["input_ids"][:1]
    with torch.no_grad():
        plain.classifier.weight.copy_(adapted.classifier.weight)
        plain.classifier.bias.copy_(adapted.classifier.bias)
        rows = adapted.bert.encoder.layer[0].prompt.rows
        text = plain.bert.embeddings(input_ids=ids)
        states = plain.bert.encoder(torch.cat([text[:, :1], rows[None], text[:, 1:]], dim=1))[0]
        expected = plain.classifier(plain.bert.pooler(states))
        found = adapted(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "ia3", "oft"])
def test_folding_is_what_peft_merges(name: str, family: str, load_tiny: Load) -> None:
    import torch

    adapter = ADAPTERS[name]
    adapted: Any = shaken(attached(adapter, load_tiny(family)))
    folded = adapter.fold(dict(load_tiny(family).network.named_parameters()), adapter.extract(adapted))
    merged = dict(adapted.merge_and_unload().named_parameters())
    assert len(folded) >= 6
    for key, value in folded.items():
        torch.testing.assert_close(value, merged[key], rtol=1e-6, atol=1e-6)


def test_rslora_divides_alpha_by_the_root_of_the_rank() -> None:
    assert Lora(rank=4, alpha=6.0).scale == 1.5
    assert Lora(variant="rslora", rank=4, alpha=6.0).scale == 3.0
    assert Lora(variant="dora").spaces == ("delta",)
    assert Lora(variant="rslora").spaces == ("delta", "factors")


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_passes_that_only_search_answer_as_the_adapted_network(
    variant: str, load_tiny: Load, make_step: Callable[..., Any]
) -> None:
    """LoRA and rsLoRA are folded for them; DoRA, which is no sum, is left alone."""
    import torch

    adapter = Lora(variant=variant, rank=4, alpha=6.0)  # type: ignore[arg-type]
    network = shaken(attached(adapter, load_tiny())).eval()
    step = make_step(network)
    expected = step.logits()
    with step.searching():
        torch.testing.assert_close(step.logits(), expected, rtol=1e-5, atol=1e-5)
        n_folded = sum("forward" in vars(module) for module in network.modules())
    assert n_folded == (0 if variant == "dora" else 4)


@each_that_can_be_off
def test_a_regulariser_that_looks_at_the_base_trains_with_it(
    adapter: Adapter, load_tiny: Load, separable: tuple[list[list[int]], list[int]]
) -> None:
    from robusweep.training import Pgd, Radius
    from robusweep.training.loop import fit
    from robusweep.training.regularisers import SelfRegularisation

    method = Pgd(
        radius=Radius(value=0.1), n_steps=1, n_epochs=1, batch_size=20, regularisers=[SelfRegularisation(weight=1.0)]
    )
    network = attached(adapter, load_tiny())
    for bf16 in (False, True):
        fitted = fit(network, method, *separable, pad_id=1, seed=0, bf16=bf16)
        assert fitted.n_steps == 2


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
