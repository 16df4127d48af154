"""(IA)^3 (Liu et al., NeurIPS 2022, arXiv:2205.05638) through PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.adapters.base import Adapter
from robusweep.adapters.targets import learnt, role_of, target_names, with_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Ia3(Adapter):
    """One factor, at first 1, for each number that the key and value maps give and that the second map of the
    feed-forward network reads.

    Folded, these are factors of the rows of W and of the bias (key, value), and of the columns of W (feed-forward).
    """

    kind: Literal["ia3"] = "ia3"
    layers: int | None = Field(None, ge=1)

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("delta",)

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:
        import torch
        from peft import IA3Config, get_peft_model

        config = IA3Config(
            target_modules=target_names(network, ["key", "value", "down"], self.layers),
            feedforward_modules=target_names(network, ["down"], self.layers),
        )
        with torch.random.fork_rng(devices=[]):  # PEFT draws before it sets the factors to 1
            torch.manual_seed(seed)
            return with_head(get_peft_model(network, config), head)

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        return learnt(adapted)

    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        folded = {}
        for name, value in tensors.items():
            if not name.endswith(".ia3_l"):
                folded[name] = value.to(base[name])
                continue
            path = name.removesuffix(".ia3_l")
            weight = base[f"{path}.weight"].detach()
            factors = value.to(weight)  # [1, inputs] of a feed-forward map, [outputs, 1] of the others
            folded[f"{path}.weight"] = weight * factors
            if role_of(path) != "down" and f"{path}.bias" in base:
                folded[f"{path}.bias"] = base[f"{path}.bias"].detach() * factors[:, 0]
        return folded

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())
