"""Early stopping across the trials of a sweep: asynchronous successive halving by non-dominated rank, then spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from robusweep.errors import nearest
from robusweep.front import Objective
from robusweep.record import PointRecord, write_text
from robusweep.scores import Goal, metric_value, pareto_ranks
from robusweep.spec import Spec


class Halving(Spec):
    """Take points that fall behind those of all trials no further: asynchronous successive halving.

    A rung is a number of attacked examples, the same first ones for every point. A point that gets there leaves its
    objective values behind, and goes on when, among all points that have been there so far, it is on the front or one
    of the best ``1 / eta``: by non-dominated rank, within a rank by crowding distance (Deb et al. 2002). Nobody is
    stopped at a rung before ``min_points`` have been there. ``rungs``: numbers of examples, or fractions of
    ``attacks.n_examples``.

    ``epochs`` are rungs inside training: numbers of finished epochs, or fractions of each method's ``n_epochs``. There
    a trial mixes its points from adapters as they are by then and attacks each on the first ``epoch_examples``. An
    adapter is trained on while a point goes on that depends on it.
    """

    kind: Literal["halving"] = "halving"
    epochs: list[float] = []
    epoch_examples: int = Field(24, ge=1)
    rungs: list[float] = [0.25, 0.5]
    eta: float = Field(2.0, gt=1)
    min_points: int = Field(8, ge=1)

    @field_validator("rungs", "epochs")
    @classmethod
    def _increasing(cls, rungs: list[float], info: ValidationInfo) -> list[float]:
        unit = "epochs" if info.field_name == "epochs" else "examples"
        listed = ", ".join(f"{rung:g}" for rung in rungs)
        if wrong := [rung for rung in rungs if rung <= 0 or (rung > 1 and rung % 1)]:
            raise ValueError(
                f"a rung is a whole number of {unit}, or a fraction of them between 0 and 1, not {wrong[0]:g}"
            )
        if rungs and min(rungs) < 1 <= max(rungs):
            raise ValueError(f"rungs are numbers of {unit} or fractions of them, not both: {listed}")
        if any(before >= after for before, after in pairwise(rungs)):
            raise ValueError(f"rungs must increase: {listed}")
        return rungs

    @model_validator(mode="after")
    def _some(self) -> Halving:
        if not self.rungs and not self.epochs:
            raise ValueError("rungs and epochs are both empty: nothing is ever stopped (null is off)")
        return self

    def sizes(self, n_examples: int) -> list[int]:
        """The rungs as numbers of examples, those below ``n_examples``: in front of the last, nothing is saved."""
        sizes = (int(rung) if rung >= 1 else math.ceil(rung * n_examples) for rung in self.rungs)
        return sorted({size for size in sizes if size < n_examples})

    @staticmethod
    def finished(rung: float, n_epochs: int) -> int:
        """How many epochs of a training of ``n_epochs`` are over at a rung of epochs, from 1 to all."""
        return min(n_epochs, int(rung) if rung >= 1 else math.ceil(rung * n_epochs))


PRESETS: Mapping[str, Halving | None] = {
    "off": None,
    "mild": Halving(rungs=[0.5], eta=2.0),
    "strong": Halving(rungs=[0.2, 0.5], eta=3.0),
}


def _named(value: Any) -> Any:
    """A preset's name as its block. Raises ``ValueError`` for another name."""
    if value is None or isinstance(value, Halving | Mapping):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be {', '.join(PRESETS)}, or a block")
    if value not in PRESETS:
        near = nearest(value, PRESETS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown preset {value!r}{hint} (allowed: {', '.join(PRESETS)}, or a block)")
    return PRESETS[value]


EarlyStopping = Annotated[Halving | None, BeforeValidator(_named)]  # in YAML a preset's name, or a block


@dataclass(frozen=True)
class Place:
    """Where a point stands at a rung: its non-dominated rank, 1 for the front, and how many points come before it."""

    rank: int
    n_before: int


def places(values: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[Place]:
    """The place of each point. Equal points share theirs, so the order of the points does not matter."""
    ranks = np.array(pareto_ranks(values, goals), dtype=int)
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), len(goals))
    distances = np.zeros(len(rows))
    for rank in set(ranks.tolist()):
        distances[ranks == rank] = crowding(rows[ranks == rank])
    return [
        Place(int(rank), int(((ranks < rank) | ((ranks == rank) & (distances > distance))).sum()))
        for rank, distance in zip(ranks, distances, strict=True)
    ]


