"""Magnitude tickets: the units with the largest weights, without a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robusweep.errors import StageError
from robusweep.tickets.base import Ticket
from robusweep.tickets.coefficients import CoefficientRecord
from robusweep.tickets.drawing import Drawn

if TYPE_CHECKING:
    from torch.nn import Module


class Magnitude(Ticket):
    """Keep heads and neurons by the L2 norm of all their weights, of the network as it is."""

    kind: Literal["magnitude"] = "magnitude"

    def draw(self, source: CoefficientRecord | Module, *, seed: int) -> Drawn:  # noqa: ARG002 - nothing is random
        if isinstance(source, CoefficientRecord):
            raise StageError("ticket magnitude: is drawn from a network")
        from robusweep.tickets.parts import weight_norms

        return Drawn(self.size.masks(*weight_norms(source)))
