"""How each point was mixed, and of which adapters, as the records and the sweep's description tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robusweep.front import Point
from robusweep.record import PointRecord, TrialRecord
from robusweep.spec import canonical_json

CLEAN = "clean"
DEFAULTS: dict[str, Any] = {
    "kind": "adpmixup",
    "weighting": "fixed",
    "weight": 0.5,
}  # a named block stands there as it was given


@dataclass(frozen=True)
class Adapter:
    """One adversarial adapter of a trial: what to call it, and the attacks whose texts it was trained on."""

    name: str
    attacks: frozenset[str]


@dataclass(frozen=True)
class Mixed:
    """A scored point with the keys of its mixer, none for an adapter by itself.

    ``adapters``: by view, as ``adversarial.0``. ``clean_attacks``: attacks whose texts the clean adapter has met.
    """

    point: Point
    scored: PointRecord
    block: Mapping[str, Any]
    adapters: Mapping[str, Adapter]
    clean_attacks: frozenset[str] = frozenset()

    @property
    def fixed_weight(self) -> float | None:
        """The share of the adversarial adapters where ``adpmixup`` has one for all texts and leaves none out."""
        block = {**DEFAULTS, **self.block}
        plain = block["kind"] == "adpmixup" and block["weighting"] == "fixed" and block.get("leave_out") is None
        return float(block["weight"]) if self.block and plain else None

    @property
    def took_part(self) -> list[str]:
        """Views of the adapters with a share of the answer, the clean one first."""
        block = {**DEFAULTS, **self.block}
        weight = block["weight"] if block["weighting"] == "fixed" else self.scored.chosen_weight
        if not self.block or weight == 0:
            return [CLEAN]
        kept = [view for i, view in enumerate(self.adapters) if i != block.get("leave_out")]
        return kept if weight == 1 else [CLEAN, *kept]

    def name_of(self, view: str) -> str:
        return self.adapters[view].name if view in self.adapters else view

    def knows(self, attack: str) -> bool:
        """Whether an adapter that took part was trained on texts of this attack."""
        known = {view: adapter.attacks for view, adapter in self.adapters.items()} | {CLEAN: self.clean_attacks}
        return any(attack in known[view] for view in self.took_part)

    @property
    def chosen_text(self) -> str | None:
        """``grid_validation chose 0.4``; None where nothing was chosen."""
        chosen = self.scored.chosen_weight
        return None if chosen is None else f"{self.block.get('weighting', 'the weighting')} chose {chosen:.4g}"


def mixed_points(points: Sequence[Point], records: Sequence[TrialRecord], space: Mapping[str, Any]) -> dict[str, Mixed]:
    """Point id -> how it was mixed, for every point with a record.

    ``space``: the search space as the sweep's description holds it, with the blocks behind the names in params.
    """
    trials = {record.number: record for record in records}
    found = {}
    for point in points:
        trial = trials.get(point.trial)
        scored = next((each for each in trial.points if each.id == point.id), None) if trial else None
        if trial is not None and scored is not None:
            recipe = trial.recipe
            found[point.id] = Mixed(
                point=point,
                scored=scored,
                block=_block(point.params, recipe.get("mix") or {}, space),
                adapters=_adapters(trial),
                clean_attacks=_attacks_of(recipe.get("train") or {}, trial),
            )
    return found


def _block(params: Mapping[str, Any], given: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's mixer with the values of the point: a whole block first, then keys inside it."""
    block = dict(given)
    for key in sorted((key for key in params if key.split(".")[0] == "mix"), key=len):
        dimension, value = space.get(key) or {}, params[key]
        listed = dimension.get("grid") or dimension.get("choice")
        if key != "mix":
            block[key.removeprefix("mix.")] = value
        else:
            block = dict(listed.get(value) or {}) if isinstance(listed, dict) and isinstance(value, str) else {}
    return block


def _adapters(trial: TrialRecord) -> dict[str, Adapter]:
    """The adversarial adapters by view, named after method and attack: ``augment(textfooler_wordnet)``."""
    methods = trial.recipe.get("adversarial") or []
    names = []
    for method in methods:
        asked = _asked(method)
        names.append(f"{method.get('kind', '')}({' + '.join(asked)})" if asked else str(method.get("kind", "")))
    return {
        f"adversarial.{i}": Adapter(
            name if names.count(name) == 1 else f"{name}, adversarial.{i}", _attacks_of(methods[i], trial)
        )
        for i, name in enumerate(names)
    }


def _asked(method: Mapping[str, Any]) -> list[str]:
    attack = method.get("attack")
    return [attack] if isinstance(attack, str) else list(attack or [])


def _attacks_of(method: Mapping[str, Any], trial: TrialRecord) -> frozenset[str]:
    """The attacks that made a method's texts, under the names of what really ran."""
    used = {stand_in.asked: stand_in.used for stand_in in trial.stand_ins if stand_in.what == "attack"}
    return frozenset(used.get(name, name) for name in _asked(method))


def differing_adapters(mixed: Mapping[str, Mixed]) -> list[list[Mixed]]:
    """Groups of points that differ in which adversarial adapters took part, and in nothing else."""
    groups: dict[str, list[Mixed]] = {}  # those with all adapters come first
    for each in sorted(mixed.values(), key=lambda each: -len(each.took_part)):
        if each.block and each.adapters:
            params = {key: value for key, value in each.point.params.items() if key.split(".")[0] != "mix"}
            block = {key: value for key, value in {**DEFAULTS, **each.block}.items() if key != "leave_out"}
            same = [each.point.trial, params, _plain(block)]
            groups.setdefault(canonical_json(same), []).append(each)
    return [group for group in groups.values() if len({tuple(each.took_part) for each in group}) > 1]


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
    """Without keys that are off, and with numbers alike however they were written: 1 as 1.0."""
    held = {key: value for key, value in block.items() if value is not None}
    return {key: float(value) if type(value) is int else value for key, value in held.items()}
