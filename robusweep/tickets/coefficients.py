"""What a search leaves behind: the coefficients of all heads and neurons along its steps. NumPy only."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robusweep.errors import MissingError

Coefficients = NDArray[np.float32]


@dataclass(frozen=True)
class SearchCosts:
    """What a search did. ``seconds`` are wall-clock; passes are of one batch each; ``n_tokens`` counts padding, too.

    ``stopped_early``: it ended before the last step it was allowed. ``final_loss``: the last batch's cross-entropy,
    mean over the perturbations that taught. ``classes_by_gap``: how many classes the batches of each gap held.
    """

    n_steps: int
    seconds: float
    n_forward: int
    n_backward: int
    n_tokens: int
    stopped_early: bool
    final_loss: float
    classes_by_gap: tuple[int, ...]


@dataclass(frozen=True)
class Gaps:
    """Where a search is looked at: an epoch of ``steps_per_epoch`` steps is cut into ``per_epoch`` gaps.

    A gap is at least one step: a shorter epoch has fewer gaps.
    """

    steps_per_epoch: int
    per_epoch: int

    def end(self, gap: int) -> int:
        """After how many steps a gap ends, gaps counted from 1."""
        return -(-gap * self.steps_per_epoch // self.per_epoch) if self.per_epoch < self.steps_per_epoch else gap

    def within(self, epochs: float) -> int:
        """How many whole gaps so many epochs have, one at least."""
        return max(1, int(epochs * min(self.per_epoch, self.steps_per_epoch) + 1e-9))


@dataclass(frozen=True)
class CoefficientRecord:
    """``heads`` [n, layers, heads] and ``neurons`` [n, layers, width], float32, as they were after ``steps`` [n] steps.

    Nothing writes to these arrays. ``gaps``: where the search was looked at; every gap's end is recorded.
    """

    heads: Coefficients
    neurons: Coefficients
    steps: NDArray[np.int64]
    gaps: Gaps
    costs: SearchCosts

    def __post_init__(self) -> None:
        if not len(self.heads) == len(self.neurons) == len(self.steps) > 0 or (np.diff(self.steps) <= 0).any():
            raise ValueError("a coefficient record has one rising step for each entry")
        for name in ("heads", "neurons", "steps"):
            array = getattr(self, name).view()
            array.flags.writeable = False  # of the view: what it looks at stays as it was given
            object.__setattr__(self, name, array)

    @property
    def n_gaps(self) -> int:
        """How many gaps ended within the record."""
        return next(g for g in range(len(self.steps) + 1) if self.gaps.end(g + 1) > self.steps[-1])

    def at(self, gap: int) -> tuple[Coefficients, Coefficients]:
        """(heads [layers, heads], neurons [layers, width]) at the end of a gap."""
        i = int(np.searchsorted(self.steps, self.gaps.end(gap)))
        return self.heads[i], self.neurons[i]

    def save(self, path: Path) -> None:
        """One ``.npz``; nothing in it is pickled."""
        about = json.dumps({"gaps": asdict(self.gaps), "costs": asdict(self.costs)})
        with path.open("wb") as file:
            np.savez(file, heads=self.heads, neurons=self.neurons, steps=self.steps, about=np.array(about))

    @staticmethod
    def load(path: Path) -> CoefficientRecord:
        """Raises ``MissingError`` for a file that holds no record."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                about = json.loads(str(found["about"]))
                arrays = {name: found[name] for name in ("heads", "neurons", "steps")}
            costs = about["costs"] | {"classes_by_gap": tuple(about["costs"]["classes_by_gap"])}
            return CoefficientRecord(**arrays, gaps=Gaps(**about["gaps"]), costs=SearchCosts(**costs))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
            raise MissingError(f"ticket: {path} is no coefficient record: {e}", hint="search again") from e
