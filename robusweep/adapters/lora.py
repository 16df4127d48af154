"""LoRA (Hu et al. 2021, arXiv:2106.09685) and two variants of it, through PEFT."""

from __future__ import annotations

import math
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
    """Low-rank updates ``dW = alpha / rank * B A`` of the named linear maps. B starts at zero, so dW does too.

    ``rslora`` (Kalajdzievski 2023, arXiv:2312.03732) has ``alpha / sqrt(rank)``, so that large ranks learn as fast.
    ``dora`` (Liu et al. 2024, arXiv:2402.09353) trains the length of each row of W, too: W becomes ``m (W0 + dW)``,
    each row of the bracket divided by its length. Its mixes are of the changes of W that result.
    """

    kind: Literal["lora"] = "lora"
    variant: Literal["lora", "rslora", "dora"] = "lora"
    rank: int = Field(8, ge=1, le=512)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[Role] = Field(["query", "value"], min_length=1)
    layers: int | None = Field(None, ge=1)

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("delta",) if self.variant == "dora" else ("delta", "factors")

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.variant == "rslora" else self.rank)

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:
        import torch
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=target_names(network, self.targets, self.layers),
            use_rslora=self.variant == "rslora",
            use_dora=self.variant == "dora",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return with_head(get_peft_model(network, config), head)

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        return learnt(adapted)

    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps, folded = _maps(tensors), _rest(base, tensors)
        for name in maps:
            weight = base[f"{name}.weight"].detach()
            change = self.scale * (tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"])
            changed = weight + change.to(weight)
            if self.variant == "dora":
                lengths = tensors[f"{name}.lora_magnitude_vector"].to(weight) / changed.norm(dim=1)
                changed = lengths[:, None] * changed
            folded[f"{name}.weight"] = changed
        return folded

    def member(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Member:
        from robusweep.mixture import Factors, Member

        if self.variant == "dora":
            return Member(self.fold(base, tensors))
        factors = {m: Factors(tensors[f"{m}.lora_A"], self.scale * tensors[f"{m}.lora_B"]) for m in _maps(tensors)}
        return Member(_rest(base, tensors), factors)

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())


def _maps(tensors: Mapping[str, Tensor]) -> list[str]:
    """The linear maps that have an update."""
    return [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]


def _rest(base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that are trained as they are: the head."""
    return {name: value.to(base[name]) for name, value in tensors.items() if name in base}
