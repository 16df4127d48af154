"""Laws of mixing adapters anew for each text, for every adapter kind that a recipe can name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest

from robusweep.adapters import Adapter, AnyAdapter, Full, Lora
from robusweep.adapters.targets import ROLES
from robusweep.catalogue import kinds

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.mixture import Blend, Factors, Member

Tensors = Mapping[str, "Tensor"]
Inputs = dict[str, "Tensor"]
FAMILIES = ("bert", "roberta", "distilbert")
LENGTHS = (9, 4, 7, 2, 11, 6)  # tokens of the texts below
SMALL: dict[str, Any] = {"rank": 2, "alpha": 5.0, "block_size": 8}  # the fields of kinds that have them


def _variants() -> dict[str, Adapter]:
    """Every kind with small sizes, and once more for each other value of each of its choices."""
    found: dict[str, Adapter] = {}
    for kind, cls in kinds(AnyAdapter).items():
        fields = {key: value for key, value in SMALL.items() if key in cls.model_fields}
        found[kind] = cls.model_validate(fields)  # type: ignore[assignment]
        for key, field in cls.model_fields.items():
            literal = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            choices = (not field.default,) if field.annotation is bool else (1,) if key == "layers" else literal
            for choice in choices:
                if choice != field.default:
                    found[f"{kind} {key}={choice}"] = cls.model_validate(fields | {key: choice})  # type: ignore[assignment]
    found["lora of rank 3 on every map"] = Lora(rank=3, alpha=4.5, targets=list(ROLES))
    return found


ADAPTERS = _variants()
CASES = [  # each kind on each family; each variant on one
    (name, family)
    for i, (name, adapter) in enumerate(ADAPTERS.items())
    for family in (FAMILIES if name == adapter.kind else (FAMILIES[i % 3],))  # type: ignore[attr-defined]
]
SPACED = [(*case, False) for case in CASES] + [(*case, True) for case in CASES if "factors" in ADAPTERS[case[0]].spaces]
each_case = pytest.mark.parametrize(("name", "family"), CASES)
each_space = pytest.mark.parametrize(("name", "family", "factored"), SPACED)


@dataclass(frozen=True)
class Trained:
    """Adapters as training might have left them, in float64. The network is the one that they go on."""

    network: Module
    tensors: Sequence[Tensors]
    folded: Sequence[Tensors]
    members: Sequence[Member]

    @property
    def base(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def blend(self, *which: int, factored: bool = False) -> Blend:
        from robusweep.mixture import Blend

        return Blend(self.network, [self.members[i] for i in which], factored=factored)


Train = Callable[..., Trained]


def trained_on(plain: Module, adapter: Adapter, *, n: int = 3) -> Trained:
    """``n`` adapters with noise on all that learns, each from a seed of its own."""
    import torch

    from robusweep.model import head_names

    host = adapter.host(plain)
    tensors = []
    for seed in range(n):
        adapted = adapter.attach(copy.deepcopy(host), head=head_names(host), seed=seed)
        rng = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.15 * torch.randn(parameter.shape, generator=rng)
        tensors.append({key: value.double() for key, value in adapter.extract(adapted).items()})
    network = copy.deepcopy(host).double().eval().requires_grad_(False)
    base = dict(network.named_parameters())
    return Trained(
        network, tensors, [adapter.fold(base, t) for t in tensors], [adapter.member(base, t) for t in tensors]
    )


@pytest.fixture(scope="module")
def train(folders: dict[str, Path]) -> Train:
    """``train(name, family)``: three adapters of a case. Made once."""
    from robusweep.model import BaseEncoder, load

    made: dict[tuple[str, str], Trained] = {}

    def found(name: str, family: str) -> Trained:
        if (name, family) not in made:
            model = load(BaseEncoder(base=str(folders[family])), ("a", "b", "c"), seed=0, device="cpu")
            made[name, family] = trained_on(model.network, ADAPTERS[name])
        return made[name, family]

    return found


def texts(lengths: Sequence[int] = LENGTHS, *, more_padding: int = 0) -> Inputs:
    """Token ids and mask of random texts of these lengths; a text does not depend on its company."""
    import torch

    ids = torch.randint(5, 105, (len(lengths), 30), generator=torch.Generator().manual_seed(1))
    width = max(lengths) + more_padding
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids[:, :width].where(mask, 1), "attention_mask": mask.long()}


def only(inputs: Inputs, places: Sequence[int]) -> Inputs:
    """Some of the texts in this order, padded to the longest of them."""
    width = int(inputs["attention_mask"][list(places)].sum(1).max())
    return {key: value[list(places), :width] for key, value in inputs.items()}


def random_weights(n_texts: int, n_members: int, seed: int = 0) -> Tensor:
    import torch

    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n_texts, n_members, generator=rng, dtype=torch.float64).softmax(1)


def one_hot(n_texts: int, place: int, n_members: int) -> Tensor:
    import torch

    return torch.eye(n_members, dtype=torch.float64)[place].expand(n_texts, n_members)


def with_parameters(network: Module, parameters: Tensors, inputs: Inputs) -> Tensor:
    from torch.func import functional_call

    answer: Tensor = functional_call(network, dict(parameters), (), inputs).logits
    return answer


def explicit(trained: Trained, weights: Sequence[float], *, factored: bool) -> Tensors:
    """The parameters that members with these weights become."""
    from robusweep.mixing.convex import convex, convex_factors

    if factored:
        return convex_factors(trained.base, trained.members, weights)
    return convex(trained.folded, weights)


def furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_every_kind_is_tried_on_every_family_and_some_mix_factor_by_factor() -> None:
    assert {(kind, family) for kind in kinds(AnyAdapter) for family in FAMILIES} <= set(CASES)
    assert any(factored for *_, factored in SPACED)


# ------------------------------------------------------------------------------------------ 1, 2: ends and self-mix
@each_space
def test_a_weight_of_one_is_that_member_alone_bit_for_bit(name: str, family: str, factored: bool, train: Train) -> None:
    trained, inputs = train(name, family), texts()
    blend = trained.blend(0, 1, 2, factored=factored)
    answers = []
    for i in range(3):
        alone = trained.blend(i, factored=factored)(one_hot(6, 0, 1), **inputs)
        answers.append(blend(one_hot(6, i, 3), **inputs))
        assert answers[i].equal(alone)
        assert answers[i].equal(blend(blend.alone(i, 6), **inputs))
        assert furthest(answers[i], with_parameters(trained.network, trained.folded[i], inputs)) < 1e-10
    assert furthest(answers[0], answers[1]) > 1e-3
    rows = blend(one_hot(6, 0, 3) + 0 * answers[0][:, :1], **inputs)  # a weight for each text, all the same
    assert rows.equal(answers[0])


@each_space
def test_texts_with_different_ends_in_one_batch_get_those_ends_bit_for_bit(
    name: str, family: str, factored: bool, train: Train
) -> None:
    import torch

    trained, inputs = train(name, family), texts()
    blend = trained.blend(0, 1, 2, factored=factored)
    whose = torch.tensor([0, 1, 2, 2, 1, 0])
    mixed = blend(torch.eye(3, dtype=torch.float64)[whose], **inputs)
    for i in range(3):
        assert mixed[whose == i].equal(blend(one_hot(6, i, 3), **inputs)[whose == i])


@each_space
def test_a_member_mixed_with_itself_is_that_member(name: str, family: str, factored: bool, train: Train) -> None:
    trained, inputs = train(name, family), texts()
    alone = trained.blend(1, factored=factored)(one_hot(6, 0, 1), **inputs)
    blend = trained.blend(1, 1, 1, factored=factored)
    for seed in range(3):
        assert furthest(blend(random_weights(6, 3, seed), **inputs), alone) < 1e-12


# ------------------------------------------------------------------------------------------------- 3: the delta oracle
@each_space
def test_a_blend_is_the_loop_over_texts_of_explicitly_mixed_parameters(
    name: str, family: str, factored: bool, train: Train
) -> None:
    trained, inputs = train(name, family), texts()
    weights = random_weights(6, 3)
    together = trained.blend(0, 1, 2, factored=factored)(weights, **inputs)
    for i in range(6):
        parameters = explicit(trained, weights[i].tolist(), factored=factored)
        alone = with_parameters(trained.network, parameters, only(inputs, [i]))
        assert furthest(together[i], alone[0]) < 1e-10
    even = with_parameters(trained.network, explicit(trained, [1 / 3] * 3, factored=factored), inputs)
    assert furthest(together, even) > 1e-3  # the weights count


@pytest.mark.parametrize("name", ["lora", "lora of rank 3 on every map"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_blend_has_the_weights_plus_scaled_products_written_out_by_hand(
    name: str, family: str, train: Train
) -> None:
    trained, inputs = train(name, family), texts()
    weights, scale = random_weights(6, 3), {2: 5.0 / 2, 3: 4.5 / 3}[ADAPTERS[name].rank]  # type: ignore[attr-defined]
    together = trained.blend(0, 1, 2)(weights, **inputs)
    for i in range(6):
        parameters = trained.base
        for key in trained.tensors[0]:
            stem = key.removesuffix(".lora_A")
            for w, tensors in zip(weights[i], trained.tensors, strict=True):
                if key.endswith(".lora_A"):
                    change = scale * tensors[f"{stem}.lora_B"] @ tensors[key]
                    parameters[f"{stem}.weight"] = parameters[f"{stem}.weight"] + w * change
                elif not key.endswith(".lora_B"):  # the head
                    parameters[key] = parameters[key] + w * (tensors[key] - trained.base[key])
        assert furthest(together[i], with_parameters(trained.network, parameters, only(inputs, [i]))[0]) < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_mixed_one_by_one_have_cross_terms(family: str, train: Train) -> None:
    trained, inputs = train("lora", family), texts()
    delta, factored = (trained.blend(0, 1, factored=factored) for factored in (False, True))
    assert furthest(delta(random_weights(6, 2), **inputs), factored(random_weights(6, 2), **inputs)) > 1e-3
    shared = [replace_down(trained.members[1], trained.members[0]), trained.members[0]]
    one, other = (replace(trained, members=shared).blend(0, 1, factored=f) for f in (False, True))
    assert furthest(one(random_weights(6, 2), **inputs), other(random_weights(6, 2), **inputs)) < 1e-10


def replace_down(member: Member, other: Member) -> Member:
    """The member with the other one's first factors: then there are no cross terms."""
    factors: dict[str, Factors] = {n: replace(f, down=other.factors[n].down) for n, f in member.factors.items()}
    return replace(member, factors=factors)


