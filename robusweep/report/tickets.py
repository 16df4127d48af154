"""What a report says of tickets: what trials kept, when that settled, what accuracy it left, how tickets agree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from robusweep.front import Point
from robusweep.record import TicketRecord, TrialRecord
from robusweep.report.against import Cell, Column
from robusweep.report.sentences import counted, seconds_text, value_text
from robusweep.scores import Rate
from robusweep.spec import canonical_json

DENSE = "dense"
SIZE = ("head_density", "neuron_density")
N_SHOWN_MOST = 60  # pairs of tickets, and panels of searches
N_VALUES_MOST = 4  # a searched key with more values does not part the lines of the figure
RATES: tuple[tuple[str, Callable[[Point], Rate]], ...] = (  # what is drawn over the share kept
    ("clean accuracy", lambda point: point.clean_accuracy),
    ("robust accuracy", lambda point: point.robust_accuracy),
)
MASKS = re.compile(r"t(\d+)/ticket/masks\.json$")


@dataclass(frozen=True)
class Mask:
    """What a ticket keeps: a 1 for each head, and for each neuron, that is kept, and a 0 for the others."""

    heads: str
    neurons: str
    shape: tuple[int, ...]  # layers, heads of a layer, neurons of a layer

    @property
    def density(self) -> tuple[float, float]:
        """(kept heads / all heads, kept neurons / all neurons)."""
        return self.heads.count("1") / len(self.heads), self.neurons.count("1") / len(self.neurons)


@dataclass(frozen=True)
class Ticketed:
    """A finished trial with its ticket; ``ticket`` is None where all is kept because there is none.

    ``block``: the ticket's keys in the resolved recipe.
    """

    trial: TrialRecord
    ticket: TicketRecord | None
    block: Mapping[str, Any]
    mask: Mask | None

    @property
    def id(self) -> str:
        return f"t{self.trial.number:03d}"

    @property
    def density(self) -> tuple[float, float]:
        """(kept heads / all heads, kept neurons / all neurons)."""
        return (self.ticket.head_density, self.ticket.neuron_density) if self.ticket else (1.0, 1.0)

    @property
    def kind(self) -> str:
        return self.ticket.kind if self.ticket and self.density != (1.0, 1.0) else DENSE

    @property
    def kept(self) -> float:
        """The share of the layers' weights that is kept, where a layer has four times as many neurons as coordinates.

        The four maps of attention are then a third of a layer, and those of the feed-forward network two thirds.
        """
        heads, neurons = self.density
        return (heads + 2 * neurons) / 3


@dataclass(frozen=True)
class Series:
    """Points with tickets of one make, by rising share kept. ``name`` tells what sets it apart from the others."""

    name: str
    kept: list[float]
    points: list[Point]

    @property
    def is_dense(self) -> bool:
        return all(share == 1 for share in self.kept)


@dataclass(frozen=True)
class Overlap:
    """Entries in which two masks agree / all entries, and what masks as full as these would have by chance."""

    heads: float
    neurons: float
    heads_by_chance: float
    neurons_by_chance: float


@dataclass(frozen=True)
class TicketTable:
    title: str
    sentences: list[str]
    columns: list[Column]


# ---------------------------------------------------------------------------------------------- what is read
def ticket_masks(run_dir: Path) -> dict[int, Mask]:
    """The masks that the trials of a run left, by trial number. A file that holds none is left out."""
    found = {}
    for path in sorted(run_dir.glob("trials/*/ticket/masks.json")):
        if named := MASKS.search(path.as_posix()):
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
                heads, neurons = "".join(told["heads"]), "".join(told["neurons"])
                mask = Mask(heads, neurons, tuple(map(int, told["shape"])))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            n_layers, *widths = mask.shape
            n_units = [n_layers * width for width in widths]
            if min(n_units) > 0 and [len(heads), len(neurons)] == n_units and set(heads + neurons) <= {"0", "1"}:
                found[int(named[1])] = mask
    return found


def ticketed_trials(records: Sequence[TrialRecord], masks: Mapping[int, Mask]) -> list[Ticketed]:
    """All finished trials, by number; none where no trial has a ticket."""
    done = sorted((record for record in records if record.status == "complete"), key=lambda record: record.number)
    if not any(record.ticket for record in done):
        return []
    return [
        Ticketed(r, r.ticket, (r.recipe.get("ticket") or {}) if r.ticket else {}, masks.get(r.number)) for r in done
    ]


def overlap(a: Mask, b: Mask) -> Overlap:
    """Raises ``ValueError`` for masks of different shapes."""
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} do not compare")
    pairs = list(zip(a.density, b.density, strict=True))
    by_chance = [p * q + (1 - p) * (1 - q) for p, q in pairs]
    return Overlap(_agree(a.heads, b.heads), _agree(a.neurons, b.neurons), by_chance[0], by_chance[1])


def _agree(a: str, b: str) -> float:
    return sum(one == other for one, other in zip(a, b, strict=True)) / len(a)


def equal_sizes(trials: Sequence[Ticketed]) -> list[tuple[Ticketed, Ticketed]]:
    """Pairs of different tickets that keep as much of one network. Of trials on the same ticket the first stands."""
    kept = [one for one in trials if one.kind != DENSE and one.mask is not None]
    by_ticket = {(canonical_json(dict(one.block)), one.mask): one for one in reversed(kept)}
    groups: dict[tuple[Any, ...], list[Ticketed]] = {}
    for one in sorted(by_ticket.values(), key=lambda t: t.trial.number):
        groups.setdefault(_size(one), []).append(one)
    pairs = (pair for members in groups.values() for pair in combinations(members, 2))
    return sorted(pairs, key=lambda pair: (pair[0].trial.number, pair[1].trial.number))


def _size(one: Ticketed) -> tuple[Any, ...]:
    assert one.mask is not None
    return one.mask.shape, *(round(density, 2) for density in one.density)


# ----------------------------------------------------------------------------------------- names, series
def names_of(trials: Sequence[Ticketed], *, n_values_most: int | None = None) -> dict[int, str]:
    """Trial number -> the kind of its ticket, and in brackets the keys beside its size that set it apart.

    Keys with more than ``n_values_most`` values are left out.
    """
    values: dict[tuple[str, str], set[str]] = {}
    for one in trials:
        for key, value in one.block.items():
            values.setdefault((one.kind, key), set()).add(canonical_json(value))
    found = {}
    for one in trials:
        several = {key: len(values[one.kind, key]) for key in one.block if key not in SIZE}
        keys = [key for key, n in several.items() if 1 < n <= (n_values_most or n)]
        told = ", ".join(f"{key} = {value_text(one.block[key])}" for key in keys)
        found[one.trial.number] = one.kind if one.kind == DENSE or not told else f"{one.kind} ({told})"
    return found


def series_of(trials: Sequence[Ticketed], points: Sequence[Point]) -> list[Series]:
    """Points by what their ticket is, whatever its size, and by what else was searched; the dense ones last."""
    by_number, names = {one.trial.number: one for one in trials}, names_of(trials, n_values_most=N_VALUES_MOST)
    shown = [point for point in points if point.trial in by_number and not point.half_trained]
    values: dict[str, set[str]] = {}
    for point in shown:
        for key, value in point.params.items():
            values.setdefault(key, set()).add(canonical_json(value))
    parting = [k for k, v in values.items() if k.split(".")[0] != "ticket" and 1 < len(v) <= N_VALUES_MOST]
    groups: dict[str, list[Point]] = {}
    for point in shown:
        told = [f"{key} = {value_text(point.params[key])}" for key in parting if key in point.params]
        groups.setdefault(", ".join([names[point.trial], *told]), []).append(point)
    found = []
    for name, members in groups.items():
        members.sort(key=lambda point: (by_number[point.trial].kept, point.id))
        found.append(Series(name, [by_number[point.trial].kept for point in members], members))
    return sorted(found, key=lambda each: (each.is_dense, each.name))


def distance_trials(trials: Sequence[Ticketed]) -> list[list[Ticketed]]:
    """The first trials whose tickets have distances, those on one ticket together."""
    groups: dict[str, list[Ticketed]] = {}
    for one in trials:
        if one.ticket is not None and one.ticket.distances:
            groups.setdefault(canonical_json([dict(one.block), one.ticket.distances]), []).append(one)
    return list(groups.values())[:N_SHOWN_MOST]


# ------------------------------------------------------------------------------------------------- the words
TITLE, DISTANCES = "Tickets", "Mask distance over the search"


def share_text(share: float) -> str:
    return f"{100 * share:.1f} %"


def density_sentence() -> str:
    return (
        "Accuracy over the share of the layers' weights that is kept, counted as a third of the heads' and two thirds "
        "of the neurons' density; 100 % is the whole network. Bars are 95 % intervals. A searched ticket is worth its "
        "search where it lies above a random one of the same size by more than the bars."
    )


def distance_sentences(trials: Sequence[Ticketed]) -> list[str]:
    """What is drawn, and what the line of the threshold can't show."""
    said = [
        "Entries of the mask that differ between one gap of the search and the next, over all entries, at the trial's "
        "own densities. Tickets of several densities may come from one search and settle at different gaps."
    ]
    if any(one.block.get("threshold") is not None for one in trials):
        said.append(
            "The dashed line is the threshold. The ticket is drawn at the first gap that is nearer than that to each "
            "gap of its window, so neighbours below the line are needed and not enough."
        )
    return said


