"""The mixers, on parameters drawn at random: what they promise, and what the baselines among them do not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from robusweep.adapters import Adapter, AnyAdapter, Lora
from robusweep.catalogue import kinds
from robusweep.errors import RecipeError
from robusweep.mixing import AnyMixer, Emulated, Fixed, Mixer, OfLogits, PerText, TrainedSet
from robusweep.mixing.adpmixup import GRID, AdpMixup
from robusweep.mixing.base import System
from robusweep.mixing.dare import Dare
from robusweep.mixing.logits import Logits
from robusweep.mixing.ties import Ties
from robusweep.mixing.uniform import Uniform
from robusweep.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
LORA = Lora(rank=2, alpha=3.0)
MAP, HEAD = "encoder.query", "classifier.weight"


def drawn(n: int, *, seed: int = 0) -> TrainedSet:
    """``n`` LoRA adapters of one map of width 6, each with a head, at random in float64."""
    import torch

    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    base = {f"{MAP}.weight": normal(6, 6), HEAD: normal(2, 6)}
    tensors = [{f"{MAP}.lora_A": normal(2, 6), f"{MAP}.lora_B": normal(6, 2), HEAD: normal(2, 6)} for _ in range(n)]
    return TrainedSet(
        names=["train", *(f"adversarial.{i}" for i in range(n - 1))],
        base=base,
        folded=[LORA.fold(base, t) for t in tensors],
        members=[LORA.member(base, t) for t in tensors],
        ranges=[(0.1 * i, 0.5 + 0.1 * i) for i in range(n)],
    )


def put(adapters: TrainedSet, *places: int) -> TrainedSet:
    """A set of these members, which may repeat."""
    from dataclasses import replace

    parts = ("names", "folded", "members", "ranges")
    return replace(adapters, **{part: [getattr(adapters, part)[i] for i in places] for part in parts})


def parameters(system: System) -> Tensors:
    assert isinstance(system, Fixed)
    return system.parameters


def furthest(one: Tensors, other: Tensors) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def combined(adapters: TrainedSet, weights: Sequence[float]) -> Tensors:
    """The convex combination, written out."""
    import torch

    stacked = {name: torch.stack([member[name] for member in adapters.folded]) for name in adapters.folded[0]}
    return {n: torch.einsum("a,aij->ij", torch.tensor(weights, dtype=v.dtype), v) for n, v in stacked.items()}


MIXERS: list[dict[str, Any]] = [
    {"kind": "adpmixup"},
    {"kind": "adpmixup", "space": "factors"},
    {"kind": "adpmixup", "weighting": "entropy_ratio"},
    {"kind": "uniform"},
    {"kind": "ties"},
    {"kind": "dare"},
    {"kind": "logits"},
    {"kind": "emulated", "large": "x"},
]


def built(fields: Mapping[str, Any]) -> Mixer:
    mixer: Mixer = TypeAdapter(AnyMixer).validate_python(fields)
    return mixer


def test_every_mixer_is_among_them() -> None:
    assert {fields["kind"] for fields in MIXERS} == set(kinds(AnyMixer))


@pytest.mark.parametrize("fields", MIXERS, ids=str)
def test_a_mixer_changes_neither_its_adapters_nor_the_base_and_gives_the_same_twice(fields: dict[str, Any]) -> None:
    adapters, untouched = drawn(2), drawn(2)
    one, other = built(fields).mix(adapters), built(fields).mix(adapters)
    assert type(one) is type(other)
    if isinstance(one, Fixed):
        assert equal(one.parameters, parameters(other))
        assert one.parameters.keys() == adapters.folded[0].keys()
        for value in one.parameters.values():
            value.zero_()  # what comes out shares nothing with what went in
    assert equal(adapters.base, untouched.base)
    for mine, before in zip(adapters.folded, untouched.folded, strict=True):
        assert equal(mine, before)


# --------------------------------------------------------------------------------------------------------- uniform
@pytest.mark.parametrize("n", [2, 3, 5])
def test_uniform_is_the_mean_of_all_adapters(n: int) -> None:
    adapters = drawn(n)
    assert furthest(parameters(Uniform().mix(adapters)), combined(adapters, [1 / n] * n)) < 1e-12
    alike = parameters(Uniform().mix(put(adapters, *[1] * n)))
    assert equal(alike, adapters.folded[1])


def test_uniform_is_adpmixup_with_the_share_of_the_adversarial_ones() -> None:
    adapters = drawn(4)
    assert furthest(parameters(Uniform().mix(adapters)), parameters(AdpMixup(weight=0.75).mix(adapters))) < 1e-12


# -------------------------------------------------------------------------------------------------------- adpmixup
@pytest.mark.parametrize("space", ["delta", "factors"])
@pytest.mark.parametrize("alpha", [3.0, 0.7, 16.0])
def test_an_end_is_that_adapter_bit_for_bit_in_each_space(space: Any, alpha: float) -> None:
    from dataclasses import replace

    adapters = drawn(2)
    scaled = Lora(rank=2, alpha=alpha)
    tensors = [{f"{MAP}.lora_A": m.factors[MAP].down, f"{MAP}.lora_B": m.factors[MAP].up} for m in adapters.members]
    adapters = replace(
        adapters,
        folded=[scaled.fold(adapters.base, t) for t in tensors],
        members=[scaled.member(adapters.base, t) for t in tensors],
    )
    for weight, i in ((0.0, 0), (1.0, 1)):
        assert equal(parameters(AdpMixup(weight=weight, space=space).mix(adapters)), adapters.folded[i])


def test_factors_mixed_by_hand_are_the_base_plus_the_product_of_the_mixed_factors() -> None:
    adapters = drawn(3)
    mix, shares = parameters(AdpMixup(weight=0.6, space="factors").mix(adapters)), [0.4, 0.3, 0.3]
    factors = [m.factors[MAP] for m in adapters.members]
    up = sum(w * f.up for w, f in zip(shares, factors, strict=True))
    down = sum(w * f.down for w, f in zip(shares, factors, strict=True))
    expected = {f"{MAP}.weight": adapters.base[f"{MAP}.weight"] + up @ down, HEAD: combined(adapters, shares)[HEAD]}
    assert furthest(mix, expected) < 1e-12
    assert furthest(mix, parameters(AdpMixup(weight=0.6).mix(adapters))) > 0.1, "cross terms"
    alone = parameters(AdpMixup(weight=0.6, space="factors").mix(put(adapters, 1, 1, 1)))
    assert furthest(alone, adapters.folded[1]) < 1e-12


def test_weights_of_each_text_are_left_to_the_rule_with_its_keys() -> None:
    adapters = drawn(3)
    for rule, keys in {
        "entropy_ratio": {},
        "entropy_minmax": {"ranges": [[0.0, 0.5], [0.1, 0.6], [0.2, 0.7]]},
        "entropy_softmax": {"sharpness": 2.0},
        "emea": {"n_steps": 5, "step_size": 1.0},
    }.items():
        system = built({"kind": "adpmixup", "weighting": rule, "sharpness": 2.0, "n_steps": 5}).mix(adapters)
        assert isinstance(system, PerText)
        assert (system.rule, system.factored, len(system.adapters.names)) == (rule, False, 3)
        assert json.loads(json.dumps(system.keys)) == pytest.approx(keys) if rule != "entropy_minmax" else True
    minmax = built({"kind": "adpmixup", "weighting": "entropy_minmax", "leave_out": 0, "space": "factors"})
    system = minmax.mix(adapters)
    assert isinstance(system, PerText)
    assert system.keys["ranges"] == [pytest.approx([0.0, 0.5]), pytest.approx([0.2, 0.7])]
    assert system.factored


# -------------------------------------------------------------------------------------------------- grid_validation
def asked(adapters: TrainedSet, table: Mapping[float, tuple[float, float]]) -> TrainedSet:
    """The set with known accuracies (clean, attacked) of each weight of the grid."""
    from dataclasses import replace

    def accuracies(given: Tensors) -> tuple[float, float]:
        (found,) = [w for w in GRID if furthest(given, combined(adapters, [1 - w, w])) < 1e-9]
        return table[found]

    return replace(adapters, accuracies=accuracies)


@pytest.mark.parametrize(("clean_share", "best"), [(1.0, 0.1), (0.0, 0.9), (0.5, 0.4), (0.4, 0.4)])
def test_grid_validation_takes_the_best_weight_of_the_table(clean_share: float, best: float) -> None:
    table = dict.fromkeys(GRID, (0.5, 0.5)) | {0.1: (0.9, 0.1), 0.4: (0.8, 0.8), 0.9: (0.1, 0.95)}
    adapters = asked(drawn(2), table)
    system = AdpMixup(weighting="grid_validation", clean_share=clean_share).mix(adapters)
    assert isinstance(system, Fixed)
    assert system.chosen_weight == best
    assert equal(system.parameters, parameters(AdpMixup(weight=best).mix(adapters)))


@pytest.mark.parametrize("ties", [(0.3, 0.7), (0.0, 1.0), (0.2, 0.3, 0.4), GRID])
def test_at_a_tie_grid_validation_takes_the_weight_nearest_to_the_clean_adapter(ties: tuple[float, ...]) -> None:
    adapters = asked(drawn(2), dict.fromkeys(GRID, (0.5, 0.5)) | dict.fromkeys(ties, (0.75, 0.5)))
    system = AdpMixup(weighting="grid_validation").mix(adapters)
    assert isinstance(system, Fixed)
    assert system.chosen_weight == min(ties)


def test_grid_validation_asks_about_what_takes_part_alone() -> None:
    from dataclasses import replace

    adapters, seen = drawn(3), []

    def accuracies(given: Tensors) -> tuple[float, float]:
        seen.append(given)
        return len(seen) / 11, 0.0

    mixer = AdpMixup(weighting="grid_validation", leave_out=0)
    system = mixer.mix(replace(adapters, accuracies=accuracies))
    assert len(seen) == len(GRID)
    assert equal(parameters(system), adapters.folded[2])


# ----------------------------------------------------------------------------------------------------------- ties
def changes(adapters: TrainedSet, system: System) -> Tensors:
    return {name: value - adapters.base[name] for name, value in parameters(system).items()}


def test_ties_of_one_adapter_with_all_its_changes_is_that_adapter() -> None:
    adapters = put(drawn(2), 1, 1)
    assert furthest(parameters(Ties(density=1.0).mix(adapters)), adapters.folded[0]) < 1e-12


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_ties_below_full_density_reproduces_not_even_an_adapter_mixed_with_itself(density: float) -> None:
    """It is a baseline: an adapter with itself loses exactly what was trimmed."""
    adapters = put(drawn(2), 1, 1)
    mix = Ties(density=density).mix(adapters)
    assert furthest(parameters(mix), adapters.folded[0]) > 1e-3
    for name, change in changes(adapters, mix).items():
        whole = adapters.folded[0][name] - adapters.base[name]
        kept = change.abs() > 1e-9
        assert int(kept.sum()) == max(1, round(density * whole.numel()))
        assert (change - whole)[kept].abs().max() < 1e-12
        assert whole[kept].abs().min() >= whole[~kept].abs().max()


def test_ties_with_members_of_equal_signs_and_all_changes_is_their_mean() -> None:
    import torch

    from robusweep.mixing.ties import merged

    adapters = drawn(3)
    rng = torch.Generator().manual_seed(3)
    size = {name: torch.rand(value.shape, generator=rng) + 0.1 for name, value in adapters.base.items()}
    signs = {name: value.sign() for name, value in adapters.base.items()}
    members = [{n: v + (i + 1) * signs[n] * size[n] for n, v in adapters.base.items()} for i in range(3)]
    found = merged(adapters.base, members, density=1.0, scale=1.0)
    assert furthest(found, {n: v + 2 * signs[n] * size[n] for n, v in adapters.base.items()}) < 1e-12
    assert furthest(merged(adapters.base, members, density=1.0, scale=0.5), found) > 0.05


def test_ties_elects_the_sign_with_the_larger_sum_and_averages_those_that_agree() -> None:
    import torch

    from robusweep.mixing.ties import merged

    base = {"w": torch.tensor([10.0, 10.0, 10.0, 10.0, 10.0])}
    rows = [[3.0, -1.0, 2.0, 0.0, 1.0], [-1.0, -2.0, 4.0, 0.0, -1.0], [-1.0, 5.0, 0.0, 0.0, 0.0]]
    members = [{"w": base["w"] + torch.tensor(row)} for row in rows]
    found = merged(base, members, density=1.0, scale=1.0)["w"] - 10.0
    # 3 against two of -1; 5 against -3; the mean of 2 and 4 without the 0; nothing; 1 against -1 elects none
    torch.testing.assert_close(found, torch.tensor([3.0, 5.0, 3.0, 0.0, 0.0]))
    scaled = merged(base, members, density=1.0, scale=2.0)["w"] - 10.0
    torch.testing.assert_close(scaled, 2 * found)


def test_ties_does_not_depend_on_the_order_of_adapters_and_knows_no_clean_one() -> None:
    adapters = drawn(3)
    one, other = (parameters(Ties(density=0.7).mix(put(adapters, *order))) for order in ((0, 1, 2), (2, 0, 1)))
    assert furthest(one, other) < 1e-12


# ----------------------------------------------------------------------------------------------------------- dare
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_dare_with_all_changes_is_the_convex_combination(weight: float) -> None:
    adapters = drawn(3)
    mix = parameters(Dare(weight=weight, density=1.0).mix(adapters))
    assert furthest(mix, combined(adapters, [1 - weight, weight / 2, weight / 2])) < 1e-12


def test_dare_is_the_convex_combination_in_the_mean_over_draws() -> None:
    import torch

    adapters, n = drawn(2), 600
    exact = combined(adapters, [0.6, 0.4])
    draws = [parameters(Dare(weight=0.4, density=0.5, seed=seed).mix(adapters)) for seed in range(n)]
    for name, value in exact.items():
        found = torch.stack([draw[name] for draw in draws])
        error, spread = found.mean(0) - value, found.std(0) / n**0.5
        assert spread.min() > 0
        assert (error / spread).abs().max() < 4.5
        assert error.abs().max() < 0.25 * (found[0] - value).abs().max()
    few = torch.stack([draw[HEAD] for draw in draws[:40]]).mean(0)
    many = torch.stack([draw[HEAD] for draw in draws]).mean(0)
    assert (many - exact[HEAD]).norm() < (few - exact[HEAD]).norm()


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_one_draw_of_dare_misses_its_ends_and_keeps_its_share_of_changes_rescaled(density: float) -> None:
    adapters = drawn(2)
    for weight, i in ((0.0, 0), (1.0, 1)):
        mix = Dare(weight=weight, density=density).mix(adapters)
        assert furthest(parameters(mix), adapters.folded[i]) > 1e-3
        found, n_kept = changes(adapters, mix), 0
        for name, change in found.items():
            ratio = change / (adapters.folded[i][name] - adapters.base[name])
            kept = ratio.abs() > 1e-9
            assert (ratio[kept] - 1 / density).abs().max() < 1e-9
            n_kept += int(kept.sum())
        n = sum(value.numel() for value in found.values())
        assert abs(n_kept - density * n) < 4 * (n * density * (1 - density)) ** 0.5


def test_dare_draws_by_its_seed_alone_and_otherwise_for_each_adapter() -> None:
    import torch

    adapters = put(drawn(2), 1, 1)
    torch.manual_seed(5)
    one = parameters(Dare(weight=0.0).mix(adapters))
    torch.manual_seed(6)
    assert equal(one, parameters(Dare(weight=0.0).mix(adapters)))
    assert furthest(one, parameters(Dare(weight=0.0, seed=1).mix(adapters))) > 1e-3
    assert furthest(one, parameters(Dare(weight=1.0).mix(adapters))) > 1e-3


# ---------------------------------------------------------------------------------------------------------- logits
def answers(*, n: int = 3, n_classes: int = 4) -> Tensor:
    import torch

    return 2 * torch.randn(n, 50, n_classes, generator=torch.Generator().manual_seed(0))


def mean_of(mixer: Logits, logits: Tensor) -> Tensor:
    from robusweep.mixture import mixed_probabilities

    system = mixer.mix(drawn(len(logits)))
    assert isinstance(system, OfLogits)
    return mixed_probabilities(logits, system.weights, bend=system.bent).exp()


def test_mixed_answers_are_the_mean_of_the_probabilities() -> None:
    import torch

    logits = answers()
    for weight in (0.0, 0.3, 0.5, 1.0):
        found = mean_of(Logits(weight=weight), logits)
        each = logits.softmax(-1)
        torch.testing.assert_close(found, (1 - weight) * each[0] + weight * each[1:].mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.sum(1), torch.ones(50), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bend", [False, True])
def test_weight_zero_of_answers_is_the_clean_adapters_own_and_no_bend_changes_it(bend: bool) -> None:
    import torch

    logits = answers()
    found = mean_of(Logits(weight=0.0, bend=bend, scale=3.0, exponent=2.0, shift=0.2), logits)
    torch.testing.assert_close(found, logits[0].softmax(-1), rtol=1e-6, atol=1e-7)


def test_certain_and_huge_answers_mix_without_overflow() -> None:
    import torch

    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    torch.testing.assert_close(mean_of(Logits(weight=0.25), logits), torch.tensor([[0.75, 0.25]]))
    assert mean_of(Logits(weight=0.0), logits).tolist() == [[1.0, 0.0]]


def test_a_bend_is_the_formula_written_out_and_sharpens_with_its_scale() -> None:
    import torch

    from robusweep.mixture import bent

    logits = answers()
    z = (logits - logits.mean(-1, keepdim=True)) / (logits.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = 3.0 * (z + 0.25).clamp(min=0) ** 2.0
    torch.testing.assert_close(bent(logits, scale=3.0, exponent=2.0, shift=0.25), expected)
    assert bent(logits, scale=1.0, exponent=1.0, shift=10.0).argmax(-1).equal(logits.argmax(-1)), "no class changes"
    soft, sharp = (mean_of(Logits(weight=1.0, bend=True, scale=scale), logits) for scale in (1.0, 20.0))
    assert (sharp.amax(1) >= soft.amax(1)).all()
    assert not torch.allclose(mean_of(Logits(weight=1.0), logits), soft)
    assert Logits(scale=3.0).mix(drawn(2)).bent is None  # type: ignore[union-attr]


@pytest.mark.parametrize("exponent", [0.3, 1.0, 4.0])
def test_a_bend_has_a_finite_gradient_where_answers_are_cut(exponent: float) -> None:
    import torch

    from robusweep.mixture import mixed_probabilities

    logits = answers().double().requires_grad_(True)
    bend = {"scale": 2.0, "exponent": exponent, "shift": 0.0}
    value = mixed_probabilities(logits, (0.5, 0.25, 0.25), bend=bend)[:, 0].sum()
    (slope,) = torch.autograd.grad(value, logits)
    assert slope.isfinite().all()
    assert slope[1:].abs().max() > 0


# -------------------------------------------------------------------------------------------------------- emulated
def test_an_emulated_change_is_added_to_the_large_models_answers() -> None:
    import torch

    from robusweep.defended import _emulated

    clean, adversarial, large = answers()
    assert _emulated(0.0, torch.stack([clean, adversarial, large])).equal(large)
    for beta in (0.0, 0.5, 3.0):
        assert _emulated(beta, torch.stack([clean, clean, large])).equal(large), "nothing was changed"
    torch.testing.assert_close(_emulated(1.0, torch.stack([clean, adversarial, clean])), adversarial)
    both = [_emulated(beta, torch.stack([clean, adversarial, large])) for beta in (1.0, 2.0)]
    torch.testing.assert_close(both[1] - large, 2 * (both[0] - large), rtol=1e-5, atol=1e-5)
    system = built({"kind": "emulated", "large": "folder", "beta": 0.5}).mix(drawn(2))
    assert isinstance(system, Emulated)
    assert (system.large, system.beta, len(system.adapters.folded)) == ("folder", 0.5, 2)


# ------------------------------------------------------------------------------------------------------- leave_out
@pytest.mark.parametrize("place", [0, 1, 2])
def test_leaving_out_an_adapter_is_mixing_without_it(place: int) -> None:
    adapters = drawn(4)
    rest = put(adapters, *(i for i in range(4) if i != place + 1))
    for mixer in ({"kind": "uniform"}, {"kind": "adpmixup", "weight": 0.6}, {"kind": "adpmixup", "space": "factors"}):
        without = built(mixer | {"leave_out": place}).mix(adapters)
        assert equal(parameters(without), parameters(built(mixer).mix(rest)))
        assert furthest(parameters(without), parameters(built(mixer).mix(adapters))) > 1e-3
    per_text = built({"kind": "adpmixup", "weighting": "entropy_ratio", "leave_out": place}).mix(adapters)
    of_logits = built({"kind": "logits", "weight": 0.6, "leave_out": place}).mix(adapters)
    assert isinstance(per_text, PerText)
    assert isinstance(of_logits, OfLogits)
    for system in (per_text, of_logits):
        assert list(system.adapters.names) == list(rest.names)
        for mine, expected in zip(system.adapters.folded, rest.folded, strict=True):
            assert mine is expected
    assert of_logits.weights == pytest.approx((0.4, 0.3, 0.3))
    assert len(adapters.names) == 4, "the set itself keeps all"


# ------------------------------------------------------------------------------------------------- refused recipes
PGD = {"kind": "pgd", "radius": 0.3}


def recipe(folder: Path, mix: dict[str, Any], *, adapter: str = "lora", n_adversarial: int = 2) -> Recipe:
    blocks = {
        "version": 1,
        "name": "small",
        "data": {"kind": "csv", "path": "reviews.csv"},
        "adapter": {"kind": adapter},
        "train": {"kind": "standard"},
        "adversarial": [PGD] * n_adversarial,
        "mix": mix,
        "attacks": {"known": ["deepwordbug"]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(blocks))
    return load_recipe(folder / "recipe.yaml").recipe


LEFT_OUT = [
    ({"kind": kind, "leave_out": place}, n, says)
    for kind in ("adpmixup", "uniform", "logits")
    for place, n, says in (
        (2, 2, "mix.leave_out: 2 is no place under 'adversarial' (allowed: 0 to 1)"),
        (0, 1, "mix.leave_out: 0 leaves nothing to mix: there is one method under 'adversarial'"),
        (-1, 2, "mix.leave_out: must be greater than or equal to 0"),
    )
]


@pytest.mark.parametrize(("mix", "n_adversarial", "says"), LEFT_OUT, ids=str)
def test_an_adapter_that_can_not_be_left_out_is_refused_by_its_key(
    tmp_path: Path, mix: dict[str, Any], n_adversarial: int, says: str
) -> None:
    with pytest.raises(RecipeError) as e:
        recipe(tmp_path, mix, n_adversarial=n_adversarial)
    assert says in str(e.value)
    assert recipe(tmp_path, mix | {"leave_out": 1}).mix is not None


def test_emulated_fine_tuning_takes_one_adversarial_method(tmp_path: Path) -> None:
    mix = {"kind": "emulated", "large": "folder"}
    with pytest.raises(RecipeError, match=r"mix\.kind: takes one method under 'adversarial', given 2"):
        recipe(tmp_path, mix)
    assert recipe(tmp_path, mix, n_adversarial=1).mix is not None


ADAPTERS: dict[str, Adapter] = {kind: cls() for kind, cls in kinds(AnyAdapter).items()}  # type: ignore[misc]
SPACES = ("delta", "factors", "weights")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_adapter_mixes_in_some_space_and_in_its_default_one(kind: str) -> None:
    spaces = ADAPTERS[kind].spaces
    assert spaces
    assert len(set(spaces)) == len(spaces)
    assert set(spaces) <= set(SPACES)
    assert AdpMixup().refusal(spaces, 1) is None


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_space_in_which_an_adapter_does_not_mix_is_refused_by_its_key(kind: str, space: str, tmp_path: Path) -> None:
    allowed = ADAPTERS[kind].spaces
    if space in allowed:
        assert recipe(tmp_path, {"kind": "adpmixup", "space": space}, adapter=kind).mix is not None
        return
    with pytest.raises(RecipeError) as e:
        recipe(tmp_path, {"kind": "adpmixup", "space": space}, adapter=kind)
    assert f"mix.space: '{space}' is not defined for this adapter (allowed: {', '.join(allowed)})" in str(e.value)


@pytest.mark.parametrize("mixer", ["ties", "dare"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_mixer_of_changes_refuses_adapters_that_have_none(kind: str, mixer: str, tmp_path: Path) -> None:
    if "delta" in ADAPTERS[kind].spaces:
        assert recipe(tmp_path, {"kind": mixer}, adapter=kind).mix is not None
        return
    with pytest.raises(RecipeError, match=r"mix\.kind: needs adapters that mix in delta; these mix in "):
        recipe(tmp_path, {"kind": mixer}, adapter=kind)


def test_a_mixer_of_changes_refuses_spaces_without_them() -> None:
    """The same below the recipe, for bottlenecks as Houlsby's."""
    for mixer in (Ties(), Dare()):
        assert mixer.refusal(("weights",), 1) == ("kind", "needs adapters that mix in delta; these mix in weights")
        assert mixer.refusal(("weights", "delta"), 1) is None
    refused = AdpMixup(space="factors").refusal(("delta",), 1)
    assert refused == ("space", "'factors' is not defined for this adapter (allowed: delta)")