@pytest.mark.parametrize("family", FAMILIES)
def test_low_rank_factors_and_the_same_changes_as_whole_weights_blend_alike(family: str, train: Train) -> None:
    from robusweep.mixture import Member

    trained, inputs = train("lora of rank 3 on every map", family), texts()
    dense = replace(trained, members=[Member(folded) for folded in trained.folded])
    mixed = replace(trained, members=[trained.members[0], dense.members[1], trained.members[2]])
    answers = [each.blend(0, 1, 2)(random_weights(6, 3), **inputs) for each in (trained, dense, mixed)]
    assert trained.members[0].factors
    assert furthest(answers[0], answers[1]) < 1e-10
    assert furthest(answers[0], answers[2]) < 1e-10


# ------------------------------------------------------------------------------------------------------ 4: per text
@each_space
def test_an_answer_depends_neither_on_company_order_nor_padding(
    name: str, family: str, factored: bool, train: Train
) -> None:
    trained, inputs = train(name, family), texts()
    blend, weights = trained.blend(0, 1, 2, factored=factored), random_weights(6, 3)
    together = blend(weights, **inputs)
    for i in range(6):
        assert furthest(blend(weights[[i]], **only(inputs, [i])), together[[i]]) < 1e-12
    order = [3, 5, 0, 4, 2, 1]
    assert furthest(blend(weights[order], **only(inputs, order)), together[order]) < 1e-12
    assert furthest(blend(weights, **texts(more_padding=7)), together) < 1e-12
    assert together.std(0).min() > 1e-3