def crowding(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n]: over the objectives, the sum of the gaps between the next smaller and the next larger value in one front.

    Gaps are shares of the front's extent in that objective; its two ends are infinitely far from others.
    """
    total = np.zeros(len(rows))
    for column in rows.T:
        levels, at = np.unique(column, return_inverse=True)
        gaps = np.full(len(levels), np.inf)
        if len(levels) > 2:
            gaps[1:-1] = (levels[2:] - levels[:-2]) / (levels[-1] - levels[0])
        total += gaps[at.reshape(-1)]
    return total


def goes_on(place: Place, n_points: int, halving: Halving) -> bool:
    """Whether a point at this place among ``n_points`` is attacked further."""
    return n_points < halving.min_points or place.rank == 1 or place.n_before < math.ceil(n_points / halving.eta)


class Reached(Spec):
    """A point at a rung: its objective values over the first ``n_examples``, and the protocol they were found under.

    ``epochs``: the rung, where it is one inside training.
    """

    sign: ClassVar[str] = "values"  # the key that tells its lines from others

    point: str
    n_examples: int
    values: list[float]
    protocol_hash: str
    epochs: float | None = None

    def is_at(self, n: int, epochs: float | None) -> bool:
        return (self.n_examples, self.epochs) == (n, epochs)


class Verdict(Spec):
    """What was decided there, once and for all: ``n_before`` of ``n_points`` that had been there came before it."""

    sign: ClassVar[str] = "goes_on"

    point: str
    n_examples: int
    goes_on: bool
    rank: int
    n_before: int
    n_points: int
    epochs: float | None = None

    def is_at(self, n: int, epochs: float | None) -> bool:
        return (self.n_examples, self.epochs) == (n, epochs)


Line = TypeVar("Line", Reached, Verdict)


@dataclass(frozen=True)
class Ladder:
    """The rungs as the worker of one trial sees them: its own file in ``folder``, and those of all other trials.

    A file holds a line for each value and each verdict. It only ever grows, and is replaced as a whole, so that who
    reads it meets no torn line; only its own trial writes it. Values are compared with those that were left at the same
    rung alone. ``metrics``: every number of a point that an objective may name.
    """

    halving: Halving
    folder: Path
    trial: str
    protocol_hash: str
    n_examples: int
    objectives: Sequence[Objective]
    metrics: Callable[[PointRecord], Mapping[str, float]]

    @property
    def sizes(self) -> list[int]:
        return self.halving.sizes(self.n_examples)

    @property
    def n_at_epochs(self) -> int:
        """Examples that are attacked at a rung of epochs."""
        return min(self.halving.epoch_examples, self.n_examples)

    def number(self, n: int, epochs: float | None = None) -> int:
        """Which rung this is, from 1 on; those of epochs come first."""
        if epochs is not None:
            return self.halving.epochs.index(epochs) + 1
        return len(self.halving.epochs) + self.sizes.index(n) + 1

    def has_been_at(self, epochs: float) -> bool:
        """Whether an earlier attempt at this trial has left values at this rung of epochs."""
        left = _read(Reached, self._file)
        return any(r.is_at(self.n_at_epochs, epochs) and r.protocol_hash == self.protocol_hash for r in left)

    def decide(self, n: int, points: Sequence[PointRecord], *, epochs: float | None = None) -> dict[str, Verdict]:
        """The verdict on each of this trial's points that have met the first ``n`` examples, at a rung of ``epochs``.

        Their values are on disk before anything is decided, and the verdicts before they are returned. What was
        decided by an earlier attempt at this trial is repeated.
        """
        reached, verdicts = _read(Reached, self._file), _read(Verdict, self._file)
        known = {r.point for r in reached if r.is_at(n, epochs) and r.protocol_hash == self.protocol_hash}
        new = [self._reached(n, point, epochs) for point in points if point.id not in known]
        if new:
            self._write([*reached, *verdicts, *new])
        found = {v.point: v for v in verdicts if v.is_at(n, epochs)}
        if undecided := [point.id for point in points if point.id not in found]:
            placed = self._placed(n, epochs)
            for id_ in undecided:
                place, n_points = placed[id_], len(placed)
                found[id_] = Verdict(
                    point=id_,
                    n_examples=n,
                    goes_on=goes_on(place, n_points, self.halving),
                    rank=place.rank,
                    n_before=place.n_before,
                    n_points=n_points,
                    epochs=epochs,
                )
            self._write([*reached, *verdicts, *new, *(found[id_] for id_ in undecided)])
        return {point.id: found[point.id] for point in points}

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.trial}.jsonl"

    def _reached(self, n: int, point: PointRecord, epochs: float | None) -> Reached:
        metrics = self.metrics(point)
        values = [metric_value(o.metric, metrics) for o in self.objectives]
        return Reached(point=point.id, n_examples=n, values=values, protocol_hash=self.protocol_hash, epochs=epochs)

    def _placed(self, n: int, epochs: float | None) -> dict[str, Place]:
        """The place of every point of the sweep that has been at this rung under the same protocol."""
        lines = [line for path in sorted(self.folder.glob("*.jsonl")) for line in _read(Reached, path)]
        values = {
            line.point: line.values
            for line in lines
            if line.is_at(n, epochs)
            and line.protocol_hash == self.protocol_hash
            and len(line.values) == len(self.objectives)
        }
        goals = [objective.goal for objective in self.objectives]
        return dict(zip(values, places(list(values.values()), goals), strict=True))

    def _write(self, lines: Iterable[Reached | Verdict]) -> None:
        write_text(self._file, "".join(f"{line.model_dump_json(exclude_none=True)}\n" for line in lines))


def _read(cls: type[Line], path: Path) -> list[Line]:
    """The lines of one kind in a trial's file; none where there is no file. What is of another version is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        if f'"{cls.sign}"' in line:
            with suppress(ValidationError):
                found.append(cls.model_validate_json(line))
    return found
