"""Many parameter sets at once against one victim for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import robusweep.model as stage
from robusweep import packed
from robusweep.examples import Row
from robusweep.mixing.convex import convex
from robusweep.model.shared_trunk import answers_of_all

victim_module = import_module("robusweep.model.victim")  # the package exports a function of the same name
Load = Callable[..., Any]
Sets = list[dict[str, Tensor]]

# Where sets differ -> whether a name is there; the tiny models have two layers.
WHERE: dict[str, Callable[[str], bool]] = {
    "top layer": lambda name: "layer.1." in name,
    "top layer and head": lambda name: "layer.1." in name or "classifier" in name,
    "all layers": lambda name: "layer." in name,
    "head": lambda name: not is_encoder(name),
    "embeddings": lambda name: "word_embeddings" in name,
    "pooler": lambda name: "pooler" in name,
    "nothing": lambda name: "no such name" in name,
}


def is_encoder(name: str) -> bool:
    return name.split(".")[0] in {"bert", "roberta", "distilbert", "electra"}


def sets_of(model: Any, where: str, n: int = 3) -> Sets:
    """Parameter sets that differ there and nowhere else."""
    draws = torch.Generator().manual_seed(4)
    names = [name for name, _ in model.network.named_parameters() if WHERE[where](name)]
    own = dict(model.network.named_parameters())
    return [
        {name: own[name].detach() + 0.1 * torch.randn(own[name].shape, generator=draws) for name in names}
        for _ in range(n)
    ]


def check(model: Any, sets: Sequence[Mapping[str, Tensor]], rows: Sequence[Row], *, bf16: bool = False) -> None:
    """Bit by bit the victims' answers."""
    precision: Any = "bf16" if bf16 else "fp32"
    found = answers_of_all(model, sets, rows, bf16=bf16)
    assert len(found) == len(sets)
    for answers, parameters in zip(found, sets, strict=True):
        expected = stage.victim(model, parameters, precision=precision).logits(rows)
        assert (answers.dtype, answers.shape) == (np.float32, expected.shape)
        assert answers.tobytes() == expected.tobytes()


