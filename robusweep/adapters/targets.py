"""The linear maps that an adapter can sit on, and what PEFT calls the parameters it puts there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from robusweep.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear, Module

Role = Literal["query", "key", "value", "output", "up", "down"]
ROLES: dict[Role, tuple[str, ...]] = {  # what ends the name of a map, by model family; of several the longest counts
    "query": ("query", "q_lin", "query_proj", "q_proj"),
    "key": ("key", "k_lin", "key_proj", "k_proj"),
    "value": ("value", "v_lin", "value_proj", "v_proj"),
    "output": ("attention.output.dense", "attention.out_lin"),
    "up": ("intermediate.dense", "ffn.lin1"),
    "down": ("output.dense", "ffn.lin2"),
}


def linear_maps(network: Module) -> dict[str, Linear]:
    """Every linear map of the network, by its path."""
    from torch.nn import Linear

    return {path: module for path, module in network.named_modules() if isinstance(module, Linear)}


def role_of(path: str) -> Role | None:
    """What the map at this path does; None where its name does not tell."""
    ends = [(len(end), role) for role, names in ROLES.items() for end in names if f".{path}".endswith(f".{end}")]
    return max(ends)[1] if ends else None


def target_names(network: Module, roles: Sequence[Role], layers: int | None = None) -> list[str]:
    """The paths of this network's maps of these roles, in the top ``layers`` layers alone where a number is given.

    Raises ``RecipeError`` with the maps, or the number of layers, that it has.
    """
    maps = {path: role_of(path) for path in linear_maps(network)}
    missing = [role for role in roles if role not in maps.values()]
    if missing:
        leaves = {path.rpartition(".")[2] for path in maps}
        raise RecipeError(
            f"adapter.targets: this model has no linear map for {', '.join(missing)} (its linear maps: "
            f"{', '.join(sorted(leaves))})",
            hint="use a model with separate query, key and value maps, or adapter: {kind: full}",
        )
    inside = None if layers is None else tuple(f"{path}." for path in top_layers(network, layers))
    return [path for path, role in maps.items() if role in roles and (inside is None or path.startswith(inside))]


def top_layers(network: Module, layers: int) -> list[str]:
    """The paths of the last so many transformer layers. Raises ``RecipeError`` where there are fewer."""
    from torch.nn import ModuleList

    n_layers = getattr(getattr(network, "config", None), "num_hidden_layers", 0)
    lists = [path for path, module in network.named_modules() if isinstance(module, ModuleList)]
    stacks = [path for path in lists if len(list(network.get_submodule(path).children())) == n_layers]
    if not n_layers or not stacks:
        raise RecipeError(
            f"adapter.layers: {layers}, but the layers of {type(network).__name__} can't be told",
            hint="take null, which means all of them",
        )
    if layers > n_layers:
        raise RecipeError(
            f"adapter.layers: {layers}, but this model has {n_layers} layers",
            hint=f"take 1 to {n_layers}, or null for all of them",
        )
    return [f"{stacks[0]}.{i}" for i in range(n_layers - layers, n_layers)]


def with_head(adapted: Module, head: Sequence[str]) -> Module:
    """The adapted network, with the ``head`` parameters trainable, too.

    PEFT's SEQ_CLS task type keeps the head in ``modules_to_save``, which then refuses to be combined; so the task
    type is left out and the head is managed by name.
    """
    for name, parameter in adapted.named_parameters():
        if plain(name) in head:
            parameter.requires_grad_(True)
    return adapted


def learnt(adapted: Module) -> dict[str, Tensor]:
    """Copies of what is trainable, on the CPU in float32."""
    found = ((plain(name), p) for name, p in adapted.named_parameters() if p.requires_grad)
    return {name: value.detach().float().cpu().contiguous().clone() for name, value in found}


def plain(name: str) -> str:
    """PEFT's parameter name as the base network's: ``…query.lora_A.default.weight`` -> ``…query.lora_A``."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name.removesuffix(".default.weight").removesuffix(".default")
