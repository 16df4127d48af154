"""Full fine-tuning as the degenerate adapter: every weight learns, and mixing is weight averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from robusweep.adapters.base import Adapter

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Full(Adapter):
    """All parameters are trained. Mixing two such sets is a model soup (Wortsman et al. 2022, arXiv:2203.05482)."""

    kind: Literal["full"] = "full"
    can_be_off: ClassVar[bool] = False

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("weights", "delta")

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:  # noqa: ARG002 - nothing is drawn
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        return network

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        return {n: p.detach().float().cpu().contiguous().clone() for n, p in adapted.named_parameters()}

    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(base[name]) for name, value in tensors.items()}

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())
