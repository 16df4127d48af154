"""Tickets made real: the weights of dropped heads and neurons are taken out, and the network is smaller and faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robusweep.errors import MissingError, StageError
from robusweep.tickets.masks import Masks
from robusweep.tickets.parts import parts_of, shape_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TICKET, WEIGHTS = "ticket.json", "model.safetensors"


def removed(network: nn.Module, masks: Masks) -> nn.Module:
    """A copy of the network without the units that the masks drop. What is kept keeps its values."""
    found = copy.deepcopy(network)
    remove(found, masks)
    return found


@torch.no_grad()
def remove(network: nn.Module, masks: Masks) -> None:
    """Take the units out in place. Parameters are new tensors: make an optimiser afterwards."""
    if shape_of(network) != masks.shape:
        raise StageError(f"ticket: masks of shape {masks.shape} for a network of shape {shape_of(network)}")
    for parts, heads, neurons in zip(parts_of(network), masks.heads, masks.neurons, strict=True):
        flags = torch.from_numpy(heads).repeat_interleave(parts.attention.attention_head_size)
        for linear in (parts.query, parts.key, parts.value):
            _keep(linear, flags, dim=0)
        _keep(parts.output, flags, dim=1)
        parts.set_heads(int(heads.sum()))
        _keep(parts.up, torch.from_numpy(neurons), dim=0)
        _keep(parts.down, torch.from_numpy(neurons), dim=1)


def _keep(linear: nn.Linear, flags: Tensor, *, dim: int) -> None:
    """Keep these outputs (dim 0) or inputs (dim 1) of the map."""
    places = flags.nonzero()[:, 0].to(linear.weight.device)
    linear.weight = _selected(linear.weight, places, dim)
    if dim == 0:
        linear.out_features = len(places)
        if linear.bias is not None:
            linear.bias = _selected(linear.bias, places, 0)
    else:
        linear.in_features = len(places)


def _selected(parameter: Tensor, places: Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(dim, places), requires_grad=parameter.requires_grad)


# ------------------------------------------------------------------------------------------ saved and loaded
def rebuilt(config: PretrainedConfig, masks: Masks, weights: Mapping[str, Tensor]) -> nn.Module:
    """A classifier of this configuration, smaller by the masks, with these weights, on the CPU and in eval mode.

    ``config`` is the whole network's: it can't say that layers differ. Raises ``MissingError`` for other weights.
    """
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):  # drawn, then overwritten
        network: nn.Module = AutoModelForSequenceClassification.from_config(config)
    remove(network, masks)
    try:
        network.load_state_dict(weights)
    except RuntimeError as e:
        reason = " ".join(str(e).split())
        raise MissingError(f"ticket: masks, configuration and weights do not belong together: {reason}") from e
    return network.eval()


def save(network: Any, masks: Masks, folder: Path) -> None:
    """Write a network that ``removed`` gave: config.json (of the whole one), ticket.json and its weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    network.config.save_pretrained(folder)
    masks.write(folder / TICKET)
    save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS)


def load(folder: Path) -> nn.Module:
    """The network that ``save`` wrote. Raises ``MissingError`` when it can't be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig

    masks = Masks.read(folder / TICKET)
    try:
        config, weights = AutoConfig.from_pretrained(folder), load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as e:
        raise MissingError(f"ticket: {folder} can't be read: {e}") from e
    return rebuilt(config, masks, weights)
