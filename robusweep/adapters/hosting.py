"""Modules of adapters that are no change of weights, put into a network. Needs torch alone: exports
can carry this file.

Bottlenecks stand behind a linear map; a prefix is rows before keys and values; a prompt is states beside the text's.
Each works on BERT, RoBERTa, ELECTRA and DistilBERT. What a module is put around keeps its own class, one level deeper.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
AFTER_ATTENTION = ("attention.output.dense", "attention.out_lin")  # the last map of a sub-layer, by model family
AFTER_FFN = ("output.dense", "ffn.lin2")
ATTENTION = ("attention.self", "attention")
KEY, VALUE = ("key", "k_lin"), ("value", "v_lin")
STATES, MASK = ("hidden_states", "x"), ("attention_mask", "attn_mask", "mask")


class Inserted(nn.Module):
    """A module of an adapter's; ``off``: it does what the module that it is put around does."""

    off = False
    own: tuple[str, ...] = ()  # its children that are trained

    def draw(self, rng: torch.Generator) -> None:
        """Initial values from this generator, which is on the CPU."""


# ------------------------------------------------------------------------------------------------ bottlenecks
class Bottleneck(Inserted):
    """``y = x + U f(D x + b) + c``, where x is what the linear map gives. All four start at zero."""

    own = ("down", "up")

    def __init__(self, linear: nn.Linear, width: int, activation: str) -> None:
        super().__init__()
        self.linear, self.activation = linear, ACTIVATIONS[activation]
        self.down, self.up = _zeros(linear.out_features, width, linear), _zeros(width, linear.out_features, linear)

    def draw(self, rng: torch.Generator) -> None:
        """D uniform within 1 / sqrt(inputs), as torch has it; U stays zero, so the module changes nothing."""
        bound = 1.0 / math.sqrt(self.down.in_features)
        _fill(self.down.weight, torch.empty(self.down.weight.shape).uniform_(-bound, bound, generator=rng))

    def forward(self, inputs: Tensor) -> Tensor:
        x: Tensor = self.linear(inputs)
        return x if self.off else x + self.up(self.activation(self.down(x)))


