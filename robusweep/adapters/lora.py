"""LoRA (Hu et al. 2021, arXiv:2106.09685) through PEFT; the head is managed here, not by PEFT.

PEFT's SEQ_CLS task type keeps the head in ``modules_to_save``, which then refuses to be combined; so the task type is
left out and the head's parameters are made trainable by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.adapters.base import Adapter
from robusweep.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

ROLES = {  # role of a linear map in an attention block: the names that model families give it
    "query": ("query", "q_lin", "query_proj", "q_proj"),
    "key": ("key", "k_lin", "key_proj", "k_proj"),
    "value": ("value", "v_lin", "value_proj", "v_proj"),
}


class Lora(Adapter):
    """Low-rank updates ``dW = alpha / rank * B A`` of the named linear maps. B starts at zero, so dW does too."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, le=512)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[Literal["query", "key", "value"]] = Field(["query", "value"], min_length=1)

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:
        import torch
        from peft import LoraConfig, get_peft_model

        leaves = {name.rpartition(".")[2] for name, module in network.named_modules() if _is_linear(module)}
        missing = [role for role in self.targets if leaves.isdisjoint(ROLES[role])]
        if missing:
            raise RecipeError(
                f"adapter.targets: this model has no linear map for {', '.join(missing)} (its linear maps: "
                f"{', '.join(sorted(leaves))})",
                hint="use a model with separate query, key and value maps, or adapter: {kind: full}",
            )
        names = sorted(leaf for role in self.targets for leaf in leaves.intersection(ROLES[role]))
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted: Module = get_peft_model(network, config)
        for name, parameter in adapted.named_parameters():
            if _plain(name) in head:
                parameter.requires_grad_(True)
        return adapted

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        learnt = ((_plain(n), p) for n, p in adapted.named_parameters() if p.requires_grad)
        return {name: value.detach().float().cpu().contiguous().clone() for name, value in learnt}

    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        folded = {}
        for name, value in tensors.items():
            if name.endswith(".lora_A"):
                target = f"{name.removesuffix('.lora_A')}.weight"
                b = tensors[f"{name.removesuffix('.lora_A')}.lora_B"]
                weight = base[target].detach()
                folded[target] = weight + (self.alpha / self.rank) * (b @ value).to(weight)
            elif not name.endswith(".lora_B"):
                folded[name] = value.to(base[name])
        return folded

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())


def _is_linear(module: Module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)


def _plain(name: str) -> str:
    """PEFT's parameter name as the base network's: ``…query.lora_A.default.weight`` -> ``…query.lora_A``."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name.removesuffix(".default.weight") if ".lora_" in name else name
