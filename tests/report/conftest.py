"""A made-up sweep that looks like a real one: 4 trials, 6 mixing weights each, two known attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robusweep.front import Objective, Point, assess
from robusweep.record import AdapterRecord, AttackScore, PointRecord, StandIn, TrialRecord, WeightProfile
from robusweep.scores import Rate

TWO = [Objective(metric="clean_accuracy"), Objective(metric="robust_accuracy")]
N_CLEAN, N_ATTACKED = 400, 200
Trials = Callable[..., list[TrialRecord]]
Report = dict[str, Any]


def attack_score(right: int, kept: int, queries: float) -> AttackScore:
    """``right`` of the attacked examples before the attack, ``kept`` of them after it."""
    return AttackScore(
        n_queries=900,
        accuracy_under_attack=Rate.of(kept, N_ATTACKED),
        success_rate=Rate.of(right - kept, right),
        n_queries_median=queries,
        n_queries_p90=queries * 2.5,
        words_changed=0.14,
    )


def point(trial: int, weight: float | None, params: dict[str, Any], ceiling: float) -> PointRecord:
    """Robust accuracy rises to a plateau with the weight; clean accuracy falls late."""
    w = 0.5 if weight is None else weight
    clean = round(N_CLEAN * (0.945 - 0.012 * ceiling - 0.09 * ceiling * w**2.5))
    right = round(N_ATTACKED * clean / N_CLEAN)
    robust = round(N_ATTACKED * (0.12 + ceiling * (1 - (1 - w) ** 2)))
    named = params if weight is None else params | {"mix.weight": weight}
    return PointRecord(
        id=f"t{trial:03d}" if weight is None else f"t{trial:03d}.w{weight}",
        params=named,
        clean_accuracy=Rate.of(clean, N_CLEAN),
        robust_accuracy=Rate.of(robust, N_ATTACKED),
        attacks={
            "textfooler": attack_score(right, min(right, robust + 6), 148.0 + 90 * w),
            "deepwordbug": attack_score(right, min(right, robust + 26 - round(8 * w)), 34.0 + 12 * w),
        },
        model_digest=f"{trial}{weight}",
        seconds={"mix": 0.4, "attack": 61.5 + 20 * w, "score": 1.2},
    )


def adapter(view: str, cache_key: str, *, cached: bool, seconds: float) -> AdapterRecord:
    return AdapterRecord(
        view=view,
        method="pgd" if view != "clean" else "standard",
        cache_key=cache_key,
        cached=cached,
        train_seconds=seconds,
        final_loss=0.21,
        n_steps=375,
        token_efficiency=0.93,
        precision="bf16",
    )


def trial(number: int, params: dict[str, Any], ceiling: float, weights: list[float | None]) -> TrialRecord:
    return TrialRecord(
        name="agnews_mixup",
        number=number,
        status="complete",
        params=params,
        recipe={"name": "agnews_mixup"},
        recipe_digest="0" * 64,
        protocol_hash="5f1c0a9e7b3d2468",
        data={"name": "ag_news", "labels": ["World", "Sports", "Business", "Science and technology"], "n_train": 2000},
        adapters=[
            adapter("clean", f"c{params.get('adapter.rank', 8)}", cached=number >= 2, seconds=74.2),
            adapter("adversarial.0", f"a{number}", cached=False, seconds=211.0 + number),
        ],
        points=[point(number, weight, params, ceiling) for weight in weights],
        seconds={"data": 3.1, "model": 2.2, "train": 285.0 + number},
        environment={"python": "3.11.2", "torch": "2.13.0", "device": "cpu"},
    )


BLOCKS: dict[str, dict[str, Any]] = {
    "clean": {"kind": "adpmixup", "weight": 0.0},
    "half": {"kind": "adpmixup"},
    "adversarial": {"kind": "adpmixup", "weight": 1},
    "word_only": {"kind": "adpmixup", "weight": 1.0, "leave_out": 1},
    "character_only": {"kind": "adpmixup", "weight": 1.0, "leave_out": 0},
    "chosen": {"kind": "adpmixup", "weighting": "grid_validation"},
    "ratio": {"kind": "adpmixup", "weighting": "entropy_ratio"},
    "uniform": {"kind": "uniform"},
}
KNOWN, HELD_OUT = ("textfooler", "deepwordbug"), ("pwws",)


def per_text() -> dict[str, Any]:
    """What a point has whose weights depend on the text; ``deepwordbug`` breaks more with the adapters' texts."""
    names = ["clean", "adversarial.0", "adversarial.1"]
    weights = {
        "clean": [[0.9, 0.1, 0.0], [0.75, 0.05, 0.2], [0.0, 0.5, 0.5]],
        "textfooler": [[0.35, 0.45, 0.2], [0.35, 0.25, 0.4]],
        "pwws": [[0.05, 0.9, 0.05]],
    }
    return {
        "per_text": True,
        "unaided": {"textfooler": Rate.of(86, 200), "deepwordbug": Rate.of(101, 200), "pwws": Rate.of(80, 200)},
        "profiles": {source: WeightProfile.of(names, rows) for source, rows in weights.items()},
    }