RULED = {
    "entropy_ratio": {},
    "entropy_minmax": {"ranges": [[0.1, 0.9], [0.0, 1.0], [0.2, 1.05]]},
    "entropy_softmax": {"sharpness": 3.0},
    "emea": {"n_steps": 2, "step_size": 1.0},
}
each_rule = pytest.mark.parametrize("rule", RULED)


def test_every_rule_is_among_them() -> None:
    from robusweep.mixture import RULES

    assert RULED.keys() == RULES.keys()


@each_rule
@each_case
def test_the_weights_of_a_rule_depend_on_their_own_text_alone(rule: str, name: str, family: str, train: Train) -> None:
    from robusweep.mixture import Mixture

    ask = Mixture(train(name, family).blend(0, 1, 2), rule, RULED[rule])
    inputs = texts()
    logits, weights = ask(**inputs)
    assert weights.min() >= 0
    assert furthest(weights.double().sum(1), weights.new_ones(6).double()) < 1e-6
    order = [3, 5, 0, 4, 2, 1]
    again = [(order, ask(**only(inputs, order))), (list(range(6)), ask(**texts(more_padding=7)))]
    again += [([i], ask(**only(inputs, [i]))) for i in (3, 4)]
    for places, (answer, found) in again:  # weights are float32
        assert furthest(found, weights[places]) < 1e-6
        assert furthest(answer, logits[places]) < 1e-5
    assert weights.std(0).max() > 1e-4


