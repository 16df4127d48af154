"""Robust early-bird tickets (Xi et al., EMNLP 2022, arXiv:2211.07263), with what its public code does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from robusweep.errors import StageError
from robusweep.spec import digest_of
from robusweep.tickets.base import Searched
from robusweep.tickets.coefficients import CoefficientRecord, Gaps
from robusweep.tickets.drawing import Drawn, Values, apart, settled_gap
from robusweep.tickets.masks import Masks

if TYPE_CHECKING:
    from torch.nn import Module

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
    adversary: Literal["freelb", "pgd"] = "freelb"
    n_steps: int = Field(5, ge=1, le=100)
    step_size: float = Field(0.01, gt=0)
    init_magnitude: float = Field(0.05, ge=0)
    max_norm: float | None = Field(None, gt=0)
    l1_heads: float = Field(1e-5, ge=0)
    l1_neurons: float = Field(2e-4, ge=0)
    learning_rate: float = Field(2e-5, gt=0, le=1)
    coefficient_rate: float | None = Field(None, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1, le=4096)
    batches: Literal["grouped", "shuffled"] = "grouped"
    n_epochs: int = Field(1, ge=1, le=1000)
    max_epochs: float = Field(1.0, gt=0)
    gaps_per_epoch: int = Field(20, ge=1)
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
        from robusweep.tickets.search import search

        return search(
            network, tokens, labels, spec=self, pad_id=pad_id, seed=seed, bf16=bf16, stop=stop, on_step=on_step
        )

    # ------------------------------------------------------------------------------------------- when
    def watched(self, heads: Values, neurons: Values) -> Masks:
        """The masks of these coefficients that are compared between gaps: as drawn, but for ``round_to``."""
        return replace(self.size, round_to=None).masks(heads, neurons)

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
