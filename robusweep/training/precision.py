"""bfloat16 training that pays: attention stays in float32 where the CPU's bfloat16 kernel is slow backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Float32Attention(TorchFunctionMode):
    """Run scaled-dot-product attention in float32 and hand back the dtype that came in."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query: Tensor = args[0] if args else kwargs["query"]
        with torch.autocast("cpu", enabled=False):
            wide = [_wide(value) for value in args]
            named = {name: _wide(value) for name, value in kwargs.items()}
            out: Tensor = func(*wide, **named)
        return out.to(query.dtype)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def fp32_attention(network: nn.Module, *, when: bool) -> Iterator[None]:
    """On a CPU in bfloat16 autocast, keep attention in float32 while open; elsewhere do nothing.

    The CPU's bfloat16 attention kernel is several times slower backward than the float32 one, which eats the gain.
    """
    if when and next(network.parameters()).device.type == "cpu":
        with _Float32Attention():
            yield
    else:
        yield


@contextmanager
def frozen_in_bf16(network: nn.Module, *, when: bool) -> Iterator[None]:
    """Hold the linear maps that don't learn in bfloat16 while open: autocast would cast them anew in every pass.

    The products are the same bit for bit, since autocast rounds the same weights the same way.
    """
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        if when:
            for module in network.modules():
                if isinstance(module, nn.Linear):
                    frozen = [p for p in module.parameters() if not p.requires_grad and p.dtype == torch.float32]
                    kept += [(parameter, parameter.data) for parameter in frozen]
            for parameter, data in kept:
                parameter.data = data.bfloat16()
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
