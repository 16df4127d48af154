"""Which heads and neurons of each layer a ticket keeps, as values and as JSON. NumPy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusweep.errors import MissingError

Flags = NDArray[np.bool_]
Shape = tuple[int, int, int]  # layers, heads of a layer, neurons of a layer


@dataclass(frozen=True)
class Masks:
    """True keeps a unit. ``heads`` is [layers, heads], ``neurons`` [layers, width of the feed-forward network]."""

    heads: Flags
    neurons: Flags

    def __post_init__(self) -> None:
        if self.heads.ndim != 2 or self.neurons.ndim != 2 or len(self.heads) != len(self.neurons):
            raise ValueError(f"masks of shapes {self.heads.shape} and {self.neurons.shape} do not belong together")
        if not (self.heads.any(axis=1).all() and self.neurons.any(axis=1).all()):
            raise ValueError("a ticket keeps at least one head and one neuron of every layer")

    @property
    def shape(self) -> Shape:
        """Of the network that the masks are for."""
        return (*self.heads.shape, self.neurons.shape[1])

    @property
    def density(self) -> tuple[float, float]:
        """(kept heads / all heads, kept neurons / all neurons)."""
        return float(self.heads.mean()), float(self.neurons.mean())

    def n_removed(self, *, hidden: int) -> int:
        """How many weights and biases go with the units that are not kept, ``hidden`` being the layers' width.

        Counts heads of hidden / heads coordinates: their rows of the query, key and value maps and their columns of
        the output map; and a neuron's row and column.
        """
        head_size: int = hidden // self.heads.shape[1]
        of_head = 3 * head_size * (hidden + 1) + head_size * hidden
        n_heads, n_neurons = (int((~kept).sum()) for kept in (self.heads, self.neurons))
        return n_heads * of_head + n_neurons * (2 * hidden + 1)

    def as_json(self) -> dict[str, Any]:
        """One text of 0 and 1 for each layer."""
        rows = {"heads": _texts(self.heads), "neurons": _texts(self.neurons)}
        return {"shape": list(self.shape), **rows}

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Masks:
        """Raises ``MissingError`` for a file that holds no masks."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            masks = Masks(_flags(found["heads"]), _flags(found["neurons"]))
            if list(masks.shape) != found["shape"]:
                raise ValueError(f"masks of shape {list(masks.shape)} under a shape of {found['shape']}")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise MissingError(f"ticket: {path} can't be read: {e}", hint="draw the ticket again") from e
        return masks


def distance(a: Flags, b: Flags) -> float:
    """Entries that differ / all entries: 0 for equal masks, 1 for complements."""
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} have no distance")
    return float((a != b).mean())


def _texts(flags: Flags) -> list[str]:
    return ["".join("01"[int(one)] for one in row) for row in flags]


def _flags(texts: Sequence[str]) -> Flags:
    if not texts or any(set(text) - {"0", "1"} for text in texts):
        raise ValueError("a mask is a list of texts of 0 and 1")
    return np.array([[one == "1" for one in text] for text in texts], dtype=np.bool_)