# --------------------------------------------------------------------------------------------------------- 5: heads
@each_case
def test_one_members_head_counts_inside_but_not_at_the_other_end(name: str, family: str, train: Train) -> None:
    import torch

    from robusweep.model import head_names

    rng = torch.Generator().manual_seed(4)
    trained, inputs = train(name, family), texts()
    clean, other = trained.members[0], trained.members[1]
    heads = head_names(trained.network)
    assert set(heads) <= other.parameters.keys()
    half = random_weights(6, 2)
    before = trained.blend(0, 1)
    for key in heads:
        noisy = other.parameters[key] + 0.5 * torch.randn(other.parameters[key].shape, generator=rng)
        moved = replace(other, parameters={**other.parameters, key: noisy})
        after = replace(trained, members=[clean, moved]).blend(0, 1)
        assert after(one_hot(6, 0, 2), **inputs).equal(before(one_hot(6, 0, 2), **inputs))
        assert furthest(after(half, **inputs), before(half, **inputs)) > 1e-3


# ------------------------------------------------------------------------------------------------------- 6: simplex
@each_case
def test_two_equal_adversarial_members_are_one_pair(name: str, family: str, train: Train) -> None:
    import torch

    from robusweep.mixture import paired

    trained, inputs = train(name, family), texts()
    shares = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    pair = torch.cat([1 - shares, shares], 1)
    assert furthest(paired(shares).double(), pair) < 1e-6
    alone = trained.blend(0, 1)(pair, **inputs)
    twice = trained.blend(0, 1, 1)(torch.cat([1 - shares, shares / 2, shares / 2], 1), **inputs)
    assert furthest(alone, twice) < 1e-12


@pytest.mark.parametrize("n_members", [2, 3, 5])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@each_rule
def test_weights_are_on_the_simplex_whatever_the_logits(
    rule: str, scale: float, n_classes: int, n_members: int
) -> None:
    import torch

    from robusweep.mixture import RULES

    rng = torch.Generator().manual_seed(n_members)
    logits = scale * torch.randn(n_members, 20, n_classes, generator=rng)
    logits[:, 0] = torch.tensor([1e4, *[-1e4] * (n_classes - 1)])
    logits[0, 1] = 0.0
    keys: dict[str, Any] = RULED[rule] | ({"ranges": [[0.1, 0.5]] * n_members} if rule == "entropy_minmax" else {})
    weights = RULES[rule](logits, lambda w: torch.einsum("ta,atc->tc", w, logits), **keys)
    assert weights.shape == (20, n_members)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    assert weights.min() >= 0
    assert furthest(weights.double().sum(1), torch.ones(20, dtype=torch.float64)) < 1e-6
    assert weights.isfinite().all()