@pytest.fixture(autouse=True)
def _several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(victim_module.TOKENS_PER_BATCH, "cpu", 500)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a whole layer ran (``layers``), and a last one (``last``)."""
    counts = {"layers": 0, "last": 0}

    def counted(name: str, key: str) -> None:
        real = getattr(packed, name)

        def run(*given: Any) -> Tensor:
            counts[key] += 1
            result: Tensor = real(*given)
            return result

        monkeypatch.setattr(packed, name, run)

    counted("_layer", "layers")
    counted("_first_tokens", "last")
    return counts


def rows_of(model: Any, texts: Sequence[str]) -> list[Row]:
    return [np.asarray(row, dtype=np.int64) for row in model.tokens(texts)]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("where", WHERE)
def test_answers_are_bit_for_bit_those_of_the_victims(
    where: str, bf16: bool, family: str, load_tiny: Load, random_texts: list[str]
) -> None:
    model = load_tiny(family)
    sets = sets_of(model, where)
    rows = rows_of(model, [*random_texts, *random_texts[:9]])
    check(model, sets, rows, bf16=bf16)
    if any(sets):
        first, second, _ = answers_of_all(model, sets, rows, bf16=bf16)
        assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("where", "n_layers", "n_last"), [("top layer", 1, 3), ("all layers", 3, 3), ("head", 1, 1), ("nothing", 1, 1)]
)
def test_shared_layers_run_once_for_each_batch(
    where: str, n_layers: int, n_last: int, load_tiny: Load, random_texts: list[str], runs: dict[str, int]
) -> None:
    model = load_tiny()
    rows = rows_of(model, random_texts)
    stage.victim(model, {}, precision="fp32").logits(rows)
    n_batches = runs["last"] - 1  # the first pass checks what was packed
    assert n_batches > 5
    runs.update(layers=0, last=0)
    answers_of_all(model, sets_of(model, where), rows)
    assert runs == {"layers": n_layers * n_batches + 1, "last": n_last * n_batches + 1}


def test_one_set_costs_what_its_victim_costs(load_tiny: Load, random_texts: list[str], runs: dict[str, int]) -> None:
    model = load_tiny()
    sets, rows = sets_of(model, "all layers", n=1), rows_of(model, random_texts)
    stage.victim(model, sets[0], precision="fp32").logits(rows)
    expected = dict(runs)
    runs.update(layers=0, last=0)
    answers_of_all(model, sets, rows)
    assert runs == expected


def test_mixed_weights_share_layers_in_which_the_members_agree(
    load_tiny: Load, random_texts: list[str], runs: dict[str, int]
) -> None:
    model = load_tiny()
    rows = rows_of(model, random_texts)
    clean, other = sets_of(model, "all layers", n=2)
    adversarial = {name: (other if "layer.1." in name else clean)[name].clone() for name in clean}
    mixes = [convex([clean, adversarial], [1 - i / 10, i / 10]) for i in range(11)]
    answers_of_all(model, mixes, rows)
    n_batches = runs["layers"] - 1
    assert runs["last"] == 11 * n_batches + 1
    check(model, mixes, rows)


def test_equal_layers_above_the_trunk_run_once(load_tiny: Load, random_texts: list[str], runs: dict[str, int]) -> None:
    model = load_tiny()
    rows = rows_of(model, random_texts)
    one, two = sets_of(model, "top layer", n=2)
    head = {"classifier.bias": torch.tensor([0.5, -0.5])}
    sets = [one, two, {name: value.clone() for name, value in one.items()} | head]
    answers_of_all(model, sets, rows)
    n_batches = runs["layers"] - 1
    assert runs["last"] == 2 * n_batches + 1
    check(model, sets, rows)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_set_that_lacks_a_name_has_the_models_own_weight(
    bf16: bool, load_tiny: Load, random_texts: list[str]
) -> None:
    model = load_tiny()
    rows = rows_of(model, random_texts)
    top, everywhere = sets_of(model, "top layer", n=1)[0], sets_of(model, "all layers", n=1)[0]
    check(model, [{}, top, {}], rows, bf16=bf16)
    check(model, [top, everywhere, {}], rows, bf16=bf16)


def test_values_of_other_types_and_layouts_are_taken_as_a_victim_takes_them(
    load_tiny: Load, random_texts: list[str]
) -> None:
    model = load_tiny()
    rows = rows_of(model, random_texts)
    name = "bert.encoder.layer.1.attention.output.dense.weight"
    (one,) = sets_of(model, "top layer", n=1)
    check(model, [one, {name: one[name].double() / 3}, {name: one[name].T}, {name: one[name].half()}], rows)
    unaligned = torch.cat([torch.zeros(1), one[name].flatten()])[1:].view_as(one[name])
    check(model, [{name: unaligned}, {}], rows)


def test_nan_and_negative_zero_are_values_like_others(load_tiny: Load, random_texts: list[str]) -> None:
    model = load_tiny()
    rows = rows_of(model, random_texts)
    zero, nan = torch.zeros(2), torch.full((2,), torch.nan)
    sets = [{"classifier.bias": value} for value in (zero, -zero, nan, nan.clone())]
    check(model, sets, rows)


def test_an_architecture_that_is_not_packed_gets_its_padded_answers(
    load_tiny: Load, random_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robusweep.packed.pack", lambda *_: None)
    model = load_tiny()
    for bf16 in (False, True):
        check(model, sets_of(model, "top layer"), rows_of(model, random_texts), bf16=bf16)


@pytest.mark.parametrize("bf16", [False, True])
def test_only_what_differs_is_in_memory_for_each_set(
    bf16: bool, load_tiny: Load, random_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tops = load_tiny(), list[packed.PackedEncoder]()
    real = packed.PackedEncoder.with_top_of

    def kept(*given: Any) -> packed.PackedEncoder:
        tops.append(real(*given))
        return tops[-1]

    monkeypatch.setattr(packed.PackedEncoder, "with_top_of", kept)
    query = "bert.encoder.layer.1.attention.self.query.weight"
    sets = [{query: one[query]} for one in sets_of(model, "top layer")]
    answers_of_all(model, sets, rows_of(model, random_texts), bf16=bf16)
    lower, upper = zip(*(top._layers for top in tops), strict=True)
    assert len(tops) == 3
    assert all(layer is lower[0] for layer in lower)
    for part in ("output", "up", "down"):
        assert {getattr(layer, part)[0].data_ptr() for layer in upper} == {getattr(upper[0], part)[0].data_ptr()}
    assert len({layer.qkv[0].data_ptr() for layer in upper}) == 3


def test_no_sets_and_no_rows(load_tiny: Load) -> None:
    model = load_tiny(labels=("a", "b", "c"))
    assert answers_of_all(model, [], [np.array([2, 5, 3])]) == []
    for where in ("top layer", "all layers", "embeddings"):
        check(model, sets_of(model, where), [])


def test_an_unknown_name_is_refused_in_any_set(load_tiny: Load) -> None:
    model = load_tiny()
    with pytest.raises(KeyError):
        answers_of_all(model, [{}, {"no.such": torch.zeros(1)}], [np.array([2, 5, 3])])


def test_the_model_and_the_sets_stay_as_they_were(load_tiny: Load, random_texts: list[str]) -> None:
    model = load_tiny()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    for where in ("top layer", "all layers"):
        sets = sets_of(model, where)
        copies = [{name: value.clone() for name, value in one.items()} for one in sets]
        answers_of_all(model, sets, rows_of(model, random_texts), bf16=True)
        assert all(torch.equal(one[name], mine[name]) for one, mine in zip(sets, copies, strict=True) for name in one)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert next(model.network.parameters()).dtype == torch.float32


def test_a_pass_goes_on_from_any_layer(family: str, load_tiny: Load, random_texts: list[str]) -> None:
    model = load_tiny(family)
    rows = sorted(rows_of(model, random_texts), key=len)
    encoder = packed.PackedEncoder(model.network)
    for n_layers in range(encoder.n_layers):
        assert torch.equal(encoder.first_from(*encoder.trunk(rows, n_layers), n_layers), encoder.first(rows))
