"""The walk through a network: each linear map is pruned by what it reads behind those that are pruned already."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robusweep import units
from robusweep.packed import layers_of
from robusweep.pruning.base import Pruning, Seen
from robusweep.units import Parts

READERS = {"query": ("query", "key", "value"), "output": ("output",), "up": ("up",), "down": ("down",)}
"""The maps of a layer that read the same, by one of them, in the order in which they compute."""


@dataclass
class Walked:
    """``parameters``: those that changed, by name. ``errors``: of each map that lost weights, by layer and place,
    |W X - W' X'|^2 / |W X|^2 over all calibration tokens, W and X being the dense network's; biases are left out."""

    parameters: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def walk(network: nn.Module, batches: Sequence[Mapping[str, Tensor]], pruning: Pruning) -> Walked:
    """Prune a copy of the network, which is in eval mode and left as it is.

    ``batches`` are its inputs, ``attention_mask`` among them. A layer runs once as it is and five times as pruned.
    """
    thin, walked = copy.deepcopy(network), Walked()
    calls = [_first_call(network, batch) for batch in batches]
    dense_states = thin_states = [call.states for call in calls]
    own_layers, thin_layers = layers_of(network), layers_of(thin)
    for i, (own, parts) in enumerate(zip(units.parts_of(network), units.parts_of(thin), strict=True)):
        reading, dense_states = _read(own_layers[i], [getattr(own, at) for at in READERS], calls, dense_states)
        for (at, names), dense in zip(READERS.items(), reading, strict=True):
            (read,), _ = _read(thin_layers[i], [getattr(parts, at)], calls, thin_states)
            seen = _seen(dense, read)
            for name in names:
                linear, n_units = getattr(parts, name), _n_units(parts, name)
                before = linear.weight.detach().clone()
                after, n = _pruned(before, seen, pruning, n_units=n_units)
                linear.weight.copy_(after)
                if n:
                    walked.errors[f"{i}.{name}"] = _error(before, after, dense, read)
        if pruning.units == "structured":
            _clear_rows(parts)
        _, thin_states = _read(thin_layers[i], [], calls, thin_states)
    before_all = dict(network.named_parameters())
    walked.parameters = {n: p.detach() for n, p in thin.named_parameters() if not torch.equal(p, before_all[n])}
    return walked


# ------------------------------------------------------------------------------------------------ one map
def _n_units(parts: Parts, name: str) -> int:
    """How many units, side by side, a map reads: heads or neurons, none for other maps."""
    return {"output": parts.n_heads, "down": parts.down.in_features}.get(name, 0)


def _pruned(weight: Tensor, seen: Seen, pruning: Pruning, *, n_units: int) -> tuple[Tensor, int]:
    """(the map as pruned, how many of its weights or units went)."""
    weight = pruning.prepared(weight, seen)
    if pruning.units == "weights":
        n = pruning.n_removed(weight.numel())
        return (pruning.without_weights(weight, seen, n) if n else weight), n
    n = pruning.n_removed(n_units) if n_units else 0
    return (pruning.without_inputs(weight, seen, n, size=weight.shape[1] // n_units) if n else weight), n


def _seen(dense: Sequence[Tensor], thin: Sequence[Tensor]) -> Seen:
    size, device = dense[0].shape[1], dense[0].device
    gram, cross = (torch.zeros(size, size, dtype=torch.float64, device=device) for _ in range(2))
    for x, read in zip(dense, thin, strict=True):
        gram += read.T @ read
        cross += x.T @ read
    return Seen(gram, cross)


def _error(before: Tensor, after: Tensor, dense: Sequence[Tensor], thin: Sequence[Tensor]) -> float:
    """|W X - W' X'|^2 / |W X|^2, 0 where W X is 0."""
    error = size = 0.0
    for x, read in zip(dense, thin, strict=True):
        wanted = x @ before.T
        error += float((wanted - read @ after.T).double().square().sum())
        size += float(wanted.double().square().sum())
    return error / size if size else 0.0


def _clear_rows(parts: Parts) -> None:
    """Zero the rows, and their biases, that compute units which are read by zero columns alone."""
    heads = (parts.output.weight == 0).all(dim=0).view(parts.n_heads, -1)
    unread = heads.all(dim=1).repeat_interleave(heads.shape[1])
    for linear in (parts.query, parts.key, parts.value):
        _clear(linear, unread)
    _clear(parts.up, (parts.down.weight == 0).all(dim=0))


def _clear(linear: Any, rows: Tensor) -> None:
    linear.weight[rows] = 0.0
    if linear.bias is not None:
        linear.bias[rows] = 0.0


# ------------------------------------------------------------------------------------------------ one layer
@dataclass(frozen=True)
class _Call:
    """How the network calls its layers for one batch: the first one's states, and what comes with them."""

    states: Tensor
    name: str | None  # of the states among ``kwargs``; None: the first of ``args``
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    real: Tensor  # [texts, tokens], True where no padding is

    def of(self, layer: nn.Module, states: Tensor) -> Tensor:
        """What the layer makes of these states."""
        if self.name is None:
            found: Any = layer(states, *self.args[1:], **self.kwargs)
        else:
            found = layer(*self.args, **{**self.kwargs, self.name: states})
        made: Tensor = found[0] if isinstance(found, tuple) else found
        return made


def _first_call(network: nn.Module, batch: Mapping[str, Tensor]) -> _Call:
    found: list[_Call] = []

    def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
        name = None if args else next(n for n in ("hidden_states", "x") if n in kwargs)
        states = args[0] if name is None else kwargs[name]
        found.append(_Call(states, name, args, kwargs, batch["attention_mask"].bool()))

    handle = layers_of(network)[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        network(**batch)
    finally:
        handle.remove()
    return found[0]


def _read(
    layer: nn.Module, maps: Sequence[nn.Module], calls: Sequence[_Call], states: Sequence[Tensor]
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """(what each map reads, [tokens, inputs] by batch without padding; the states behind the layer)."""
    caught: list[list[Tensor]] = [[] for _ in maps]
    handles = [
        linear.register_forward_pre_hook(lambda _module, args, at=at: caught[at].append(args[0]))
        for at, linear in enumerate(maps)
    ]
    try:
        after = [call.of(layer, before) for call, before in zip(calls, states, strict=True)]
    finally:
        for handle in handles:
            handle.remove()
    reals = [call.real for call in calls]
    return [[x[real] for x, real in zip(inputs, reals, strict=True)] for inputs in caught], after
