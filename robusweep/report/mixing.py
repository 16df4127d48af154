"""What a report says of mixing beyond the main table: its words and columns, whatever writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robusweep.front import Objective, Point
from robusweep.record import WeightProfile
from robusweep.report.against import Cell, Column
from robusweep.report.mixes import CLEAN, Mixed, differing_adapters
from robusweep.report.readings import attack_names, held_out_names, searched_keys, table_order, under_attack
from robusweep.report.sentences import PER_TEXT, counted, n_text, percent, value_text
from robusweep.scores import Rate

SHARES = "adversarial share"  # head of the column that a page draws
TAKING_PART = "taking part"  # head of the column with long names


@dataclass(frozen=True)
class Section:
    """A table with its words. ``points``: which point each row is of, where it is of one."""

    title: str
    sentences: list[str]
    columns: list[Column]
    points: list[Point]


@dataclass(frozen=True)
class WeightTable:
    """How the weights of one point differ between texts: a row for the clean ones, and for those of each attack."""

    point: Point
    profiles: dict[str, WeightProfile]
    columns: list[Column]


def notes_of(mixed: Mixed | None) -> list[str]:
    """What stands beside a point's id: that its weights depend on the text, and which weight was chosen."""
    if mixed is None:
        return []
    per_text = [f"{PER_TEXT} mixed per text"] if mixed.scored.per_text else []
    return per_text + ([mixed.chosen_text] if mixed.chosen_text else [])


def unaided_text(mixed: Mixed | None, attack: str) -> str:
    """``by itself 43.0 %``, where texts that break single adapters broke more than the attack; else empty."""
    lower = _lower(mixed, attack)
    return f"by itself {100 * lower.value:.1f} %" if lower else ""


def _lower(mixed: Mixed | None, attack: str) -> Rate | None:
    """The accuracy under the attack by itself, where the reported one is lower."""
    alone = mixed.scored.unaided.get(attack) if mixed else None
    reported = under_attack(mixed.point, attack) if mixed else None
    return alone if alone and reported and reported.value < alone.value else None


def mixing_sections(
    mixed: Mapping[str, Mixed], points: Sequence[Point], objectives: Sequence[Objective]
) -> list[Section]:
    """The adaptive attack, static texts, and what points with other adapters do under known and unknown attacks."""
    shown = _shown(mixed, points, objectives)
    return [*_adaptive(shown), *_static(shown), *_known_and_unknown(shown)]


def _shown(mixed: Mapping[str, Mixed], points: Sequence[Point], objectives: Sequence[Objective]) -> list[Mixed]:
    """All but those of half-trained adapters, as the main table has them."""
    whole = [point for point in table_order(points, objectives) if not point.half_trained]
    return [mixed[point.id] for point in whole if point.id in mixed]


# ------------------------------------------------------------------------------------------------- the tables
def _adaptive(shown: Sequence[Mixed]) -> list[Section]:
    rows = [each for each in shown if each.scored.per_text and each.scored.unaided]
    if not rows:
        return []
    others = " Texts that break other points of the trial were tried, too." if any(m.point.replay for m in rows) else ""
    n_lower = sum(any(_lower(each, attack) for attack in each.scored.unaided) for each in rows)
    said = (
        "The weights of these points depend on the text, and such a rule may lead a search astray without being more "
        "robust. So what breaks one of the adapters alone, or their even mean, is tried as well, and counts as broken "
        f"wherever the point falls for it. “By itself” is what the attack alone would have shown.{others}"
    )
    found = f"Such texts lowered the accuracy under at least one attack at {n_lower} of {counted(len(rows), 'point')}."
    columns = _named(rows)
    for attack, words in _attacks(rows).items():
        alone = [each.scored.unaided.get(attack) for each in rows]
        after = [under_attack(each.point, attack) if each.scored.unaided.get(attack) else None for each in rows]
        columns.append(_rates(words, "by itself", alone))
        columns.append(_rates(words, "with texts that break single adapters", after))
        more = [round(a.n * (a.value - b.value)) if a and b else None for a, b in zip(alone, after, strict=True)]
        cells = [Cell() if n is None else Cell(str(n), n, mark="tinted" if n else "") for n in more]
        columns.append(Column(words, "more broken", cells))
    return [Section("Adaptive attack", [said, found], columns, [each.point for each in rows])]


