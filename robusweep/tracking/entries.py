"""What MLflow shows of a sweep: one entry for the sweep and one for each of its points, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robusweep.front import Point, short_name
from robusweep.record import AttackScore, PointRecord
from robusweep.scores import Rate
from robusweep.spec import digest_of

FRONT_COLOUR, DOMINATED_COLOUR = "#d62728", "#b8c4ce"
GAP = "robustness_gap"
CONTRIBUTION = "hypervolume_contribution_percent"
VIOLATED = "robusweep.violated"  # a tag that points have which miss a constraint
PER_TEXT, CHOSEN = "robusweep.per_text", "robusweep.chosen_weight"  # tags that only some points have


@dataclass(frozen=True)
class Entry:
    """The wanted state of one MLflow run. ``key`` is the ``robusweep.key`` tag by which it is found again."""

    key: str
    name: str
    metrics: dict[str, float]
    tags: dict[str, str]
    params: dict[str, str]
    step: int = 0  # of the metrics

    def digest(self) -> str:
        return digest_of([self.metrics, self.tags, self.params])


def named_rate(name: str, rate: Rate) -> dict[str, float]:
    """A rate and its 95 % bounds; ``low`` and ``high`` go before a dot: ``success_rate_low.pwws``."""
    head, dot, attack = name.partition(".")
    return {name: rate.value, f"{head}_low{dot}{attack}": rate.low, f"{head}_high{dot}{attack}": rate.high}


def _attack_metrics(prefix: str, attack: str, score: AttackScore) -> dict[str, float]:
    metrics = named_rate(f"{prefix}accuracy_under_attack.{attack}", score.accuracy_under_attack)
    metrics[f"{prefix}success_rate.{attack}"] = score.success_rate.value
    if score.n_queries_median is not None:
        metrics[f"{prefix}n_queries_median.{attack}"] = score.n_queries_median
    if score.words_changed is not None:
        metrics[f"{prefix}words_changed.{attack}"] = score.words_changed
    return metrics


def point_metrics(point: Point) -> dict[str, float]:
    """Every number of a point, unrounded, under the names that objectives use too.

    ``n_examples`` is the denominator of robust accuracy; ``n_attacked`` of them were right before it.
    ``robustness_gap`` is clean minus robust accuracy. A held-out attack's names begin with ``held_out_``.
    """
    scores = {name: AttackScore.model_validate(score) for name, score in point.attacks.items()}
    held_out = {name: AttackScore.model_validate(score) for name, score in point.held_out.items()}
    metrics = named_rate("clean_accuracy", point.clean_accuracy) | named_rate("robust_accuracy", point.robust_accuracy)
    for name, score in scores.items():
        metrics |= _attack_metrics("", name, score)
    for name, score in held_out.items():
        metrics |= _attack_metrics("held_out_", name, score)
    costs = {"inference_flops": point.inference_flops, "n_parameters": point.n_parameters}
    return metrics | {
        GAP: point.clean_accuracy.value - point.robust_accuracy.value,
        "n_examples": float(point.robust_accuracy.n),
        "n_attacked": float(max((score.success_rate.n for score in scores.values()), default=0)),
        "train_seconds": point.train_seconds,
        "pareto_rank": float(point.pareto_rank),
        **{name: float(cost) for name, cost in costs.items() if cost is not None},
    }


def mixing_metrics(scored: PointRecord) -> dict[str, float]:
    """``static.<attack>``: right / texts that broke the clean adapter, for an attack of either kind.

    ``unaided.<attack>``: the accuracy under an attack by itself, where texts that break single adapters were tried too.
    """
    metrics: dict[str, float] = {}
    for name, rate in scored.static.items():
        metrics |= named_rate(f"static.{name}", rate)
    for name, rate in scored.unaided.items():
        metrics |= named_rate(f"unaided.{name}", rate)
    return metrics


def shown(value: Any) -> str:
    """A searched value as a param: numbers short and readable as numbers, anything else as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def point_entry(
    point: Point, *, sweep_id: str, parent: str, notices: Sequence[str], scored: PointRecord | None = None
) -> Entry:
    """The run of one point below the sweep's run ``parent``. ``scored``: the point in its trial's record."""
    tags = {
        "mlflow.parentRunId": parent,
        "mlflow.runColor": FRONT_COLOUR if point.pareto else DOMINATED_COLOUR,
        "robusweep.kind": "point",
        "robusweep.sweep": sweep_id,
        "robusweep.trial": str(point.trial),
        "robusweep.point": point.id,
        "robusweep.pareto": str(point.pareto).lower(),
        "robusweep.pareto_rank": str(point.pareto_rank),
        "robusweep.knee": str(point.knee).lower(),
        "robusweep.best": str(point.best).lower(),
        "robusweep.protocol_hash": point.protocol_hash,
        "robusweep.flags": ", ".join(flag.name for flag in point.flags) or "none",
    }
    if point.violated:
        tags[VIOLATED] = ", ".join(point.violated)
    if point.replay:
        tags["robusweep.replay"] = "true"
    if point.stopped is not None:
        stopped = point.stopped
        tags["robusweep.stopped"] = f"{stopped.when} by {stopped.stopper}: {stopped.why}"
        if stopped.n_queries_saved is not None:
            tags["robusweep.n_queries_saved"] = str(stopped.n_queries_saved)
        if stopped.n_epochs_saved is not None:
            tags["robusweep.n_epochs_saved"] = str(stopped.n_epochs_saved)
    if scored is not None and scored.per_text:
        tags[PER_TEXT] = "true"
    if scored is not None and scored.chosen_weight is not None:
        tags[CHOSEN] = shown(scored.chosen_weight)
    return Entry(
        key=f"{sweep_id}/{point.id}",
        name=short_name(point.id, point.params),
        metrics=point_metrics(point) | (mixing_metrics(scored) if scored else {}),
        tags=tags | _stand_in(notices),
        params={key: shown(value) for key, value in point.params.items()},
    )


def sweep_entry(name: str, sweep_id: str, notices: Sequence[str], recipe: Mapping[str, Any] | None = None) -> Entry:
    """The run of the sweep, before anything is scored; what its recipe names are the run's params."""
    tags = {"robusweep.kind": "sweep", "robusweep.sweep": sweep_id, "robusweep.recipe": name}
    return Entry(
        key=sweep_id,
        name=f"{name} {sweep_id[:6]}",
        metrics={},
        tags=tags | _stand_in(notices),
        params=_named(recipe or {}),
    )


def _named(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The kinds that a resolved recipe is made of, by key."""
    suite = recipe.get("attacks", {})
    kinds = {
        "data": [recipe.get("data")],
        "adapter": [recipe.get("adapter")],
        "ticket": [recipe.get("ticket")],
        "train": [recipe.get("train")],
        "adversarial": recipe.get("adversarial", []),
        "mix": [recipe.get("mix")],
        "attacks.known": suite.get("known", []),
        "attacks.held_out": suite.get("held_out", []),
    }
    named = {key: ", ".join(str(block["kind"]) for block in blocks if block) for key, blocks in kinds.items()}
    named |= {"model": recipe.get("model", {}).get("base", ""), "seed": str(recipe.get("seed", ""))}
    return {key: value for key, value in named.items() if value}


def _stand_in(notices: Sequence[str]) -> dict[str, str]:
    return {"robusweep.stand_in": "; ".join(notices)} if notices else {}
