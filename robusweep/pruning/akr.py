"""Adaptive knowledge-retention pruning (AKR: Li et al., EMNLP 2023, "Towards Robust Pruning")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.pruning.base import Pruning, Seen

if TYPE_CHECKING:
    from torch import Tensor


class Akr(Pruning):
    """What each map gave in the dense network is what it shall give behind pruned ones: solve for that, then remove.

    With X what a map W reads in the dense network and X' what it reads behind the maps that are pruned already, W first
    becomes the W' with the least ``|W X - W' X'|^2 + lambda |W - W'|^2`` (``resolve``; false leaves it out). Then
    weights go by optimal brain surgery, with ``H = X' X'^T + lambda I``: of least ``w^2 / (H^-1)_pp``, and what is kept
    makes up for them. ``damping`` times the mean of the diagonal of X' X'^T is lambda: with few texts and little of it,
    maps come to fit those texts alone.

    Single weights are met column by column, in blocks of 32: a block's share of the removals is fixed by the criterion
    before anything is removed, which of its weights go by the criterion once all blocks before it are done; kept
    weights of later columns make up. That costs outputs * inputs^2 + inputs^3 for a map (SparseGPT, Frantar and
    Alistarh 2023, has equal shares). Heads go one by one and neurons in at most 64 rounds, and all that is kept makes
    up, exactly.

    The paper starts from an average of several fine-tuned models; ``mix: {kind: uniform}`` gives that of one trial's
    adapters. Its body was not read and no code is public: the objective is inferred from summaries. A lambda that holds
    W' at W and not at 0 is ours.
    """

    kind: Literal["akr"] = "akr"
    damping: float = Field(0.1, gt=0, le=10)
    resolve: bool = True

    def prepared(self, weight: Tensor, seen: Seen) -> Tensor:
        from robusweep.pruning.surgery import resolved

        return resolved(weight, seen.gram, seen.cross, damping=self.damping) if self.resolve else weight

    def without_weights(self, weight: Tensor, seen: Seen, n: int) -> Tensor:
        from robusweep.pruning.surgery import damped, without_weights

        return without_weights(weight, damped(seen.gram, self.damping), n)

    def without_inputs(self, weight: Tensor, seen: Seen, n: int, *, size: int) -> Tensor:
        from robusweep.pruning.surgery import damped, without_groups

        return without_groups(weight, damped(seen.gram, self.damping), n, size=size)