def ticket_tables(trials: Sequence[Ticketed]) -> list[TicketTable]:
    """What each trial kept and what finding it took; and how far tickets of equal size agree."""
    shown = [one for one in trials if one.ticket is not None]
    return [_found(shown), *_agreement(trials)] if shown else []


def _found(shown: Sequence[Ticketed]) -> TicketTable:
    names = names_of(shown)
    tickets = [one.ticket for one in shown if one.ticket is not None]
    searched = [ticket for ticket in tickets if ticket.search]
    n_cached = sum(ticket.cached for ticket in searched)
    said = ["Heads and neurons that the trials kept; the others are removed before training."]
    if searched:
        said.append(
            f"{n_cached} of {counted(len(searched), 'searched ticket')} came from a search that the trial found in the "
            "cache; the seconds are those of the search in either case."
        )
    if never := sum(ticket.fallback is not None for ticket in tickets):
        said.append(f"The masks of {never} of them never settled: the last gap was drawn.")
    columns = [
        Column("trial", "id", [Cell(one.id, one.id) for one in shown]),
        Column("ticket", "kind", [Cell(n, n) for n in (names[one.trial.number] for one in shown)], is_text=True),
        Column("kept", "heads", [Cell(share_text(t.head_density), t.head_density) for t in tickets]),
        Column("kept", "neurons", [Cell(share_text(t.neuron_density), t.neuron_density) for t in tickets]),
        Column("removed", "parameters", [Cell(f"{t.n_removed:,}", t.n_removed) for t in tickets]),
    ]
    if searched:
        columns += [
            Column("drawn at", "gap", [_number(t.gap, _drawn_note(t)) for t in tickets]),
            Column("drawn at", "step", [_number(t.step) for t in tickets]),
            Column("known after", "step", [_number(t.stop_step) for t in tickets]),
            Column("search", "seconds", [_seconds(t) for t in tickets]),
            Column("search", "passes", [_number(_passes(t)) for t in tickets]),
        ]
    return TicketTable(TITLE, said, columns)


