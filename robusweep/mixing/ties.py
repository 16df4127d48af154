"""TIES merging (Yadav et al., NeurIPS 2023, arXiv:2306.01708): a baseline from merging models of different tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from robusweep.mixing.base import Fixed, Mixer, System, TrainedSet

if TYPE_CHECKING:
    from torch import Tensor


class Ties(Mixer):
    """Trim each adapter's change of the weights, elect a sign for each number, average what agrees with it.

    ``density``: the share of each parameter's changes that is kept, the largest ones. ``scale`` multiplies the result.
    It is no convex combination: one adapter with ``density`` below 1 is not reproduced, by what was trimmed.
    """

    kind: Literal["ties"] = "ties"
    density: float = Field(0.5, gt=0, le=1)
    scale: float = Field(1.0, gt=0, le=10)
    needs: ClassVar[tuple[str, ...]] = ("delta",)

    def mix(self, adapters: TrainedSet) -> System:
        return Fixed(merged(adapters.base, adapters.folded, density=self.density, scale=self.scale))


def merged(
    base: Mapping[str, Tensor], members: Sequence[Mapping[str, Tensor]], *, density: float, scale: float
) -> dict[str, Tensor]:
    """``base + scale * (mean of the trimmed changes that have the elected sign)``, parameter by parameter.

    The elected sign of a number is that of the sum of its trimmed changes. Where none is left the base's stays.
    """
    import torch

    found = {}
    for name in members[0]:
        start = base[name].detach()
        changes = torch.stack([trimmed(member[name] - start, density) for member in members])
        agrees = changes.sign() == changes.sum(0).sign()
        n_agreeing = (agrees & (changes != 0)).sum(0).clamp(min=1)
        found[name] = start + scale * (changes * agrees).sum(0) / n_agreeing
    return found


def trimmed(change: Tensor, density: float) -> Tensor:
    """The change with all but the largest ``density`` of its numbers set to 0; at least one is kept."""
    n_kept = max(1, round(density * change.numel()))
    if n_kept == change.numel():
        return change
    least = change.abs().flatten().kthvalue(change.numel() - n_kept + 1).values
    return change * (change.abs() >= least)
