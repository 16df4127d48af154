"""Robust early-bird tickets (Xi et al., EMNLP 2022, arXiv:2211.07263), with what its public code does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.errors import StageError
from robusweep.spec import digest_of
from robusweep.tickets.base import Searched
from robusweep.tickets.coefficients import CoefficientRecord, Gaps
from robusweep.tickets.drawing import Drawn, apart, settled_gap
from robusweep.tickets.masks import Masks

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.tickets.gates import Gates

# Keys that say when a search ends and what is drawn from it, and not what happens in it.
OF_DRAWING = {
    *("head_density", "neuron_density", "scope", "min_neurons", "round_to"),
    *("threshold", "window", "take", "draw_epoch"),
}


class EarlyBird(Searched):
    """Train coefficients of heads and neurons with all weights, adversarially and briefly; keep the largest.

    The search trains on embeddings that ``n_steps`` steps of length ``step_size`` (L2 over a text's tokens) move.
    ``freelb``: each step also teaches, ``n_steps`` passes in all, and the perturbation moves n_steps - 1 times; 1 with
    ``init_magnitude: 0`` is plain training. ``pgd``: the last of n_steps + 1 passes teaches. ``init_magnitude``: size
    of the random start; ``max_norm``: L2 ball around a text's embeddings, null is unbounded. ``l1_heads`` and
    ``l1_neurons`` weigh the sums of the coefficients' absolute values in the loss. The learning rate rises linearly
    over ``warmup`` of ``n_epochs``, then falls linearly to 0 at their end, which the search need not reach: it ends
    after ``max_epochs``. ``coefficient_rate``: a learning rate for the coefficients (ours); null takes the weights'.

    The ticket is drawn at the first of ``gaps_per_epoch`` gaps whose masks differ from those of each of the ``window``
    next gaps in less than a fraction ``threshold`` of all heads, and of all neurons; ``take: last`` draws at the end
    of that window. Where there is no such gap, it is drawn at the last gap. ``threshold: null`` draws after
    ``draw_epoch`` epochs, as the released script does. The threshold's default is ours. Weights learnt here are
    thrown away: the ticket is trained from the pre-trained ones.
    """

    kind: Literal["early_bird"] = "early_bird"
    l1_heads: float = Field(1e-5, ge=0)
    l1_neurons: float = Field(2e-4, ge=0)
    learning_rate: float = Field(2e-5, gt=0, le=1)
    coefficient_rate: float | None = Field(None, gt=0, le=1)
    max_epochs: float = Field(1.0, gt=0)
    threshold: float | None = Field(0.1, gt=0, le=1)
    window: int = Field(5, ge=1)
    take: Literal["first", "last"] = "first"
    draw_epoch: float = Field(0.2, gt=0)

    @model_validator(mode="after")
    def _within(self) -> EarlyBird:
        if self.max_epochs > self.n_epochs:
            raise ValueError(f"max_epochs: {self.max_epochs} is more than the {self.n_epochs} n_epochs of the schedule")
        if self.threshold is None and self.draw_epoch > self.max_epochs:
            raise ValueError(f"draw_epoch: {self.draw_epoch} comes after max_epochs, {self.max_epochs}")
        return self

    @property
    def search_digest(self) -> str | None:
        return digest_of(self.model_dump(mode="json", exclude=OF_DRAWING))

    @property
    def ends_after(self) -> float:
        return self.max_epochs

    @property
    def rates(self) -> tuple[float | None, float]:
        return self.learning_rate, self.coefficient_rate or self.learning_rate

    def gates(self, network: Module, *, seed: int) -> Gates:  # noqa: ARG002 - nothing is drawn
        from robusweep.tickets.gates import Gates
        from robusweep.tickets.parts import shape_of

        return Gates(shape_of(network), next(network.parameters()).device)

    def penalty(self, heads: Tensor, neurons: Tensor, progress: float) -> Tensor:  # noqa: ARG002 - always the same
        """The coefficients' absolute values, each kind's sum with its weight."""
        return self.l1_heads * heads.abs().sum() + self.l1_neurons * neurons.abs().sum()

    # ------------------------------------------------------------------------------------------- when
    def settled(self, masks: Sequence[Masks], gaps: Gaps) -> int | None:
        """The gap to draw at, as far as the masks of gap 1 and on tell; None while they don't."""
        if self.threshold is None:
            gap = gaps.within(self.draw_epoch)
            return gap if gap <= len(masks) else None
        return settled_gap(masks, threshold=self.threshold, window=self.window)

    def suffices(self, record: CoefficientRecord) -> bool:
        """Whether it settles within the record, or the record is a whole search."""
        return self._whole(record) or self.settled(self._all_watched(record), record.gaps) is not None

    def draw(self, source: CoefficientRecord | Module, *, seed: int) -> Drawn:  # noqa: ARG002 - nothing is random
        if not isinstance(source, CoefficientRecord):
            raise StageError("ticket early_bird: is drawn from a coefficient record")
        masks = self._all_watched(source)
        gap = self.settled(masks, source.gaps)
        if gap is None and not self._whole(source):
            raise StageError(
                f"ticket early_bird: not settled after the {len(masks)} gaps of a search that another ticket ended",
                hint="search again to the end",
            )
        known = len(masks) if gap is None else gap + (self.window if self.threshold is not None else 0)
        at = known if gap is None or self.take == "last" else gap
        return Drawn(
            self.size.masks(*source.at(at)),
            gap=at,
            step=source.gaps.end(at),
            stop_step=source.gaps.end(known),
            fallback="last" if gap is None else None,
            distances=tuple(apart(a, b) for a, b in pairwise(masks[:known])),
        )

    def _all_watched(self, record: CoefficientRecord) -> list[Masks]:
        n = min(record.n_gaps, record.gaps.within(self.max_epochs))
        return [self.watched(*record.at(gap)) for gap in range(1, n + 1)]

    def _whole(self, record: CoefficientRecord) -> bool:
        return record.n_gaps >= record.gaps.within(self.max_epochs)
