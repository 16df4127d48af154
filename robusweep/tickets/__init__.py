"""Tickets: which heads and neurons are kept. A new one is one file and one name in ``AnyTicket``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robusweep.tickets.base import Ticket
from robusweep.tickets.coefficients import CoefficientRecord, SearchCosts
from robusweep.tickets.drawing import Drawn
from robusweep.tickets.early_bird import EarlyBird
from robusweep.tickets.magnitude import Magnitude
from robusweep.tickets.masks import Masks
from robusweep.tickets.random_ticket import RandomTicket
from robusweep.tickets.robust_ticket import RobustTicket

AnyTicket = Annotated[EarlyBird | RobustTicket | RandomTicket | Magnitude, Field(discriminator="kind")]

__all__ = [
    "AnyTicket",
    "CoefficientRecord",
    "Drawn",
    "EarlyBird",
    "Magnitude",
    "Masks",
    "RandomTicket",
    "RobustTicket",
    "SearchCosts",
    "Ticket",
]
