"""What every adapter kind offers: it is put on a network, trained, taken off as tensors, and folded into weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.mixture import Member


class Adapter(Spec, ABC):
    """A small set of trainable weights on a frozen network. The classification head belongs to it."""

    can_be_off: ClassVar[bool] = True  # whether the network also runs without it: ``disable_adapter()``

    folds: ClassVar[bool] = (
        True  # whether its effect is one on the network's own weights, so that a plain model results
    )

    @property
    @abstractmethod
    def spaces(self) -> tuple[str, ...]:
        """Merge spaces ("delta", "factors", "weights") in which mixes of this kind are defined, the default first."""

    def host(self, network: Module) -> Module:
        """The network that folded parameters are put into: the given one, or a copy with the adapter's modules."""
        return network

    @abstractmethod
    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:
        """The network with this adapter on it, trainable: only the adapter and the ``head`` parameters learn.

        The network is changed in place. Initial weights depend on ``seed`` alone.
        """

    @abstractmethod
    def extract(self, adapted: Module) -> dict[str, Tensor]:
        """The trained tensors, head included, on the CPU in float32."""

    @abstractmethod
    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's parameters that the adapter changes, with its effect folded in: W0 + dW, and the head.

        Folded weights mix exactly: a convex combination of W0 + dW_i is W0 + the same combination of the dW_i.
        """

    def member(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Member:
        """The same as ``fold`` gives, with low-rank changes left as two factors."""
        from robusweep.mixture import Member

        return Member(self.fold(base, tensors))

    @abstractmethod
    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        """How many numbers are trained, head included."""