# ----------------------------------------------------------------------------------------------- 7: the entropy rule
@pytest.mark.parametrize("n_classes", [2, 3, 20])
def test_entropy_is_between_zero_and_that_of_even_chances(n_classes: int) -> None:
    import torch

    from robusweep.mixture import entropies

    rng = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-6, 1.0, 40.0, 1e4):
        found = entropies(scale * torch.randn(50, n_classes, generator=rng))
        assert found.dtype == torch.float64
        assert (found >= 0).all()
        assert (found <= math.log(n_classes)).all()
    for at in (0.0, 1e4, -1e4):  # a constant added to all logits means nothing
        assert float(entropies(torch.full((n_classes,), at))) == pytest.approx(math.log(n_classes))
    for height in (1e3, 1e4, 1e30):
        assert float(entropies(height * torch.eye(n_classes)[0])) == 0.0
    chances = torch.tensor([0.75, 0.25]).log()
    assert float(entropies(chances)) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), rel=1e-6)


CERTAIN, UNSURE = [1e4, -1e4], [0.0, 0.0]
SHARP: dict[str, dict[str, Any]] = {
    "entropy_ratio": {},
    "entropy_minmax": {"ranges": [[0.0, math.log(2)]] * 2},
    "entropy_softmax": {"sharpness": 1e3},
    "emea": {"n_steps": 60, "step_size": 20.0},
}


@each_rule
@pytest.mark.parametrize("both", [CERTAIN, UNSURE, [3.0, 1.0]])
def test_a_tie_is_shared_evenly(rule: str, both: list[float]) -> None:
    import torch

    from robusweep.mixture import RULES

    logits = torch.tensor([[both, both[::-1]], [both[::-1], both]])  # as certain of the other class
    weights = RULES[rule](logits, lambda w: torch.einsum("ta,atc->tc", w, logits), **SHARP[rule])
    torch.testing.assert_close(weights, torch.full((2, 2), 0.5), rtol=0, atol=1e-6)


@each_rule
def test_a_certain_member_gets_all_of_the_weight_of_an_unsure_one(rule: str) -> None:
    import torch

    from robusweep.mixture import RULES

    sure = [5.0, -5.0] if rule == "emea" else CERTAIN  # emea climbs, and a saturated mix has no slope
    logits = torch.tensor([[sure, UNSURE], [UNSURE, sure]])  # the clean one is certain of the first text
    weights = RULES[rule](logits, lambda w: torch.einsum("ta,atc->tc", w, logits), **SHARP[rule])
    tolerance = 0.1 if rule == "emea" else 1e-5
    torch.testing.assert_close(weights, torch.eye(2), rtol=0, atol=tolerance)


def test_the_pair_rule_is_the_formula_written_out() -> None:
    import torch

    from robusweep.mixture import RULES, entropies

    logits = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(2)) * 2
    h = entropies(logits)
    ratio = RULES["entropy_ratio"](logits, lambda w: w)
    for i in (1, 2, 3):
        torch.testing.assert_close(ratio[:, i].double(), h[0] / (h[0] + h[i]) / 3, rtol=1e-4, atol=1e-5)
    ranges = [[0.1, 1.0], [0.0, 0.8], [0.3, 0.4], [0.0, math.log(3)]]
    trust = torch.stack([1 - ((h[a] - low) / (high - low)).clamp(0, 1) for a, (low, high) in enumerate(ranges)])
    found = RULES["entropy_minmax"](logits, lambda w: w, ranges=ranges)
    for i in (1, 2, 3):
        sure = trust[0] + trust[i] > 0.01
        expected = (trust[i] / (trust[0] + trust[i]) / 3)[sure]
        torch.testing.assert_close(found[sure, i].double(), expected, rtol=1e-3, atol=1e-4)
    soft = RULES["entropy_softmax"](logits, lambda w: w, sharpness=2.5)
    torch.testing.assert_close(soft.double(), (-2.5 * h).softmax(0).T, rtol=1e-5, atol=1e-6)


