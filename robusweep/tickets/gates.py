"""Coefficients on heads and neurons: gates in front of the maps that read them. The network keeps its own code.

``Gates`` are numbers; ``HardConcrete`` gates open and close at random, and what is learnt is how often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.tickets.masks import Masks, Shape
from robusweep.tickets.parts import parts_of, shape_of

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3  # what a hard concrete gate is stretched to, and its temperature (Louizos et al.)
NEAREST = 1e-6  # a uniform draw stays so far from 0 and 1


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

    def on(self, network: nn.Module) -> AbstractContextManager[None]:
        """Put these coefficients on the network while open. All of them 1 change no bit of what it computes."""
        return _gated(network, self.shape, lambda i: self.heads[i], lambda i: self.neurons[i])


class HardConcrete(nn.Module):
    """Gates in [0, 1] that are often 0 or 1 exactly (Louizos, Welling and Kingma, ICLR 2018, arXiv:1712.01312).

    ``clamp((ZETA - GAMMA) s + GAMMA, 0, 1)`` with ``s = sigmoid((logit(u) + location) / BETA)`` and u uniform, drawn
    anew for each pass, text and token sharing one draw. ``heads`` and ``neurons`` are the locations, float32; at first
    a gate without noise is ``opening``. In eval mode there is no noise, and no temperature: ``s = sigmoid(location)``.
    """

    def __init__(
        self, shape: Shape, device: torch.device | str = "cpu", *, opening: float, draws: torch.Generator
    ) -> None:
        super().__init__()
        n_layers, n_heads, n_neurons = shape
        s = (opening - GAMMA) / (ZETA - GAMMA)
        self.shape, self._draws = shape, draws
        self.heads = nn.Parameter(torch.full((n_layers, n_heads), math.log(s / (1 - s)), device=device))
        self.neurons = nn.Parameter(torch.full((n_layers, n_neurons), math.log(s / (1 - s)), device=device))

    def on(self, network: nn.Module) -> AbstractContextManager[None]:
        """Put the gates on the network while open."""
        return _gated(network, self.shape, lambda i: self.gates(self.heads[i]), lambda i: self.gates(self.neurons[i]))

    def gates(self, locations: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
        """Gates with these locations: one draw in training mode, without noise in eval mode."""
        if self.training:
            uniform = torch.rand(locations.shape, generator=self._draws).to(locations.device)
            s = torch.sigmoid((torch.logit(uniform, eps=NEAREST) + locations) / BETA)
        else:
            s = torch.sigmoid(locations)
        return ((ZETA - GAMMA) * s + GAMMA).clamp(0.0, 1.0)


def chance_open(locations: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """The chance that a hard concrete gate is above 0: its part of the expected L0 norm."""
    return torch.sigmoid(locations - BETA * math.log(-GAMMA / ZETA))


@contextmanager
def _gated(
    network: nn.Module, shape: Shape, heads: Callable[[int], Tensor], neurons: Callable[[int], Tensor]
) -> Iterator[None]:
    """While open, what layer i's heads and neurons give is multiplied by ``heads(i)`` and ``neurons(i)``."""
    if shape_of(network) != shape:
        raise StageError(f"ticket: gates of shape {shape} on a network of shape {shape_of(network)}")
    with ExitStack() as stack:
        for i, parts in enumerate(parts_of(network)):
            for linear, of_layer in ((parts.output, heads), (parts.down, neurons)):
                stack.callback(linear.register_forward_pre_hook(_gate(of_layer, i)).remove)
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


def _gate(coefficients: Callable[[int], Tensor], i: int) -> Callable[[nn.Module, Any], Any]:
    def hook(_module: nn.Module, args: Any) -> Any:
        return (scaled(args[0], coefficients(i)), *args[1:])

    return hook
