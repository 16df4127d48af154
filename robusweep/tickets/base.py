"""What every ticket offers: how much it keeps, whether it needs a search, and its masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.spec import Spec
from robusweep.tickets.coefficients import CoefficientRecord
from robusweep.tickets.drawing import Drawn, Size

if TYPE_CHECKING:
    from torch.nn import Module


class Ticket(Spec, ABC):
    """A sub-network: whole attention heads and feed-forward neurons that are kept; the rest is removed.

    Densities are the fractions kept: of all layers' units together (``scope: global``), or of each layer's. The
    released script keeps 5/6 of the heads and 0.6 of the neurons. Every layer keeps one head and ``min_neurons``.
    ``round_to`` raises each layer's number of neurons to a multiple, for hardware that wants one.
    """

    kind: str
    head_density: float = Field(0.83, gt=0, le=1)
    neuron_density: float = Field(0.6, gt=0, le=1)
    scope: Literal["global", "layer"] = "global"
    min_neurons: int = Field(8, ge=1)
    round_to: int | None = Field(None, ge=1)

    @property
    def size(self) -> Size:
        return Size(
            head_density=self.head_density,
            neuron_density=self.neuron_density,
            scope=self.scope,
            min_neurons=self.min_neurons,
            round_to=self.round_to,
        )

    @property
    def needs_search(self) -> bool:
        """Whether it is drawn from a ``CoefficientRecord``; else from the network."""
        return False

    @property
    def search_digest(self) -> str | None:
        """A digest of the keys that a whole search depends on: tickets that share it can be drawn from one record.

        Model, data, seed and precision are the caller's to add. None: there is no search.
        """
        return None

    @abstractmethod
    def draw(self, source: CoefficientRecord | Module, *, seed: int) -> Drawn:
        """The ticket: from a record when ``needs_search``, else from the network, which is left as it is."""


class Searched(Ticket, ABC):
    """A ticket that is drawn from the coefficients of a search."""

    @property
    def needs_search(self) -> bool:
        return True

    @abstractmethod
    def search(
        self,
        network: Module,
        tokens: Sequence[Sequence[int]],
        labels: Sequence[int],
        *,
        pad_id: int,
        seed: int,
        bf16: bool,
        stop: bool = True,
        on_step: Callable[[float], None] | None = None,
    ) -> CoefficientRecord:
        """The coefficients along a search, which ends as soon as this ticket can be drawn, or goes on (``stop``).

        ``network`` is left as it is.
        """

    @abstractmethod
    def suffices(self, record: CoefficientRecord) -> bool:
        """Whether this ticket can be drawn from a record that another ticket's search may have ended early."""
