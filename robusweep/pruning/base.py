"""What every way to prune offers: how much goes, and a linear map without some of its weights or inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What a linear map reads on calibration texts, one column a token: X in the dense network, X' in the pruned one.

    ``gram`` is X' X'^T, ``cross`` is X X'^T, both [inputs, inputs] in float64. The same where nothing before the map
    was pruned.
    """

    gram: Tensor
    cross: Tensor


class Pruning(Spec, ABC):
    """The encoder's linear maps lose weights after training, layer by layer, first to last, without a gradient.

    Embeddings, LayerNorms, a pooler and the head stay. ``units: weights`` removes the same share of single weights from
    each map. ``structured`` removes whole heads and feed-forward neurons, the same share in each layer, which keeps one
    of both at least: the columns that read them become zero, and so do the rows that computed them, so that taking them
    out changes nothing but the size. ``n_texts`` training texts are read; a share of 0 changes no bit.
    """

    kind: str
    sparsity: float = Field(0.5, ge=0, lt=1)
    units: Literal["weights", "structured"] = "weights"
    n_texts: int = Field(256, ge=1)

    def n_removed(self, n: int) -> int:
        """How many of n weights or units go; one unit stays at least."""
        return min(round(self.sparsity * n), n - 1)

    def prepared(self, weight: Tensor, seen: Seen) -> Tensor:  # noqa: ARG002 - some change nothing before removal
        """The map [outputs, inputs] for what it reads now, before anything is removed from it."""
        return weight

    @abstractmethod
    def without_weights(self, weight: Tensor, seen: Seen, n: int) -> Tensor:
        """The map with ``n`` of its weights zero."""

    @abstractmethod
    def without_inputs(self, weight: Tensor, seen: Seen, n: int, *, size: int) -> Tensor:
        """The map with ``n`` of its groups of ``size`` neighbouring columns zero."""
