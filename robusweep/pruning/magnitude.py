"""Magnitude pruning: the control that reads no text to decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robusweep.pruning.base import Pruning, Seen

if TYPE_CHECKING:
    from torch import Tensor


class MagnitudePruning(Pruning):
    """The smallest weights of each map go, or the columns of least L2 norm; the others stay as they are.

    Texts are read to measure the error alone.
    """

    kind: Literal["magnitude"] = "magnitude"

    def without_weights(self, weight: Tensor, seen: Seen, n: int) -> Tensor:  # noqa: ARG002 - weights alone decide
        from robusweep.pruning.surgery import smallest

        return weight.masked_fill(smallest(weight.abs(), n), 0.0)

    def without_inputs(self, weight: Tensor, seen: Seen, n: int, *, size: int) -> Tensor:  # noqa: ARG002
        from robusweep.pruning.surgery import smallest

        norms = weight.double().square().sum(dim=0).view(-1, size).sum(dim=1)
        return weight.masked_fill(smallest(norms, n).repeat_interleave(size), 0.0)
