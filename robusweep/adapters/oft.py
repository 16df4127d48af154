"""Orthogonal fine-tuning (Qiu et al., NeurIPS 2023, arXiv:2306.07280) through PEFT, with the exact Cayley transform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.adapters.base import Adapter
from robusweep.adapters.targets import Role, learnt, linear_maps, role_of, target_names, with_head
from robusweep.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Oft(Adapter):
    """Rotate what the named linear maps read: W becomes W R^T, where R is orthogonal and starts at the identity.

    R is block-diagonal with blocks of ``block_size`` inputs, which has to divide the map's width. Each block is
    R = (I - Q) (I + Q)^-1 of a skew-symmetric Q, whose upper triangle is trained. PEFT's default, a Neumann series of
    this, is cheaper and only nearly orthogonal: it is not used. Angles and lengths between the rows of W stay as
    pre-trained; a mix of two adapters no longer does that, since a mean of rotations is no rotation.
    OrthSR (arXiv:2407.08374) adds ``regularisers: [{kind: self_regularisation}]``.
    """

    kind: Literal["oft"] = "oft"
    block_size: int = Field(32, ge=2, le=1024)
    targets: list[Role] = Field(["query", "value"], min_length=1)
    layers: int | None = Field(None, ge=1)

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("delta",)

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:  # noqa: ARG002 - nothing is drawn
        from peft import OFTConfig, get_peft_model

        names, maps = target_names(network, self.targets, self.layers), linear_maps(network)
        for name in names:
            self._check(role_of(name) or name, maps[name].in_features)
        config = OFTConfig(oft_block_size=self.block_size, use_cayley_neumann=False, target_modules=names)
        return with_head(get_peft_model(network, config), head)

    def _check(self, name: str, width: int) -> None:
        if width % self.block_size:
            sizes = [str(size) for size in range(2, min(width, 1024) + 1) if width % size == 0]
            raise RecipeError(
                f"adapter.block_size: {self.block_size} does not divide the {width} inputs of this model's {name} map",
                hint=f"take one of {', '.join(sizes)}",
            )

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        return learnt(adapted)

    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        folded = {}
        for name, value in tensors.items():
            if name.endswith(".oft_R"):
                target = f"{name.removesuffix('.oft_R')}.weight"
                folded[target] = rotated(base[target].detach(), rotations(value, self.block_size))
            else:
                folded[name] = value.to(base[name])
        return folded

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())


def rotations(entries: Tensor, size: int) -> Tensor:
    """[blocks, size, size], orthogonal, from the upper triangles of Q, [blocks, size * (size - 1) / 2], row by row."""
    import torch

    rows, columns = torch.triu_indices(size, size, 1, device=entries.device)
    upper = entries.new_zeros(len(entries), size, size)
    upper[:, rows, columns] = entries
    skew, one = upper - upper.mT, torch.eye(size, device=entries.device, dtype=entries.dtype)
    found: Tensor = torch.linalg.solve(one + skew, one - skew, left=False)
    return found


def rotated(weight: Tensor, blocks: Tensor) -> Tensor:
    """W R^T for W [outputs, inputs] and the diagonal blocks of R, [blocks, size, size]."""
    import torch

    cut = weight.unflatten(1, blocks.shape[:2])
    return torch.einsum("obj,bij->obi", cut, blocks.to(weight)).flatten(1)
