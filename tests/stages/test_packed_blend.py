"""The mixed pass without padding gives what the padded one gives, for every adapter kind and family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from robusweep.adapters import AnyAdapter
from robusweep.catalogue import kinds

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.examples import Row
    from robusweep.mixture import Blend

BlendOf = Callable[..., "Blend"]
FAMILIES = ("bert", "roberta", "distilbert", "electra")
LENGTHS = (2, 4, 4, 9, 13)  # of rows, sorted
PADDED = {"prefix", "prompt"}  # more keys, or more tokens, than the packed pass knows of


@pytest.fixture(scope="module")
def blend_of(folders: dict[str, Path]) -> BlendOf:
    """``blend_of(kind, family)``: three trained-like adapters on a tiny network in float64."""
    from robusweep.mixture import Blend
    from robusweep.model import BaseEncoder, head_names, load

    def found(kind: str, family: str, *, factored: bool = False) -> Blend:
        import torch

        model = load(BaseEncoder(base=str(folders[family])), ("a", "b", "c"), seed=0, device="cpu")
        adapter = kinds(AnyAdapter)[kind]()
        host = adapter.host(model.network)  # type: ignore[attr-defined]
        network = copy.deepcopy(host).double().eval().requires_grad_(False)
        members = []
        for seed in range(3):
            adapted = adapter.attach(copy.deepcopy(host), head=head_names(host), seed=seed)  # type: ignore[attr-defined]
            draws = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in adapted.parameters():
                    if parameter.requires_grad:
                        parameter += 0.1 * torch.randn(parameter.shape, generator=draws)
            tensors = {name: value.double() for name, value in adapter.extract(adapted).items()}  # type: ignore[attr-defined]
            members.append(adapter.member(dict(network.named_parameters()), tensors))  # type: ignore[attr-defined]
        return Blend(network, members, factored=factored)

    return found


def rows_of(lengths: tuple[int, ...] = LENGTHS) -> list[Row]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 100, n) for n in lengths]


def weights_for(n: int) -> Tensor:
    import torch

    return torch.randn(n, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).softmax(1)


def padded(blend: Blend, weights: Tensor, rows: list[Row]) -> Tensor:
    import torch

    width = max(map(len, rows))
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in rows])
    return blend(weights, input_ids=ids, attention_mask=mask.long())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", sorted(kinds(AnyAdapter)))
def test_a_packed_pass_is_the_padded_one(kind: str, family: str, blend_of: BlendOf) -> None:
    import torch

    from robusweep.packed_blend import packed_blend

    blend = blend_of(kind, family)
    packed = packed_blend(blend)
    assert (packed is None) == (kind in PADDED)
    if packed is not None:
        found = packed(weights_for(5), rows_of())
        torch.testing.assert_close(found, padded(blend, weights_for(5), rows_of()), rtol=0, atol=1e-10)
        assert found.std(0).min() > 1e-3


def test_factors_are_mixed_one_by_one_there_too(blend_of: BlendOf) -> None:
    import torch

    from robusweep.packed_blend import PackedBlend

    blend = blend_of("lora", "bert", factored=True)
    found = PackedBlend(blend)(weights_for(5), rows_of())
    torch.testing.assert_close(found, padded(blend, weights_for(5), rows_of()), rtol=0, atol=1e-10)
    assert not torch.allclose(found, PackedBlend(blend_of("lora", "bert"))(weights_for(5), rows_of()), atol=1e-4)


def test_a_text_of_two_tokens_alone_is_answered_as_in_company(blend_of: BlendOf) -> None:
    import torch

    from robusweep.packed_blend import PackedBlend

    packed, weights, rows = PackedBlend(blend_of("houlsby", "roberta")), weights_for(5), rows_of()
    together = packed(weights, rows)
    alone = torch.cat([packed(weights[[i]], [row]) for i, row in enumerate(rows)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


def test_the_slope_at_the_weights_is_that_of_the_padded_pass(blend_of: BlendOf) -> None:
    import torch

    from robusweep.packed_blend import PackedBlend

    blend, slopes = blend_of("lora", "distilbert"), []
    for answer in (PackedBlend(blend), lambda weights, rows: padded(blend, weights, rows)):
        weights = weights_for(5).requires_grad_(True)
        slopes.append(torch.autograd.grad(answer(weights, rows_of())[:, 0].sum(), weights)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-10)
    assert slopes[0].abs().min() > 0


def test_a_network_of_another_make_has_no_packed_pass(blend_of: BlendOf) -> None:
    from robusweep.packed_blend import packed_blend

    blend = blend_of("lora", "bert")
    network: Any = blend.network
    assert packed_blend(blend) is not None
    network.config.is_decoder = True
    assert packed_blend(blend) is None
    network.config.is_decoder = False
    network.classifier.register_forward_hook(lambda _module, _inputs, found: found + 1)  # a head like no other
    assert packed_blend(blend) is not None  # hooks are called here, too
    network.register_forward_hook(lambda _module, _inputs, found: found.__class__(logits=found.logits + 1))
    assert packed_blend(blend) is None
