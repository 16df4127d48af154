"""The linear maps of each layer that heads and neurons live in, for BERT, RoBERTa, ELECTRA and DistilBERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.packed import FAMILIES, layers_of
from robusweep.tickets.masks import Shape


@dataclass(frozen=True)
class Parts:
    """One layer. ``output`` reads the heads, one after the other; ``down`` reads the neurons."""

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
    """The parts of each layer, first to last. Raises ``StageError`` for a network of another make."""
    family = getattr(getattr(network, "config", None), "model_type", None)
    if family not in FAMILIES:
        raise StageError(f"ticket: needs a network of {', '.join(FAMILIES)}, and this is {family}")
    read = _distilbert if family == "distilbert" else _bert
    found = [read(layer) for layer in layers_of(network)]
    maps = [getattr(parts, name) for parts in found for name in ("query", "key", "value", "output", "up", "down")]
    if any(type(one) is not nn.Linear for one in maps):
        raise StageError("ticket: needs plain linear maps: draw it before an adapter is attached")
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


def shape_of(network: nn.Module) -> Shape:
    """(layers, heads, neurons). Raises ``StageError`` where layers differ: units were removed."""
    sizes = [(parts.n_heads, parts.up.out_features) for parts in parts_of(network)]
    if len(set(sizes)) != 1:
        raise StageError("ticket: the network's layers differ: it is a ticket already")
    return (len(sizes), *sizes[0])


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