def test_a_step_of_emea_goes_down_the_slope_of_the_texts_own_entropy() -> None:
    import torch

    from robusweep.mixture import RULES, entropies

    logits = 2 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(6))

    def mixed(weights: Tensor) -> Tensor:
        return torch.einsum("ta,atc->tc", weights, logits.to(weights.dtype))

    found = RULES["emea"](logits, mixed, n_steps=1, step_size=1.5)
    slope = torch.zeros(5, 3, dtype=torch.float64)
    for a in range(3):
        step = torch.zeros(5, 3, dtype=torch.float64)
        step[:, a] = 1e-4
        ends = [entropies(mixed((sign * step).softmax(1))) for sign in (1, -1)]
        slope[:, a] = (ends[0] - ends[1]) / 2e-4
    torch.testing.assert_close(found.double(), (-1.5 * slope).softmax(1), rtol=0, atol=1e-5)


def test_emea_lowers_the_entropy_of_the_mixed_answer_of_each_text_by_itself(train: Train) -> None:
    from robusweep.mixture import Mixture, entropies

    blend, inputs = train("lora", "bert").blend(0, 1, 2), texts()
    even = entropies(blend(random_weights(6, 3) * 0 + 1 / 3, **inputs))
    last = even
    for n_steps in (1, 4, 12):
        logits, weights = Mixture(blend, "emea", {"n_steps": n_steps, "step_size": 0.5})(**inputs)
        found = entropies(logits)
        assert (found < last).all()
        assert not weights.requires_grad
        last = found


# ---------------------------------------------------------------------------------------------- 8: not the outputs
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [n for n, a in ADAPTERS.items() if "weights" in a.spaces])
def test_mixing_weights_below_a_nonlinearity_is_not_averaging_answers(name: str, family: str, train: Train) -> None:
    trained, inputs = train(name, family), texts()
    blend, weights = trained.blend(0, 1), random_weights(6, 2)
    answers = sum(weights[:, [i]] * blend(one_hot(6, i, 2), **inputs) for i in (0, 1))
    assert furthest(blend(weights, **inputs), answers) > 1e-3


BOTTLENECKS = [name for name in ADAPTERS if name.startswith(("houlsby", "pfeiffer"))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BOTTLENECKS)
def test_a_mixed_bottleneck_is_the_bottleneck_of_mixed_weights_and_not_the_mean_of_bottlenecks(
    name: str, family: str, train: Train
) -> None:
    from robusweep.adapters.hosting import Bottleneck

    trained, inputs = train(name, family), texts()
    path, first = next((p, m) for p, m in trained.network.named_modules() if isinstance(m, Bottleneck))
    blend, weights = trained.blend(0, 1), random_weights(6, 2)
    read: list[Tensor] = []
    gave: list[Tensor] = []
    hooks = [
        first.linear.register_forward_hook(lambda _module, _inputs, found: read.append(found)),
        first.register_forward_hook(lambda _module, _inputs, found: gave.append(found)),
    ]
    for each in (weights, one_hot(6, 0, 2), one_hot(6, 1, 2)):
        blend(each, **inputs)
    for hook in hooks:
        hook.remove()
    assert read[1].equal(read[0])
    assert read[2].equal(read[0]), "below the first bottleneck all members are one"
    mean = sum(weights[:, i, None, None] * gave[1 + i] for i in (0, 1))
    assert (gave[0] - mean).norm() > 0.01 * (mean - read[0]).norm()
    for i in range(6):
        own = explicit(trained, [*weights[i].tolist(), 0.0], factored=False)
        down, up = ((own[f"{path}.{part}.weight"], own[f"{path}.{part}.bias"]) for part in ("down", "up"))
        hidden = first.activation(read[0][i] @ down[0].T + down[1])
        assert furthest(gave[0][i], read[0][i] + hidden @ up[0].T + up[1]) < 1e-12