@pytest.fixture
def mixing(report: Callable[..., Report]) -> Report:
    """One trial whose points are named blocks of the mixer: per-text rules, a chosen weight, adapters left out."""
    points = []
    for i, name in enumerate(BLOCKS):
        kept = {attack: 86 - i - 5 * j for j, attack in enumerate([*KNOWN, *HELD_OUT])}
        more = per_text() if name == "ratio" else {"chosen_weight": 0.4} if name == "chosen" else {}
        if name == "ratio":
            kept = {"textfooler": 86, "deepwordbug": 93, "pwws": 80}
        points.append(
            PointRecord(
                id=f"t000.{i:02d}",
                params={"mix": name},
                clean_accuracy=Rate.of(360 - 7 * i, N_CLEAN),
                robust_accuracy=Rate.of(70 - i, N_ATTACKED),
                attacks={attack: attack_score(180, kept[attack], 40.0) for attack in KNOWN},
                held_out={attack: attack_score(180, kept[attack], 40.0) for attack in HELD_OUT},
                static={
                    "textfooler": Rate.of(3 * i, 61),
                    "deepwordbug": Rate.of(4 * i, 73),
                    "pwws": Rate.of(2 * i, 47),
                },
                model_digest=name,
                **more,
            )
        )
    record = trial(0, {}, 0.3, []).model_copy(
        update={
            "points": points,
            "recipe": {
                "train": {"kind": "standard"},
                "adversarial": [{"kind": "augment", "attack": attack} for attack in KNOWN],
                "mix": {"kind": "adpmixup", "weighting": "fixed", "weight": 0.5, "leave_out": None},
            },
        }
    )
    return report([record], space={"mix": {"grid": BLOCKS, "after": "training"}})


def failed(number: int, error: str) -> TrialRecord:
    return TrialRecord(
        name="agnews_mixup",
        number=number,
        status="failed",
        params={"adversarial.0.radius": 0.9, "adapter.rank": 16},
        recipe={"name": "agnews_mixup"},
        recipe_digest="0" * 64,
        error=error,
        error_kind="StageError",
    )


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn(what="data", asked="ag_news", used="bbc_news", reason="the model hub can't be reached")


@pytest.fixture
def fail() -> Callable[[int, str], TrialRecord]:
    return failed


@pytest.fixture
def trials() -> Trials:
    """``trials(n, n_weights)``: records of n completed trials; ``n_weights=None`` for one point without a weight."""

    def build(n: int, n_weights: int | None = 6) -> list[TrialRecord]:
        last = max(1, (n_weights or 1) - 1)
        weights: list[float | None] = [None] if n_weights is None else [round(i / last, 3) for i in range(n_weights)]
        return [
            trial(
                i,
                {"adversarial.0.radius": round(0.05 + 0.11 * (i % 9), 3), "adapter.rank": (4, 8, 16)[i % 3]},
                0.30 + 0.31 * ((i * 7) % 5) / 4,
                weights,
            )
            for i in range(n)
        ]

    return build


@pytest.fixture
def report() -> Callable[..., Report]:
    """``report(records, **changes)``: the keyword arguments of a report on these records."""

    def build(records: list[TrialRecord], objectives: list[Objective] = TWO, **changes: Any) -> Report:
        return {
            "name": "agnews_mixup",
            "points": assess(records, objectives),
            "records": records,
            "objectives": objectives,
            "recipe_yaml": "version: 1\nname: agnews_mixup\nmix: {kind: adpmixup, weight: 0.5}\n",
            "notices": ["stand-in for data: 'ag_news' is replaced by 'bbc_news' (the model hub can't be reached)"],
            "protocol": {"name": "standard_v1", "max_words_changed": 0.3, "n_attacked": N_ATTACKED, "seed": 0},
        } | changes

    return build


@pytest.fixture
def sweep(trials: Trials, report: Callable[..., Report]) -> Report:
    """The usual case: 4 trials x 6 weights and one failed trial."""
    return report([*trials(4), failed(4, "stage 'train': the loss is not finite after step 12")])


@pytest.fixture
def points(sweep: Report) -> list[Point]:
    found: list[Point] = sweep["points"]
    return found
