"""Dynamic parameter selection (Zhang et al., NeurIPS 2022, arXiv:2211.01642), the dense variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.updates.base import Rule, Update

if TYPE_CHECKING:
    from torch.nn import Parameter


class Dps(Update):
    """Stages in turn: all weights learn; then only those with the largest gradients of that stage do.

    A stage is ``update_ratio`` of the run's steps, at least one. The first of a pair sums the squared gradient of each
    weight (after clipping, once a step); in the second, the ``frozen`` share of each matrix with the smallest sums
    keeps its values bit for bit. Sums start anew with every pair. Weights tied with the smallest free one are free, as
    in the authors' code: a matrix without any gradient is not frozen.
    Only matrices of linear maps take part, the factors or angles of an adapter included; biases, LayerNorms and tables
    of embeddings always learn. A frozen weight's gradient is zeroed, so that its moments in AdamW fade, and its value
    is put back after the step: a zero gradient alone would leave it to momentum and decay. ``frozen: 0`` is plain
    training bit for bit.
    """

    kind: Literal["dps"] = "dps"
    frozen: float = Field(0.3, ge=0, lt=1)
    update_ratio: float = Field(0.05, gt=0, le=0.5)

    def begin(self, weights: Mapping[str, Parameter], *, n_steps: int, seed: int) -> Rule:  # noqa: ARG002
        from robusweep.training.updates.dps_rule import DpsRule

        return DpsRule(weights, frozen=self.frozen, stage=max(1, int(self.update_ratio * n_steps)))
