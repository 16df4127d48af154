"""Heads and neurons of a network, and the network without some of them. Needs torch and transformers alone: exports
carry this file.

Each works on BERT, RoBERTa, ELECTRA and DistilBERT. Layers may keep different numbers of units, which no configuration
of ``transformers`` can say: a folder with such a network has the whole one's ``config.json``, and masks beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TICKET = "ticket.json"  # the masks, in the folder of a network that has lost units
Flags = Sequence[Sequence[bool]]  # [layers, units]: True keeps a unit


@dataclass(frozen=True)
class Parts:
    """The linear maps of one layer. ``output`` reads the heads, one after the other; ``down`` reads the neurons."""

    attention: Any
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    up: nn.Linear
    down: nn.Linear

    @property
    def n_heads(self) -> int:
        name = "n_heads" if hasattr(self.attention, "n_heads") else "num_attention_heads"
        return int(getattr(self.attention, name))

    def set_heads(self, n: int) -> None:
        """Tell the attention module that it has so many heads of the size they have."""
        size = self.attention.attention_head_size
        if hasattr(self.attention, "n_heads"):
            self.attention.n_heads, self.attention.dim = n, n * size
        else:
            self.attention.num_attention_heads, self.attention.all_head_size = n, n * size


def parts_of(network: nn.Module) -> list[Parts]:
    """The parts of each layer, first to last. Raises ``ValueError`` where there are none that are plain maps."""
    found = [_bert(module) for module in network.modules() if hasattr(module, "intermediate")]
    found += [_distilbert(module) for module in network.modules() if hasattr(module, "ffn")]
    maps = [getattr(parts, name) for parts in found for name in ("query", "key", "value", "output", "up", "down")]
    if not maps or any(type(one) is not nn.Linear for one in maps):
        raise ValueError("needs plain linear maps: draw it before an adapter is attached")
    return found


def _bert(layer: Any) -> Parts:
    attention = layer.attention.self
    return Parts(
        attention=attention,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        output=layer.attention.output.dense,
        up=layer.intermediate.dense,
        down=layer.output.dense,
    )


def _distilbert(layer: Any) -> Parts:
    attention = layer.attention
    return Parts(
        attention=attention,
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        output=attention.out_lin,
        up=layer.ffn.lin1,
        down=layer.ffn.lin2,
    )


def shape_of(layers: Sequence[Parts]) -> tuple[int, int, int]:
    """(layers, heads of a layer, neurons of a layer). Raises ``ValueError`` where layers differ: units were removed."""
    sizes = [(parts.n_heads, parts.up.out_features) for parts in layers]
    if len(set(sizes)) != 1:
        raise ValueError("the network's layers differ: it is a ticket already")
    return (len(sizes), *sizes[0])


# ------------------------------------------------------------------------------------------------ taking them out
@torch.no_grad()
def remove(network: nn.Module, heads: Flags, neurons: Flags) -> None:
    """Take the units out in place. Parameters are new tensors: make an optimiser afterwards.

    Raises ``ValueError`` for masks of another shape than the network's.
    """
    layers = parts_of(network)
    own, given = shape_of(layers), (len(heads), len(heads[0]), len(neurons[0]))
    if given != own:
        raise ValueError(f"masks of shape {given} for a network of shape {own}")
    for parts, kept_heads, kept_neurons in zip(layers, heads, neurons, strict=True):
        flags = torch.as_tensor(kept_heads).repeat_interleave(parts.attention.attention_head_size)
        for linear in (parts.query, parts.key, parts.value):
            _keep(linear, flags, dim=0)
        _keep(parts.output, flags, dim=1)
        parts.set_heads(int(torch.as_tensor(kept_heads).sum()))
        _keep(parts.up, torch.as_tensor(kept_neurons), dim=0)
        _keep(parts.down, torch.as_tensor(kept_neurons), dim=1)


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


# ------------------------------------------------------------------------------------------------------- from files
def rebuilt(folder: Path) -> Any:
    """The classifier in a folder with ``ticket.json``, on the CPU, in float32 and in eval mode.

    Raises ``OSError`` for files that are not there, ``ValueError`` for files that do not belong together.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSequenceClassification

    heads, neurons = _kept(folder / TICKET)
    config = AutoConfig.from_pretrained(folder)
    weights = {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}
    with torch.random.fork_rng(devices=[]):  # drawn, then overwritten
        network = AutoModelForSequenceClassification.from_config(config).float()
    try:
        remove(network, heads, neurons)
        network.load_state_dict(weights)
    except (ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())
        raise ValueError(f"{TICKET}, config.json and weights in {folder} do not belong together: {reason}") from e
    return network.eval()


def _kept(path: Path) -> tuple[list[list[bool]], list[list[bool]]]:
    """(heads [layers, heads], neurons [layers, width]): one text of 0 and 1 for each layer."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        heads, neurons = ([[one == "1" for one in text] for text in found[name]] for name in ("heads", "neurons"))
        if {(len(h), len(n)) for h, n in zip(heads, neurons, strict=True)} != {tuple(found["shape"][1:])}:
            raise ValueError("its layers are not of its shape")
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} holds no masks: {type(e).__name__}: {e}") from None
    return heads, neurons