def _drawn_note(ticket: TicketRecord) -> str:
    return "never settled" if ticket.fallback else ""


def _number(value: int | None, note: str = "") -> Cell:
    return Cell() if value is None else Cell(f"{value:,}", value, note)


def _seconds(ticket: TicketRecord) -> Cell:
    seconds = ticket.search.get("seconds")
    return Cell() if seconds is None else Cell(seconds_text(seconds), seconds, "cached" if ticket.cached else "")


def _passes(ticket: TicketRecord) -> int | None:
    forward, backward = ticket.search.get("n_forward"), ticket.search.get("n_backward")
    return None if forward is None or backward is None else forward + backward


def _agreement(trials: Sequence[Ticketed]) -> list[TicketTable]:
    every = equal_sizes(trials)
    rows = every[:N_SHOWN_MOST]
    if not rows:
        return []
    names = names_of(trials)
    said = (
        "Entries in which the masks of two tickets of equal size agree, over all entries: 1 minus their distance. By "
        "chance: what two random masks as full as these agree in on average. Coloured: how much of the way from chance "
        "to the same mask."
    )
    found = [overlap(a.mask, b.mask) for a, b in rows if a.mask and b.mask]
    columns = [
        Column("ticket", "one", [Cell(f"{a.id} {names[a.trial.number]}", a.id) for a, _ in rows], is_text=True),
        Column("and", "another", [Cell(f"{b.id} {names[b.trial.number]}", b.id) for _, b in rows], is_text=True),
        Column("kept", "heads", [Cell(share_text(a.density[0]), a.density[0]) for a, _ in rows]),
        Column("kept", "neurons", [Cell(share_text(a.density[1]), a.density[1]) for a, _ in rows]),
        *_agreeing("heads", [(each.heads, each.heads_by_chance) for each in found]),
        *_agreeing("neurons", [(each.neurons, each.neurons_by_chance) for each in found]),
    ]
    fewer = [f"Shown are the first {len(rows)} of {len(every):,} pairs."] if len(rows) < len(every) else []
    return [TicketTable("Agreement of tickets of equal size", [said, *fewer], columns)]


def _agreeing(what: Literal["heads", "neurons"], pairs: Sequence[tuple[float, float]]) -> list[Column]:
    cells = [Cell(f"{one:.3f}", one, share=max(0.0, (one - c) / (1 - c)) if c < 1 else 0.0) for one, c in pairs]
    return [
        Column(f"{what} that agree", "share", cells),
        Column(f"{what} that agree", "by chance", [Cell(f"{chance:.3f}", chance) for _, chance in pairs]),
    ]


def tickets_summary(trials: Sequence[Ticketed]) -> dict[str, Any]:
    """The same numbers for programs; empty where no trial has a ticket."""
    if not trials:
        return {}
    names = names_of(trials)
    told = [
        {"trial": one.trial.number, "name": names[one.trial.number], "kept_of_layers": one.kept}
        | one.ticket.model_dump(mode="json")
        for one in trials
        if one.ticket is not None
    ]
    pairs = [
        {"trials": [a.trial.number, b.trial.number], **vars(overlap(a.mask, b.mask))}
        for a, b in equal_sizes(trials)[:N_SHOWN_MOST]
        if a.mask and b.mask
    ]
    return {"trials": told, "overlap": pairs}
