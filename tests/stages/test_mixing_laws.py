from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Lora
from robusweep.mixing import Fixed, Mixer, TrainedSet
from robusweep.mixing.adpmixup import AdpMixup

if TYPE_CHECKING:
    from torch import Tensor

Load = Callable[..., Any]
Tensors = dict[str, "Tensor"]
LORA = Lora(rank=2, alpha=5.0)
WEIGHTS = [0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0]


def drawn(base: Mapping[str, Tensor], seed: int) -> Tensors:
    """Tensors of a trained adapter, at random, in the base's precision."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, value in base.items():
        if name.endswith(("query.weight", "value.weight")):
            out, into = value.shape
            stem = name.removesuffix(".weight")
            tensors[f"{stem}.lora_A"] = torch.randn(2, into, generator=rng).to(value)
            tensors[f"{stem}.lora_B"] = torch.randn(out, 2, generator=rng).to(value)
        elif name.startswith("classifier."):
            tensors[name] = torch.randn(value.shape, generator=rng).to(value)
    return tensors


@pytest.fixture
def base(load_tiny: Load) -> Tensors:
    return {name: value.detach() for name, value in load_tiny().network.named_parameters()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def mixed(mixer: Mixer, members: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The weights that folded adapters become."""
    ranges = [(0.0, 1.0)] * len(members)
    system = mixer.mix(TrainedSet([f"a{i}" for i in range(len(members))], {}, members, [], ranges))
    assert isinstance(system, Fixed)
    return system.parameters


def test_weight_zero_is_the_clean_adapter_and_weight_one_the_adversarial_bit_for_bit(base: Tensors) -> None:
    clean, adversarial = (LORA.fold(base, drawn(base, seed)) for seed in (1, 2))
    assert equal(mixed(AdpMixup(weight=0.0), [clean, adversarial]), clean)
    assert equal(mixed(AdpMixup(weight=1.0), [clean, adversarial]), adversarial)
    assert not equal(clean, adversarial)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("n_adversarial", [1, 2, 3])
def test_mixing_an_adapter_with_itself_is_that_adapter_bit_for_bit(
    weight: float, n_adversarial: int, base: Tensors
) -> None:
    clean = LORA.fold(base, drawn(base, 1))
    assert equal(mixed(AdpMixup(weight=weight), [clean] * (1 + n_adversarial)), clean)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_mix_is_the_base_plus_the_convex_combination_of_updates(
    weight: float, dtype: str, tolerance: float, base: Tensors
) -> None:
    import torch

    base = {name: value.to(getattr(torch, dtype)) for name, value in base.items()}
    clean, first, second = (drawn(base, seed) for seed in (1, 2, 3))
    mix = mixed(AdpMixup(weight=weight), [LORA.fold(base, tensors) for tensors in (clean, first, second)])
    shares = [(clean, 1 - weight), (first, weight / 2), (second, weight / 2)]
    assert len(mix) == 2 * 2 + 2  # layers, roles, and the head
    for name, value in mix.items():
        if name.startswith("classifier."):
            expected = sum(share * tensors[name] for tensors, share in shares)
        else:
            stem = name.removesuffix(".weight")
            update = sum(share * tensors[f"{stem}.lora_B"] @ tensors[f"{stem}.lora_A"] for tensors, share in shares)
            expected = base[name] + 2.5 * update
        assert (value - expected).norm() <= tolerance * expected.norm()


def test_the_mix_does_not_change_its_members(base: Tensors) -> None:
    members = [LORA.fold(base, drawn(base, seed)) for seed in (1, 2)]
    before = [{name: value.clone() for name, value in member.items()} for member in members]
    for weight in WEIGHTS:
        for value in mixed(AdpMixup(weight=weight), members).values():
            value.zero_()
    assert all(equal(*pair) for pair in zip(members, before, strict=True))


def test_the_order_of_adversarial_members_does_not_matter(base: Tensors) -> None:
    import torch

    clean, *others = (LORA.fold(base, drawn(base, seed)) for seed in (1, 2, 3, 4))
    mixer = AdpMixup(weight=0.6)
    one, other = mixed(mixer, [clean, *others]), mixed(mixer, [clean, *reversed(others)])
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)
    swapped = mixed(mixer, [others[0], clean, *others[1:]])
    assert not torch.allclose(swapped["classifier.weight"], one["classifier.weight"])


def test_one_members_head_counts_inside_but_not_at_the_other_end(base: Tensors) -> None:
    clean, adversarial = (LORA.fold(base, drawn(base, seed)) for seed in (1, 2))
    altered = adversarial | {"classifier.bias": adversarial["classifier.bias"] + 1}
    for weight, same in ((0.0, True), (0.5, False), (1.0, False)):
        mixer = AdpMixup(weight=weight)
        assert equal(mixed(mixer, [clean, adversarial]), mixed(mixer, [clean, altered])) is same


@pytest.mark.parametrize(
    "weights", [[0.5, 0.6], [-0.1, 1.1], [0.5], [0.2, 0.3, 0.5], [float("nan"), 0.5], [float("nan"), float("nan")]]
)
def test_weights_off_the_simplex_are_refused(weights: list[float], base: Tensors) -> None:
    from robusweep.mixing.convex import convex

    with pytest.raises(ValueError, match="weights"):
        convex([base, base], weights)


def test_members_with_other_parameters_are_refused(base: Tensors) -> None:
    clean = LORA.fold(base, drawn(base, 1))
    fewer = {name: value for name, value in clean.items() if name != "classifier.bias"}
    reshaped = clean | {"classifier.bias": clean["classifier.bias"][:1]}  # would broadcast
    for other in (fewer, reshaped):
        for weight in (0.0, 0.5):
            with pytest.raises(ValueError, match="same parameters"):
                mixed(AdpMixup(weight=weight), [clean, other])


def test_peft_linear_combination_is_not_the_convex_one(load_tiny: Load) -> None:
    """PEFT weights A and B each by the root of the weight, which adds cross terms: self-mixing doubles the update."""
    import torch
    from peft import LoraConfig, get_peft_model

    network = get_peft_model(load_tiny().network, LoraConfig(r=2, lora_alpha=5.0, target_modules=["query"]), "clean")
    network.add_adapter("adversarial", LoraConfig(r=2, lora_alpha=5.0, target_modules=["query"]))
    layer = network.get_base_model().bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        for name in ("clean", "adversarial"):
            for factor in (layer.lora_A, layer.lora_B):
                factor[name].weight.copy_(torch.randn(factor[name].weight.shape))
    network.add_weighted_adapter(["clean", "adversarial"], [0.5, 0.5], "linear", combination_type="linear")
    network.add_weighted_adapter(["clean", "clean"], [0.5, 0.5], "self", combination_type="linear")
    stem = "bert.encoder.layer.0.attention.self.query"
    start = {f"{stem}.weight": torch.zeros(32, 32)}
    members = [
        LORA.fold(start, {f"{stem}.lora_A": layer.lora_A[n].weight, f"{stem}.lora_B": layer.lora_B[n].weight})
        for n in ("clean", "adversarial")
    ]
    ours = mixed(AdpMixup(weight=0.5), members)[f"{stem}.weight"]
    exact = 0.5 * layer.get_delta_weight("clean") + 0.5 * layer.get_delta_weight("adversarial")
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)
    assert (layer.get_delta_weight("linear") - exact).norm() > 0.2 * exact.norm()
    torch.testing.assert_close(layer.get_delta_weight("self"), 2 * layer.get_delta_weight("clean"))
