"""Coefficients on heads and neurons: gates in front of the maps that read them. The network keeps its own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.tickets.masks import Masks, Shape
from robusweep.tickets.parts import parts_of, shape_of


class Gates(nn.Module):
    """A coefficient for each head and each neuron, float32 whatever the network computes in, 1 at first.

    A head's coefficient times its part of the attention output is its coefficient times its attention probabilities,
    after dropout; a neuron's is behind the activation.
    """

    def __init__(self, shape: Shape, device: torch.device | str = "cpu") -> None:
        super().__init__()
        n_layers, n_heads, n_neurons = shape
        self.heads = nn.Parameter(torch.ones(n_layers, n_heads, dtype=torch.float32, device=device))
        self.neurons = nn.Parameter(torch.ones(n_layers, n_neurons, dtype=torch.float32, device=device))

    @property
    def shape(self) -> Shape:
        (n_layers, n_heads), (_, n_neurons) = self.heads.shape, self.neurons.shape
        return n_layers, n_heads, n_neurons

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Put these coefficients on the network while open. All of them 1 change no bit of what it computes."""
        if shape_of(network) != self.shape:
            raise StageError(f"ticket: gates of shape {self.shape} on a network of shape {shape_of(network)}")
        with ExitStack() as stack:
            for i, parts in enumerate(parts_of(network)):
                for linear, of_layer in ((parts.output, _row(self.heads, i)), (parts.down, _row(self.neurons, i))):
                    stack.callback(linear.register_forward_pre_hook(_gate(of_layer)).remove)
            yield


@contextmanager
def masked(network: nn.Module, masks: Masks) -> Iterator[None]:
    """While open the network computes what it would without the units that the masks drop."""
    gates = Gates(masks.shape, next(network.parameters()).device).requires_grad_(False)
    gates.heads.copy_(torch.from_numpy(masks.heads))
    gates.neurons.copy_(torch.from_numpy(masks.neurons))
    with gates.on(network):
        yield


def scaled(x: Float[Tensor, "*batch units"], coefficients: Float[Tensor, " n"]) -> Float[Tensor, "*batch units"]:
    """Each of n equal parts of the last dimension times its coefficient.

    The product is taken in float32 at least, so that no coefficient is rounded to bfloat16 on the way to its gradient.
    """
    n = len(coefficients)
    parts: Tensor = x.unflatten(-1, (n, x.shape[-1] // n))
    return (parts * coefficients[:, None]).flatten(-2).to(x.dtype)


def _row(coefficients: Tensor, i: int) -> Callable[[], Tensor]:
    return lambda: coefficients[i]


def _gate(coefficients: Callable[[], Tensor]) -> Callable[[nn.Module, Any], Any]:
    def hook(_module: nn.Module, args: Any) -> Any:
        return (scaled(args[0], coefficients()), *args[1:])

    return hook
