"""LoRA folded into the weights for passes that only search: the plain network's cost, the adapted network's answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@contextmanager
def folded(network: nn.Module, *, bf16: bool) -> Iterator[None]:
    """While open, each LoRA map that allows it computes ``x (W0 + dW)^T`` in one product, without gradients for dW.

    Exact up to rounding. Maps with dropout on the adapter's input, and adapters of other kinds, stay as they are.
    """
    changed: list[Any] = []
    try:
        for module in network.modules():
            if (weight := _folded_weight(module)) is not None:
                weight = weight.bfloat16() if bf16 else weight
                bias: Any = module.base_layer.bias  # type: ignore[union-attr]
                module.forward = partial(F.linear, weight=weight, bias=bias)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


@torch.no_grad()
def _folded_weight(module: Any) -> torch.Tensor | None:
    """W0 + dW of a plain LoRA linear map with one active adapter; None for everything else."""
    if not (hasattr(module, "lora_A") and isinstance(getattr(module, "base_layer", None), nn.Linear)):
        return None
    active = module.active_adapters
    if len(active) != 1 or module.merged or module.disable_adapters or active[0] not in module.lora_A:
        return None
    if module.training and not isinstance(module.lora_dropout[active[0]], nn.Identity):
        return None
    if module.lora_variant.get(active[0]) is not None:  # DoRA and its like are not a sum
        return None
    weight: torch.Tensor = module.base_layer.weight.float() + module.get_delta_weight(active[0]).float()
    return weight
