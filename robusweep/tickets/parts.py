"""The linear maps of each layer that heads and neurons live in, and their norms."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robusweep import units
from robusweep.errors import StageError
from robusweep.packed import FAMILIES
from robusweep.tickets.masks import Shape
from robusweep.units import Parts


def parts_of(network: nn.Module) -> list[Parts]:
    """The parts of each layer, first to last. Raises ``StageError`` for a network of another make."""
    family = getattr(getattr(network, "config", None), "model_type", None)
    if family not in FAMILIES:
        raise StageError(f"ticket: needs a network of {', '.join(FAMILIES)}, and this is {family}")
    try:
        return units.parts_of(network)
    except ValueError as e:
        raise StageError(f"ticket: {e}") from None


def shape_of(network: nn.Module) -> Shape:
    """(layers, heads, neurons). Raises ``StageError`` where layers differ: units were removed."""
    try:
        return units.shape_of(parts_of(network))
    except ValueError as e:
        raise StageError(f"ticket: {e}") from None


@torch.no_grad()
def weight_norms(network: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """L2 norms of all weights of each head [layers, heads] and of each neuron [layers, width]."""
    shape_of(network)
    heads, neurons = zip(*map(_norms, parts_of(network)), strict=True)
    return torch.stack(heads).cpu().numpy(), torch.stack(neurons).cpu().numpy()


def _norms(parts: Parts) -> tuple[Tensor, Tensor]:
    into_heads = _squares(parts.query, 1) + _squares(parts.key, 1) + _squares(parts.value, 1)
    heads = (into_heads + _squares(parts.output, 0)).view(parts.n_heads, -1).sum(1)
    return heads.sqrt(), (_squares(parts.up, 1) + _squares(parts.down, 0)).sqrt()


def _squares(linear: nn.Linear, dim: int) -> Tensor:
    return linear.weight.float().square().sum(dim)