# ------------------------------------------------------------------------------------------- 9: one more adversarial
@each_space
def test_one_more_member_leaves_the_others_as_they_were(name: str, family: str, factored: bool, train: Train) -> None:
    import torch

    trained, inputs = train(name, family), texts()

    def bytes_of(which: Sequence[int]) -> list[bytes]:
        parts = [trained.tensors[i][key] for i in which for key in sorted(trained.tensors[i])]
        parts += [trained.folded[i][key] for i in which for key in sorted(trained.folded[i])]
        parts += [
            f
            for i in which
            for key in sorted(trained.members[i].factors)
            for f in (trained.members[i].factors[key].down, trained.members[i].factors[key].up)
        ]
        return [value.numpy().tobytes() for value in parts]

    before, weights = bytes_of([0, 1]), random_weights(6, 2)
    pair = trained.blend(0, 1, factored=factored)
    answer = pair(weights, **inputs)
    three = trained.blend(0, 1, 2, factored=factored)
    three(random_weights(6, 3), **inputs)
    assert bytes_of([0, 1]) == before
    assert pair(weights, **inputs).equal(answer)
    assert three(torch.cat([weights, torch.zeros(6, 1)], 1), **inputs).equal(answer)


# ------------------------------------------------------------------------------------------------- 10: left as found
class StoppedError(Exception):
    pass


@each_space
def test_a_network_is_afterwards_as_it_was_also_when_a_pass_breaks(
    name: str, family: str, factored: bool, train: Train
) -> None:
    trained, inputs = train(name, family), texts()
    trained = replace(trained, network=copy.deepcopy(trained.network))
    network = trained.network

    def seen() -> list[tuple[str, bool, set[str]]]:
        return [(key, module.training, set(vars(module))) for key, module in network.named_modules()]

    state = {key: value.clone() for key, value in network.state_dict().items()}
    attributes, plain = seen(), network(**inputs).logits
    blend = trained.blend(0, 1, factored=factored)
    assert seen() == attributes, "a blend alone changes nothing"
    assert furthest(blend(random_weights(6, 2), **inputs), plain) > 1e-3
    with blend.weighted(random_weights(6, 2)):
        assert seen() != attributes
    last = [module for _, module in network.named_modules()][-1]
    hook = last.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(StoppedError))
    with pytest.raises(StoppedError):
        blend(random_weights(6, 2), **inputs)
    hook.remove()
    assert seen() == attributes
    assert all(value.equal(state[key]) for key, value in network.state_dict().items())
    assert network(**inputs).logits.equal(plain)
    assert not any(parameter.grad is not None for parameter in network.parameters())


@each_space
def test_two_weights_never_give_the_same_answer(name: str, family: str, factored: bool, train: Train) -> None:
    import torch

    blend, inputs = train(name, family).blend(0, 1, factored=factored), texts()
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)
    answers = [blend(torch.stack([1 - w, w]).expand(6, 2), **inputs) for w in grid]
    for i, one in enumerate(answers):
        for other in answers[i + 1 :]:
            assert (one - other).abs().amax(1).min() > 1e-8


@each_case
def test_a_network_in_training_mode_is_refused(name: str, family: str, train: Train) -> None:
    trained = train(name, family)
    trained = replace(trained, network=copy.deepcopy(trained.network))
    blend = trained.blend(0, 1)
    trained.network.train()
    with pytest.raises(ValueError, match="eval mode"):
        blend(random_weights(6, 2), **texts())
    trained.network.eval()
    assert blend(random_weights(6, 2), **texts()).isfinite().all()


@pytest.mark.parametrize("shape", [(6, 3), (6, 1), (2,), (6, 2, 1)])
def test_weights_for_another_number_of_members_are_refused(shape: tuple[int, ...], train: Train) -> None:
    import torch

    with pytest.raises(ValueError, match="for 2 members"):
        train("lora", "bert").blend(0, 1)(torch.full(shape, 0.5), **texts())


