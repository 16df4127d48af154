"""LoRA (Hu et al. 2021, arXiv:2106.09685) through PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.adapters.base import Adapter
from robusweep.adapters.targets import Role, learnt, target_names, with_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.mixture import Member


class Lora(Adapter):
    """Low-rank updates ``dW = alpha / rank * B A`` of the named linear maps. B starts at zero, so dW does too."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, le=512)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[Role] = Field(["query", "value"], min_length=1)

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("delta", "factors")

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:
        import torch
        from peft import LoraConfig, get_peft_model

        names = target_names(network, self.targets)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return with_head(get_peft_model(network, config), head)

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        return learnt(adapted)

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

    def member(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Member:
        from robusweep.mixture import Factors, Member

        maps = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
        scale = self.alpha / self.rank
        factors = {m: Factors(tensors[f"{m}.lora_A"], scale * tensors[f"{m}.lora_B"]) for m in maps}
        rest = {n: v.to(base[n]) for n, v in tensors.items() if not n.endswith((".lora_A", ".lora_B"))}
        return Member(rest, factors)

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())