def _static(shown: Sequence[Mixed]) -> list[Section]:
    rows = [each for each in shown if each.scored.static]
    if not rows:
        return []
    said = [
        "Right / all texts with which an attack broke the clean adapter of the trial. These texts were made for "
        "another model; an attack that aims at the point itself is in the main table. The two are not to be compared: "
        "who can't ask a model finds less."
    ]
    if len({each.point.trial for each in rows}) > 1:
        said.append("Each trial has a clean adapter of its own, so only points of one trial were asked the same texts.")
    columns = _named(rows, {each.point.id: "the clean adapter itself" for each in rows if each.took_part == [CLEAN]})
    for attack, words in _attacks(rows).items():
        columns.append(_rates(words, "right", [each.scored.static.get(attack) for each in rows]))
    return [Section("Texts made against the clean adapter", said, columns, [each.point for each in rows])]


def _known_and_unknown(shown: Sequence[Mixed]) -> list[Section]:
    rows = [each for group in differing_adapters({each.point.id: each for each in shown}) for each in group]
    if not rows:
        return []
    said = (
        "Points that differ in which adapters took part, and in nothing else: one training, one way to mix. In "
        "brackets: the attack whose texts an adapter was trained on. “Unknown” is an attack that none of a row's "
        "adapters was trained on, also where it is a known one of the suite."
    )
    points = [each.point for each in rows]

    def section(title: str, words: list[str], rate: Callable[[Mixed, str], Rate | None]) -> Section:
        parts = [" + ".join(map(each.name_of, each.took_part)) for each in rows]
        columns = [*_named(rows), Column("adapters", TAKING_PART, [Cell(p, p) for p in parts], is_text=True)]
        for attack, named in _attacks(rows).items():
            rates = [rate(each, attack) for each in rows]
            unknown = [not each.knows(attack) for each in rows]
            columns.append(_rates(named, "accuracy", rates, unknown))
        return Section(title, words, columns, points)

    found = [
        section(
            "Accuracy under known and unknown attacks", [said], lambda each, attack: under_attack(each.point, attack)
        )
    ]
    if any(each.scored.static for each in rows):
        words = ["The same for texts made against the clean adapter, as above."]
        title = "Known and unknown texts made against the clean adapter"
        found.append(section(title, words, lambda each, attack: each.scored.static.get(attack)))
    return found


def weight_tables(
    mixed: Mapping[str, Mixed], points: Sequence[Point], objectives: Sequence[Objective]
) -> list[WeightTable]:
    """One for each point whose weights depend on the text."""
    return [_weight_table(each) for each in _shown(mixed, points, objectives) if each.scored.profiles]


WEIGHTS_TITLE = "Weights for each text"
WEIGHTS_SAID = (
    "How much of each adapter answers, for clean texts and for texts of each attack. Adversarial share: how many texts "
    "gave the adversarial adapters together a share in each tenth from 0 to 1; where it is drawn, each source of texts "
    "has its own height. Mean weight: over the texts; a row sums to 1. Largest: how often an adapter had the largest "
    "weight of the adversarial ones."
)
FRAMED_SAID = "Framed: the adapter was trained on texts of that attack."


