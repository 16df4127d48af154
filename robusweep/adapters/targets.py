"""The linear maps of attention that an adapter can sit on, and what PEFT calls the parameters it puts there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from robusweep.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear, Module

Role = Literal["query", "key", "value"]
ROLES: dict[Role, tuple[str, ...]] = {  # role in an attention block: the names that model families give it
    "query": ("query", "q_lin", "query_proj", "q_proj"),
    "key": ("key", "k_lin", "key_proj", "k_proj"),
    "value": ("value", "v_lin", "value_proj", "v_proj"),
}


def linear_maps(network: Module) -> dict[str, list[Linear]]:
    """Every linear map of the network, by the last part of its name."""
    from torch.nn import Linear

    found: dict[str, list[Linear]] = {}
    for name, module in network.named_modules():
        if isinstance(module, Linear):
            found.setdefault(name.rpartition(".")[2], []).append(module)
    return found


def target_names(network: Module, roles: Sequence[Role]) -> list[str]:
    """What this network calls the maps of these roles. Raises ``RecipeError`` with the maps that it has."""
    leaves = linear_maps(network).keys()
    missing = [role for role in roles if leaves.isdisjoint(ROLES[role])]
    if missing:
        raise RecipeError(
            f"adapter.targets: this model has no linear map for {', '.join(missing)} (its linear maps: "
            f"{', '.join(sorted(leaves))})",
            hint="use a model with separate query, key and value maps, or adapter: {kind: full}",
        )
    return sorted(leaf for role in roles for leaf in leaves & set(ROLES[role]))


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
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").removesuffix(".default.weight")
