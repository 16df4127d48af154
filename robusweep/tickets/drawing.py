"""Masks from coefficients, and when masks have settled. NumPy only; what is drawn from is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robusweep.seeds import generator
from robusweep.tickets.masks import Flags, Masks, distance

Values = NDArray[np.floating]
Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class Size:
    """How much a ticket keeps. Densities are the fractions kept, over all layers or of each layer (``scope``).

    Every layer keeps at least one head and ``min_neurons`` neurons (or all it has). ``round_to``: each layer's number
    of neurons is raised to a multiple of this.
    """

    head_density: float
    neuron_density: float
    scope: Scope = "global"
    min_neurons: int = 1
    round_to: int | None = None

    def masks(self, heads: Values, neurons: Values) -> Masks:
        """Keep the largest of ``heads`` [layers, heads] and ``neurons`` [layers, width], signed."""
        kept = largest(neurons, self.neuron_density, scope=self.scope, minimum=self.min_neurons)
        if self.round_to:
            kept = rounded_up(kept, neurons, self.round_to)
        return Masks(largest(heads, self.head_density, scope=self.scope, minimum=1), kept)


@dataclass(frozen=True)
class Drawn:
    """A ticket, and how it came about. What has no search has masks alone.

    ``gap``, ``step``: when in the search the coefficients were as drawn from. ``stop_step``: the step after which this
    could be known. ``fallback``: what was drawn instead, where the masks never settled. ``distances``: (of heads, of
    neurons) between the masks of each gap and the next, up to that step.
    """

    masks: Masks
    gap: int | None = None
    step: int | None = None
    stop_step: int | None = None
    fallback: Literal["last"] | None = None
    distances: tuple[tuple[float, float], ...] = ()


def largest(values: Values, density: float, *, scope: Scope, minimum: int) -> Flags:
    """True where a value of [layers, units] is above the (1 - density) quantile of all values, or of its layer's.

    Each layer's ``minimum`` largest values are kept whatever the quantile says, in place of others. Equal values at
    the quantile are kept in an order that depends on the shape alone, until as many are kept as if none were equal.
    """
    n_layers, width = values.shape
    if density == 1:
        return np.ones(values.shape, dtype=np.bool_)
    n_least = min(minimum, width)
    order = ranking(values)
    scores = np.array(values, dtype=np.float64)
    np.put_along_axis(scores, order[:, :n_least], np.inf, axis=1)
    blocks = scores.reshape(1, -1) if scope == "global" else scores
    size = blocks.shape[1]
    n_below = int((1 - density) * (size - 1) + 1e-9) + 1  # as many as lie at or below NumPy's quantile
    n_kept = max(size - n_below, n_least * (n_layers if scope == "global" else 1))
    kept = np.zeros(blocks.shape, dtype=np.bool_)
    np.put_along_axis(kept, ranking(blocks)[:, :n_kept], True, axis=1)
    return kept.reshape(values.shape)


def ranking(values: Values) -> NDArray[np.intp]:
    """For each row the places of its values, the largest first; equal values in a shuffled order that never changes."""
    shuffled = generator(0, "ticket ties", *values.shape).permutation(values.size).reshape(values.shape)
    return np.lexsort((shuffled, -values), axis=1)


def rounded_up(kept: Flags, values: Values, multiple: int) -> Flags:
    """The mask with each row's number of kept units raised to a multiple, by the row's largest values not yet kept."""
    n_kept = np.minimum(-(-kept.sum(axis=1) // multiple) * multiple, kept.shape[1])
    order = ranking(np.where(kept, np.inf, values))
    raised = np.zeros(kept.shape, dtype=np.bool_)
    np.put_along_axis(raised, order, np.arange(kept.shape[1]) < n_kept[:, None], axis=1)
    return raised


def apart(a: Masks, b: Masks) -> tuple[float, float]:
    """The distances of two tickets' (heads, neurons)."""
    return distance(a.heads, b.heads), distance(a.neurons, b.neurons)


def settled_gap(masks: Sequence[Masks], *, threshold: float, window: int) -> int | None:
    """The first gap whose masks of heads and of neurons are each nearer than ``threshold`` to those of the next gaps.

    ``masks`` are those of gap 1 and on; the ``window`` next gaps count. None: no gap has so many after it that are
    near. Asked after each gap, this says as early as can be known what it says about the whole search.
    """
    for first in range(len(masks) - window):
        later = masks[first + 1 : first + 1 + window]
        if all(max(apart(masks[first], other)) < threshold for other in later):
            return first + 1
    return None