def _zeros(n_inputs: int, n_outputs: int, like: nn.Linear) -> nn.Linear:
    weight = like.weight
    made = nn.utils.skip_init(nn.Linear, n_inputs, n_outputs, device=weight.device, dtype=weight.dtype)  # draws nothing
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ trained rows
class Rows(nn.Module):
    """Trained rows, the same for each text: [texts, n, width] for any input whose first dimension counts texts."""

    affine = True  # in its parameters: outputs may be mixed for each text

    def __init__(self, n: int, width: int, like: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(like.new_zeros(n, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.expand(len(x), -1, -1)


class Prefixed(Inserted):
    """A key or value map whose trained rows come before what it gives: [texts, n + tokens, width].

    ``fed``: its input has n tokens before the text's, which are skipped.
    """

    own = ("prefix",)
    std = 0.02  # of the initial rows, as BERT draws its weights

    def __init__(self, linear: nn.Linear, n: int, *, fed: bool) -> None:
        super().__init__()
        self.linear, self.n, self.fed = linear, n, fed
        self.prefix = Rows(n, linear.out_features, linear.weight)

    def draw(self, rng: torch.Generator) -> None:
        _fill(self.prefix.rows, self.std * torch.randn(self.prefix.rows.shape, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.linear(x if self.off or not self.fed else x[:, self.n :])
        return given if self.off else torch.cat([self.prefix(x).to(given.dtype), given], dim=1)


class Widened(Inserted):
    """An attention module whose mask lets every token see n more keys.

    DistilBERT's counts keys by its input: there n tokens are put before the inputs of the key and value maps.
    """

    def __init__(self, attention: nn.Module, n: int) -> None:
        super().__init__()
        self.attention, self.n, self._mask = attention, n, _argument(attention, MASK)

    def forward(self, *args: Any, **named: Any) -> Any:
        if not self.off:
            args, named = _changed(args, named, self._mask, partial(_longer, n=self.n))
            padded = {name: F.pad(named[name], (0, 0, self.n, 0)) for name in ("key", "value") if name in named}
            named = named | padded
        return self.attention(*args, **named)


class Carried:
    """The states of a prompt between two layers of one pass; a copy holds none."""

    states: Tensor | None = None

    def __deepcopy__(self, _memo: Any) -> Carried:
        return Carried()


class Prompted(Inserted):
    """A layer that computes a prompt's states [texts, n, hidden] beside the text's, each seeing both.

    The first layer takes them from its trained rows, the others from the layer below. The text's states alone come in
    and go out.
    """

    own = ("prompt",)
    bound = 0.5  # of the initial rows, as Lester et al. draw them

    def __init__(self, layer: nn.Module, n: int, carried: Carried, *, rows: Rows | None, last: bool) -> None:
        super().__init__()
        self.layer, self.n, self.carried, self.prompt, self.last = layer, n, carried, rows, last
        self._states, self._mask = _argument(layer, STATES), _argument(layer, MASK)

    def draw(self, rng: torch.Generator) -> None:
        if self.prompt is not None:
            drawn = torch.empty(self.prompt.rows.shape).uniform_(-self.bound, self.bound, generator=rng)
            _fill(self.prompt.rows, drawn)

    def forward(self, *args: Any, **named: Any) -> Any:
        if self.off:
            return self.layer(*args, **named)
        args, named = _changed(args, named, self._states, self._with_prompt)
        args, named = _changed(args, named, self._mask, partial(_longer, n=self.n, queries=True))
        output = self.layer(*args, **named)
        found = output[0] if isinstance(output, tuple) else output
        self.carried.states = None if self.last else found[:, : self.n]
        text = found[:, self.n :]
        return (text, *output[1:]) if isinstance(output, tuple) else text

    def _with_prompt(self, states: Tensor) -> Tensor:
        prompt = self.carried.states if self.prompt is None else self.prompt(states)
        assert prompt is not None  # the layer below has left it
        return torch.cat([prompt.to(states.dtype), states], dim=1)


def _fill(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def _argument(module: nn.Module, names: Sequence[str]) -> tuple[int, str]:
    """(position, name) of the argument that goes by one of these names."""
    known = list(inspect.signature(module.forward).parameters)
    return next((i, name) for i, name in enumerate(known) if name in names)


def _changed(
    args: tuple[Any, ...], named: Mapping[str, Any], which: tuple[int, str], change: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    position, name = which
    if name in named:
        return args, {**named, name: change(named[name])}
    if position < len(args):
        return (*args[:position], change(args[position]), *args[position + 1 :]), {**named}
    return args, {**named}


def _longer(mask: Tensor | None, *, n: int, queries: bool = False) -> Tensor | None:
    """The mask with n keys in front that all see: [texts, keys], or [texts, 1, queries, keys], added or boolean.

    ``queries``: and with n queries in front, which see what any of the others does.
    """
    if mask is None or mask.ndim == 2:
        return None if mask is None else F.pad(mask, (n, 0), value=1)
    if queries and mask.shape[2] > 1:
        seen = mask.any(dim=2, keepdim=True) if mask.dtype == torch.bool else mask.amax(dim=2, keepdim=True)
        mask = torch.cat([seen.expand(-1, -1, n, -1), mask], dim=2)
    front = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
    return torch.cat([front(*mask.shape[:3], n), mask], dim=3)


# ---------------------------------------------------------------------------------------------- putting them in
def hosted(network: nn.Module, adapter: Mapping[str, Any]) -> nn.Module:
    """A copy of the network with this adapter's modules, in a fixed state; the same network where it has some.

    ``adapter``: its keys. Raises ``ValueError`` where the network has no place for them.
    """
    if parts_of(network):
        return network
    return insert(copy.deepcopy(network), adapter)


def insert(network: nn.Module, adapter: Mapping[str, Any]) -> nn.Module:
    """The network itself, changed, with a ``disable_adapter()`` that opens it without the modules."""
    layers = _layers_of(network)
    used = layers[-adapter["layers"] :] if adapter.get("layers") else layers
    if adapter["kind"] in ("houlsby", "pfeiffer"):
        places = [AFTER_ATTENTION, AFTER_FFN] if adapter["kind"] == "houlsby" else [AFTER_FFN]
        paths = [[_found(layer, names) for names in places] for layer in used]
        for layer, own in zip(used, paths, strict=True):
            for path in own:
                width = max(1, layer.get_submodule(path).out_features // adapter["reduction"])
                _wrap(layer, path, partial(Bottleneck, width=width, activation=adapter["activation"]))
    elif adapter["kind"] == "prefix":
        attentions = [_found(layer, ATTENTION) for layer in used]
        for layer, path in zip(used, attentions, strict=True):
            _prefix(layer, path, adapter["length"])
    elif adapter["kind"] == "prompt":
        _prompt(network, layers, adapter["length"])
    else:
        raise ValueError(f"{adapter['kind']!r} puts no modules into a network")
    vars(network)["disable_adapter"] = partial(switched_off, network)
    return network


def parts_of(network: nn.Module) -> list[Inserted]:
    """The modules that adapters have put into the network."""
    return [module for module in network.modules() if isinstance(module, Inserted)]


def trained_names(network: nn.Module) -> set[str]:
    """The parameters of these modules that are trained: all but those of what they are put around."""
    parts = [(path, part) for path, part in network.named_modules() if isinstance(part, Inserted)]
    inside = tuple(f"{path}.{child}." for path, part in parts for child in part.own)
    return {name for name, _ in network.named_parameters() if name.startswith(inside)}


@contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """While open, the network runs without the modules."""
    before = [(part, part.off) for part in parts_of(network)]
    try:
        for part, _ in before:
            part.off = True
        yield
    finally:
        for part, off in before:
            part.off = off


def _prefix(layer: nn.Module, path: str, n: int) -> None:
    attention = layer.get_submodule(path)
    fed = "key" in inspect.signature(attention.forward).parameters
    for names in (KEY, VALUE):
        _wrap(attention, _found(attention, names), partial(Prefixed, n=n, fed=fed))
    _wrap(layer, path, partial(Widened, n=n))


def _prompt(network: nn.Module, layers: Sequence[nn.Module], n: int) -> None:
    config: Any = network.config
    stack = next(m for m in network.modules() if isinstance(m, nn.ModuleList) and list(m) == list(layers))
    rows, carried = Rows(n, config.hidden_size, next(layers[0].parameters())), Carried()
    for i, layer in enumerate(layers):
        stack[i] = Prompted(layer, n, carried, rows=None if i else rows, last=i == len(layers) - 1)


def _layers_of(network: nn.Module) -> list[nn.Module]:
    config: Any = getattr(network, "config", None)
    n_layers = getattr(config, "num_hidden_layers", 0)
    stacks = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not stacks or not n_layers:
        raise ValueError(f"the layers of {type(network).__name__} can't be told")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"the attention of {type(network).__name__} counts the distance of tokens")
    return list(stacks[0])


def _found(module: nn.Module, paths: Sequence[str]) -> str:
    """The first of these paths that the module has."""
    known = {path for path, _ in module.named_modules()}
    for path in paths:
        if path in known:
            return path
    raise ValueError(f"{type(module).__name__} has no {' or '.join(paths)}")


def _wrap(module: nn.Module, path: str, around: Callable[[Any], nn.Module]) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, around(module.get_submodule(path)))