def test_members_that_the_network_has_no_place_for_are_refused(train: Train) -> None:
    import torch

    from robusweep.mixture import Blend, Factors, Member

    network = train("lora", "bert").network
    with pytest.raises(ValueError, match=r"the network has no nowhere\.weight"):
        Blend(network, [Member({"nowhere.weight": torch.zeros(2)})])
    with pytest.raises(ValueError, match=r"classifier.bias has shape \[1\], and \[3\] in the network"):
        Blend(network, [Member({"classifier.bias": torch.zeros(1)})])  # would broadcast
    with pytest.raises(ValueError, match="nowhere"):
        Blend(network, [Member({}, {"nowhere": Factors(torch.zeros(1, 2), torch.zeros(2, 1))})])

    class Square(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.root = torch.nn.Parameter(torch.ones(2))

    with pytest.raises(ValueError, match="square: Square can't be mixed for each text"):
        Blend(torch.nn.ModuleDict({"square": Square()}), [Member({"square.root": torch.ones(2)})])


def relative(kind: str) -> Module:
    """A tiny network whose attention knows tokens by their distance."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config

    size: dict[str, Any] = {"vocab_size": 110, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    size |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 1, "initializer_range": 0.2}
    shared = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    bert = BertConfig(**size, position_embedding_type="relative_key_query", attn_implementation="eager")
    config = bert if kind == "bert" else DebertaV2Config(**size, position_buckets=16, **shared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Module = AutoModelForSequenceClassification.from_config(config).eval()
    return network


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_maps_that_read_distances_are_mixed_for_one_text_or_refused() -> None:
    """They have no row for each text, so that a batch would be mixed wrongly where its shape happens to fit."""
    for kind in ("bert", "deberta"):
        with pytest.raises(ValueError, match="an embedding of distances between tokens"):
            trained_on(relative(kind), Full(), n=2).blend(0, 1)
    inputs, weights = texts((6, 5, 4, 3, 2, 1)), random_weights(6, 2)
    trained = trained_on(relative("bert"), ADAPTERS["lora"], n=2)
    assert trained.blend(0, 1)(weights, **inputs).isfinite().all()
    trained = trained_on(relative("deberta"), ADAPTERS["lora"], n=2)
    with pytest.raises(ValueError, match="reads 1 rows in a pass of 6 texts"):
        trained.blend(0, 1)(weights, **inputs)
    alone = only(inputs, [0])
    expected = with_parameters(trained.network, explicit(trained, weights[0].tolist(), factored=False), alone)
    assert furthest(trained.blend(0, 1)(weights[[0]], **alone), expected) < 1e-10


@pytest.mark.parametrize("name", ["lora", "prefix", "full"])
def test_weights_for_other_texts_than_those_of_the_pass_are_refused(name: str, train: Train) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"in a pass of 5 texts|must match the size"):
        train(name, "bert").blend(0, 1)(random_weights(5, 2), **texts())


@pytest.mark.parametrize("rule", ["entropy_ratio", "entropy_minmax", "entropy_softmax"])
def test_a_gradient_goes_through_the_blend_and_the_rule_to_what_is_read(rule: str, train: Train) -> None:
    import torch

    from robusweep.mixture import Mixture

    trained = train("lora", "bert")
    ask = Mixture(trained.blend(0, 1, 2), rule, RULED[rule])
    embeddings: Any = trained.network
    at = embeddings.get_input_embeddings()(texts([5])["input_ids"]).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(ask(inputs_embeds=at)[0][0, 0], at)
    with torch.no_grad():
        ends = [float(ask(inputs_embeds=at + step * slope)[0][0, 0]) for step in (1e-3, -1e-3)]
        held = ask(inputs_embeds=at)[1]
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float((slope**2).sum()), rel=1e-3)
    (without,) = torch.autograd.grad(ask.blend(held, inputs_embeds=at)[0, 0], at)
    assert furthest(without, slope) > 1e-6 * float(slope.abs().max()), "the rule's own slope is there"
