"""What every ticket offers: how much it keeps, whether it needs a search, and its masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.spec import Spec
from robusweep.tickets.coefficients import CoefficientRecord, Gaps
from robusweep.tickets.drawing import Drawn, Size, Values
from robusweep.tickets.masks import Masks

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.tickets.gates import Gates, HardConcrete


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
    """A ticket that is drawn from the coefficients of a search.

    The search trains on embeddings that ``n_steps`` steps of length ``step_size`` (L2 over a text's tokens) move.
    ``freelb``: each step also teaches, ``n_steps`` passes in all, and the perturbation moves n_steps - 1 times; 1 with
    ``init_magnitude: 0`` is plain training. ``pgd``: the last of n_steps + 1 passes teaches.
    """

    adversary: Literal["freelb", "pgd"] = "freelb"
    n_steps: int = Field(5, ge=1, le=100)
    step_size: float = Field(0.01, gt=0)
    init_magnitude: float = Field(0.05, ge=0)
    max_norm: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1, le=4096)
    batches: Literal["grouped", "shuffled"] = "grouped"
    n_epochs: int = Field(1, ge=1, le=1000)
    gaps_per_epoch: int = Field(20, ge=1)

    @property
    def needs_search(self) -> bool:
        return True

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
        from robusweep.tickets.search import search

        return search(
            network, tokens, labels, spec=self, pad_id=pad_id, seed=seed, bf16=bf16, stop=stop, on_step=on_step
        )

    @abstractmethod
    def suffices(self, record: CoefficientRecord) -> bool:
        """Whether this ticket can be drawn from a record that another ticket's search may have ended early."""

    # ------------------------------------------------------------------------------------------- how to search
    @property
    def ends_after(self) -> float:
        """Epochs after which the search ends in any case."""
        return self.n_epochs

    @property
    def tuning(self) -> tuple[int, float] | None:
        """(epochs, peak learning rate) of plain training before the search; None: the network as it is."""
        return None

    @property
    @abstractmethod
    def rates(self) -> tuple[float | None, float]:
        """Peak learning rates of (the weights, None where they rest; the coefficients)."""

    @abstractmethod
    def gates(self, network: Module, *, seed: int) -> Gates | HardConcrete:
        """The coefficients before the search, on the network's device; what they draw depends on ``seed`` alone."""

    @abstractmethod
    def penalty(self, heads: Tensor, neurons: Tensor, progress: float) -> Tensor:
        """What joins the loss; ``progress`` is the share of the schedule that is done."""

    # ------------------------------------------------------------------------------------------- when to draw
    def watched(self, heads: Values, neurons: Values) -> Masks:
        """The masks of these coefficients that are compared between gaps: as drawn, but for ``round_to``."""
        return replace(self.size, round_to=None).masks(heads, neurons)

    def settled(self, masks: Sequence[Masks], gaps: Gaps) -> int | None:  # noqa: ARG002 - a search is whole
        """The gap to draw at, as far as the masks of gap 1 and on tell; None while they don't."""
        return None
