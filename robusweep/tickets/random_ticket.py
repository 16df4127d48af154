"""Random tickets: the control that a searched ticket of the same size must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robusweep.errors import StageError
from robusweep.seeds import generator
from robusweep.tickets.base import Ticket
from robusweep.tickets.coefficients import CoefficientRecord
from robusweep.tickets.drawing import Drawn

if TYPE_CHECKING:
    from torch.nn import Module


class RandomTicket(Ticket):
    """Heads and neurons kept by lot: as many as any ticket with these densities keeps."""

    kind: Literal["random"] = "random"

    def draw(self, source: CoefficientRecord | Module, *, seed: int) -> Drawn:
        if isinstance(source, CoefficientRecord):
            raise StageError("ticket random: is drawn from a network")
        from robusweep.tickets.parts import shape_of

        n_layers, n_heads, n_neurons = shape_of(source)
        lots = [generator(seed, "random ticket", what) for what in ("heads", "neurons")]
        return Drawn(self.size.masks(lots[0].random((n_layers, n_heads)), lots[1].random((n_layers, n_neurons))))
