"""Tickets made real: the weights of dropped heads and neurons are taken out, and the network is smaller and faster."""

from __future__ import annotations

import copy

from torch import nn

from robusweep import units
from robusweep.errors import StageError
from robusweep.tickets.masks import Masks
from robusweep.tickets.parts import parts_of


def removed(network: nn.Module, masks: Masks) -> nn.Module:
    """A copy of the network without the units that the masks drop. What is kept keeps its values."""
    found = copy.deepcopy(network)
    remove(found, masks)
    return found


def remove(network: nn.Module, masks: Masks) -> None:
    """Take the units out in place. Parameters are new tensors: make an optimiser afterwards.

    Raises ``StageError`` for a network of another make or shape, or one that has lost units already.
    """
    parts_of(network)
    try:
        units.remove(network, masks.heads.tolist(), masks.neurons.tolist())
    except ValueError as e:
        raise StageError(f"ticket: {e}") from None