def _weight_table(each: Mixed) -> WeightTable:
    profiles = each.scored.profiles
    words = {attack: text for attack, text in _attacks([each]).items() if attack in profiles}
    sources = {CLEAN: "clean texts"} | words | {name: name for name in profiles if name not in words and name != CLEAN}
    rows = {source: profiles[source] for source in sources if source in profiles}
    texts = [Cell(sources[source], sources[source], f"n = {profile.n}") for source, profile in rows.items()]
    shares = [Cell(" ".join(map(str, p.adversarial)), 1 - p.mean[0]) for p in rows.values()]
    columns = [Column("texts", "of", texts, is_text=True), Column("of all weights", SHARES, shares)]
    views = next(iter(rows.values())).names
    for i, view in enumerate(views):
        means = [Cell(f"{p.mean[i]:.2f}", p.mean[i]) for p in rows.values()]
        columns.append(Column("mean weight", each.name_of(view), means))
    for i, view in enumerate(views[1:] if len(views) > 2 else []):
        trained_on = each.adapters[view].attacks if view in each.adapters else frozenset[str]()
        counts = [
            Cell(
                f"{p.largest[i]} of {p.n}",
                p.largest[i] / p.n,
                share=p.largest[i] / p.n,
                mark="framed" if source in trained_on else "",
            )
            for source, p in rows.items()
        ]
        columns.append(Column("largest of the adversarial", each.name_of(view), counts))
    return WeightTable(each.point, rows, columns)


def mixing_summary(
    mixed: Mapping[str, Mixed], points: Sequence[Point], objectives: Sequence[Objective]
) -> dict[str, Any]:
    """The same numbers for programs: by point, where there is anything to say; empty where nothing is mixed anew."""
    groups = differing_adapters(mixed)
    grouped = {each.point.id for group in groups for each in group}
    found = {}
    for point in table_order(points, objectives):
        each = mixed.get(point.id)
        if each is None:
            continue
        scored = each.scored
        held = scored.model_dump(mode="json", include={"unaided", "static", "profiles"})
        if scored.per_text or scored.chosen_weight is not None or any(held.values()) or point.id in grouped:
            attacks = [*attack_names([point]), *held_out_names([point])]
            found[point.id] = {
                "mix": dict(each.block),
                "took_part": {view: each.name_of(view) for view in each.took_part},
                "unknown_attacks": [attack for attack in attacks if not each.knows(attack)],
                "per_text": scored.per_text,
                "chosen_weight": scored.chosen_weight,
                **held,
            }
    return {"points": found, "differ_in_adapters": [[m.point.id for m in g] for g in groups]} if found else {}


# -------------------------------------------------------------------------------------------------- their parts
def _attacks(rows: Sequence[Mixed]) -> dict[str, str]:
    """Attack -> the words for it, known ones first."""
    points = [each.point for each in rows]
    return {a: a for a in attack_names(points)} | {a: f"{a} (held out)" for a in held_out_names(points)}


def _named(rows: Sequence[Mixed], more: Mapping[str, str] | None = None) -> list[Column]:
    """The id with its notes and one more by id, and what was searched and differs."""
    notes = [notes_of(m) + ([more[m.point.id]] if more and m.point.id in more else []) for m in rows]
    ids = [Cell(m.point.id, m.point.id, "; ".join(words)) for m, words in zip(rows, notes, strict=True)]
    columns = [Column("point", "id", ids)]
    for key in searched_keys([each.point for each in rows]):
        values = [value_text(m.point.params[key]) if key in m.point.params else "" for m in rows]
        if len(rows) == 1 or len(set(values)) > 1:
            columns.append(Column("searched", key, [Cell(v, v) for v in values], is_text=True))
    return columns


def _rates(group: str, head: str, rates: Sequence[Rate | None], unknown: Sequence[bool] = ()) -> Column:
    """The denominator stands in the head, and in the cells where they differ."""
    same_n = n_text([rate for rate in rates if rate])
    cells = []
    for i, rate in enumerate(rates):
        if rate is None:
            cells.append(Cell())
            continue
        is_unknown = bool(unknown) and unknown[i]
        words = [n_text([rate])] if n_text([rate]) != same_n else []
        words += ["unknown"] if is_unknown else []
        mark: Literal["", "tinted"] = "tinted" if is_unknown else ""
        cells.append(Cell(percent(rate), rate.value if rate.n else "", ", ".join(words), mark=mark))
    return Column(group, head, cells, same_n)
