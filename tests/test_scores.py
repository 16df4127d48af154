"""Rates, calibration and Pareto geometry, against hand values, brute force and laws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from robusweep.record import AttackOutcome, AttackScore, Status, robust_accuracy
from robusweep.scores import (
    Comparison,
    Goal,
    Rate,
    clean_accuracy,
    fit_temperature,
    holm,
    hypervolume,
    knee,
    mcnemar,
    metric_value,
    pareto_ranks,
    summary,
)

MAX2: list[Goal] = ["max", "max"]


def outcomes(statuses: str) -> list[AttackOutcome]:
    """``s`` survived, ``b`` broken, ``m`` misclassified; one example each."""
    names: dict[str, Status] = {"s": "survived", "b": "broken", "m": "misclassified"}
    return [
        AttackOutcome(example_id=f"e{i}", label=0, status=names[s], n_queries=10 * i, n_words=8, n_words_changed=2)
        for i, s in enumerate(statuses)
    ]


def logits(seed: int, n: int = 400, n_classes: int = 4) -> tuple[NDArray[np.float32], list[int]]:
    """Calibrated logits: each label is drawn from the softmax of its row."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 2, (n, n_classes))
    p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    return rows.astype(np.float32), [int(rng.choice(n_classes, p=row)) for row in p]


# Intervals of Wilson (1927) at 95 %, worked out from the formula with z = 1.959964.
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.27753), (1, 10, 0.01788, 0.40415), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0),
     (81, 263, 0.25529, 0.36621)],
)  # fmt: skip
def test_wilson_interval_has_its_known_bounds(k: int, n: int, low: float, high: float) -> None:
    rate = Rate.of(k, n)
    assert (rate.value, rate.n) == (k / n, n)
    assert rate.low == pytest.approx(low, abs=1e-5)
    assert rate.high == pytest.approx(high, abs=1e-5)


def test_wilson_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 2, 7, 60, 1000):
        for k in {0, 1, n // 3, n - 1, n}:
            rate, other = Rate.of(k, n), stats.binomtest(k, n).proportion_ci(method="wilson")
            assert rate.low == pytest.approx(other.low, abs=1e-9)
            assert rate.high == pytest.approx(other.high, abs=1e-9)


def test_an_interval_holds_its_value_and_narrows_with_more_examples() -> None:
    widths = [Rate.of(3 * n, 4 * n).high - Rate.of(3 * n, 4 * n).low for n in (1, 10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)
    for n in range(1, 40):
        assert all(Rate.of(k, n).low <= k / n <= Rate.of(k, n).high for k in range(n + 1))


def test_a_rate_of_nothing_knows_nothing() -> None:
    assert Rate.of(0, 0).model_dump() == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_a_count_that_is_no_rate_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Rate.of(k, n)


def test_a_value_outside_its_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold its value"):
        Rate(value=0.5, low=0.6, high=0.7, n=10)


def test_clean_accuracy_counts_rows_that_are_not_finite_as_wrong() -> None:
    rows = np.array([[2, 1], [0, 1], [np.nan, 0], [np.inf, 0]], dtype=np.float32)
    assert clean_accuracy(rows, [0, 0, 0, 0]).value == 0.25
    assert clean_accuracy(rows, [0, 1, 1, 1]).n == 4


def test_misclassified_examples_count_as_wrong_under_attack() -> None:
    score = AttackScore.of(outcomes("ssbmm"))
    assert (score.accuracy_under_attack.value, score.accuracy_under_attack.n) == (2 / 5, 5)
    assert (score.success_rate.value, score.success_rate.n) == (1 / 3, 3)
    assert score.n_queries_median == 10  # of the three that were attacked: 0, 10, 20
    assert score.words_changed == 0.25


def test_an_attack_on_nothing_but_misclassified_examples_has_no_success_rate() -> None:
    score = AttackScore.of(outcomes("mm"))
    assert (score.accuracy_under_attack.value, score.accuracy_under_attack.n) == (0, 2)
    assert score.success_rate.n == 0
    assert (score.n_queries_median, score.n_queries_p90, score.words_changed) == (None, None, None)


def test_robust_accuracy_is_right_under_every_attack() -> None:
    suite = {"a": outcomes("ssbbm"), "b": outcomes("sbsbm")}
    assert (robust_accuracy(suite).value, robust_accuracy(suite).n) == (1 / 5, 5)


def test_robust_accuracy_is_at_most_each_attacks_and_never_rises_with_one_more() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        wrong = rng.random(30) < 0.2  # before any attack, so the same under all of them
        rows = ["".join("m" if w else c for w, c in zip(wrong, rng.choice(["s", "b"], 30), strict=True)) for _ in "abc"]
        suite = {name: outcomes(row) for name, row in zip("abc", rows, strict=True)}
        values = [robust_accuracy(dict(list(suite.items())[:m])).value for m in (1, 2, 3)]
        assert values == sorted(values, reverse=True)
        assert values[-1] <= min(AttackScore.of(row).accuracy_under_attack.value for row in suite.values())


def test_robust_accuracy_refuses_attacks_on_different_examples_or_none() -> None:
    turned = list(reversed(outcomes("ss")))
    for suite in ({}, {"a": outcomes("ss"), "b": outcomes("s")}, {"a": outcomes("ss"), "b": turned}):
        with pytest.raises(ValueError, match="same examples"):
            robust_accuracy(suite)


def test_a_summary_of_nothing_is_nothing() -> None:
    assert summary([]) == (None, None)
    assert summary([1, 2, 30]) == (2.0, pytest.approx(24.4))


def test_scaling_logits_scales_the_temperature() -> None:
    rows, labels = logits(0)
    fitted = fit_temperature(rows, labels)
    assert fitted == pytest.approx(1.0, rel=0.15)
    assert fit_temperature(rows * 5, labels) == pytest.approx(5 * fitted, rel=1e-3)
    assert fit_temperature(rows / 5, labels) == pytest.approx(fitted / 5, rel=1e-3)


def test_the_temperature_is_at_the_minimum_of_its_loss() -> None:
    rows, labels = logits(1)

    def loss(t: float) -> float:
        log_p = rows / t - np.log(np.exp(rows / t).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(len(labels)), labels].sum() - log_p.mean())

    fitted = fit_temperature(rows * 3, labels) / 3
    assert loss(fitted) <= min(loss(fitted * factor) for factor in (0.98, 0.99, 1.01, 1.02)) + 1e-6


def test_examples_that_are_all_right_do_not_saturate_the_probabilities() -> None:
    labels = [i % 4 for i in range(100)]
    rows = 6 * np.eye(4, dtype=np.float32)[labels]
    temperature = fit_temperature(rows, labels)
    scaled = np.exp(rows / temperature)
    assert (scaled / scaled.sum(axis=1, keepdims=True)).max() < 0.995
    assert temperature > 0.5


def test_rows_that_are_not_finite_do_not_touch_the_temperature() -> None:
    rows, labels = logits(2)
    broken = np.vstack([rows, np.full((3, 4), np.nan, dtype=np.float32), np.full((1, 4), np.inf, dtype=np.float32)])
    assert fit_temperature(broken, [*labels, 0, 1, 2, 3]) == fit_temperature(rows, labels)
    assert fit_temperature(broken[-4:], [0, 1, 2, 3]) == 1.0


def dominates(a: list[float], b: list[float], goals: list[Goal]) -> bool:
    signed = [(x, y) if goal == "max" else (-x, -y) for x, y, goal in zip(a, b, goals, strict=True)]
    return all(x >= y for x, y in signed) and any(x > y for x, y in signed)


@pytest.mark.parametrize("goals", [["max"], ["max", "max"], ["max", "min"], ["min", "max", "max"]])
def test_ranks_agree_with_peeling_off_fronts_by_hand(goals: list[Goal]) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 40):
        points = (rng.integers(0, 6, (n, len(goals))) / 5).tolist()  # coarse, so that there are ties
        ranks, left, expected = pareto_ranks(points, goals), set(range(n)), [0] * n
        rank = 0
        while left:
            rank += 1
            front = {i for i in left if not any(dominates(points[j], points[i], goals) for j in left)}
            for i in front:
                expected[i] = rank
            left -= front
        assert ranks == expected


def test_nothing_has_no_ranks_and_no_knee() -> None:
    assert pareto_ranks([], MAX2) == []
    assert knee([], MAX2) is None
    assert hypervolume([], MAX2, [0, 0]) == 0


def test_the_knee_is_the_front_point_farthest_from_the_line_through_its_ends() -> None:
    points = [[0.9, 0.1], [0.8, 0.6], [0.5, 0.7], [0.2, 0.8], [0.7, 0.55]]
    assert knee(points, MAX2) == 1
    assert knee([[1 - x, y] for x, y in points], ["min", "max"]) == 1
    assert knee([[100 * x, y / 7] for x, y in points], MAX2) == 1  # units do not matter


def test_the_knee_is_on_the_front_and_a_tie_goes_to_the_first_objective() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        points = rng.random((12, 2)).tolist()
        chosen = knee(points, MAX2)
        assert chosen is not None
        assert pareto_ranks(points, MAX2)[chosen] == 1
    assert knee([[0.1, 0.9], [0.9, 0.1]], MAX2) == 1
    assert knee([[0.5, 0.5], [0.5, 0.5]], MAX2) == 0


def union_volume(points: NDArray[np.float64]) -> float:
    """Inclusion-exclusion over the boxes [0, point]."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in combinations(points, size):
            total += (-1) ** (size + 1) * float(np.prod(np.min(subset, axis=0)))
    return total


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
def test_hypervolume_agrees_with_inclusion_and_exclusion(n_objectives: int) -> None:
    rng = np.random.default_rng(n_objectives)
    goals: list[Goal] = ["max"] * n_objectives
    for n in (1, 2, 5, 8):
        points = rng.integers(1, 9, (n, n_objectives)) / 8
        assert hypervolume(points.tolist(), goals, [0.0] * n_objectives) == pytest.approx(union_volume(points))


def test_hypervolume_counts_only_what_lies_beyond_the_reference_and_respects_goals() -> None:
    assert hypervolume([[0.5, 0.5]], MAX2, [0.5, 0.0]) == 0
    assert hypervolume([[2.0, 0.5]], ["min", "max"], [10.0, 0.0]) == pytest.approx(4.0)


def test_a_dominated_point_adds_no_hypervolume_and_a_new_one_never_takes_any() -> None:
    rng = np.random.default_rng(7)
    points = rng.random((10, 3)).tolist()
    goals: list[Goal] = ["max", "max", "max"]
    volumes = [hypervolume(points[:m], goals, [0, 0, 0]) for m in range(11)]
    assert volumes == sorted(volumes)
    below = [[x / 2 for x in points[0]]]
    assert hypervolume([*points, *below], goals, [0, 0, 0]) == pytest.approx(volumes[-1])


def test_a_metric_that_is_missing_or_not_finite_is_refused() -> None:
    assert metric_value("a", {"a": 0.5}) == 0.5
    for metrics in ({}, {"a": float("nan")}, {"a": float("inf")}):
        with pytest.raises(ValueError, match="'a'"):
            metric_value("a", metrics)


def test_mcnemar_is_the_two_sided_binomial_test_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for only_first, only_second in [(0, 0), (1, 0), (3, 9), (12, 12), (40, 25)]:
        n = only_first + only_second
        exact = stats.binomtest(only_first, n).pvalue if n else 1.0
        assert mcnemar(only_first, only_second) == pytest.approx(exact, rel=1e-12)
        assert mcnemar(only_first, only_second) == mcnemar(only_second, only_first)


def test_a_comparison_counts_who_is_right_where() -> None:
    first, second = [True] * 30 + [True] * 12 + [False] * 8, [True] * 30 + [False] * 17 + [True] * 3
    found = Comparison.of(first, second)
    assert (found.n_only_first, found.n_only_second, found.first.n) == (12, 3, 50)
    assert found.difference == pytest.approx(9 / 50)
    assert found.p_value == mcnemar(12, 3)
    assert found.low < found.difference < found.high
    back = Comparison.of(second, first)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_equal_systems_do_not_differ_and_nothing_is_not_compared() -> None:
    same = Comparison.of([True, False], [True, False])
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert same.low <= 0 <= same.high
    for bad in ([], [True]):
        with pytest.raises(ValueError, match="same examples"):
            Comparison.of(bad, [])


def test_holm_corrects_for_the_family_and_keeps_the_order() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    drawn = np.random.default_rng(0).random(20).tolist()
    adjusted = holm(drawn)
    assert all(p <= q <= min(1.0, 20 * p) for p, q in zip(drawn, adjusted, strict=True))
    assert np.argsort(drawn, kind="stable").tolist() == sorted(range(20), key=lambda i: (adjusted[i], drawn[i]))


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(min(holm(rng.random(10).tolist())) <= 0.05 for _ in range(2000))
    assert alarms / 2000 < 0.065


def test_the_paired_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1_000_000)
    rate, other = (float(np.clip(t - 0.2 * noise, 0, 1).mean()) for t in (0.6, 0.5))  # chance of shared + noise < t
    held = 0
    for _ in range(400):
        shared = rng.random(80)
        first, second = (shared + 0.2 * rng.standard_normal(80) < t for t in (0.6, 0.5))
        found = Comparison.of(first.tolist(), second.tolist())
        held += found.low <= rate - other <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_the_accuracy_versus_query_curve_falls_to_the_accuracy_under_attack() -> None:
    rows = [
        AttackOutcome(example_id=str(i), label=0, status=status, n_queries=n, n_words=9)
        for i, (status, n) in enumerate(
            [("broken", 8), ("broken", 30), ("broken", 31), ("survived", 90), ("misclassified", 1), ("broken", 450)]
        )
    ]
    score = AttackScore.of(rows)
    curve = {point.n_queries: point.accuracy for point in score.curve}
    assert {n: round(rate.value * 6) for n, rate in curve.items()} == {10: 4, 20: 4, 50: 2, 100: 2, 200: 2, 500: 1}
    assert list(curve.values())[-1] == score.accuracy_under_attack
    assert all(rate.n == 6 for rate in curve.values())


def test_means_over_broken_examples_count_no_others() -> None:
    rows = [
        AttackOutcome(
            example_id="0", label=0, status="broken", n_queries=9, n_words=10, n_words_changed=2, similarity=0.8
        ),
        AttackOutcome(example_id="1", label=0, status="broken", n_queries=9, n_words=10, n_words_changed=4),
        AttackOutcome(example_id="2", label=0, status="survived", n_queries=99, n_words=10, exhausted=True),
        AttackOutcome(example_id="3", label=0, status="misclassified", n_queries=1, n_words=10),
    ]
    score = AttackScore.of(rows)
    assert (score.n_words_changed_mean, score.words_changed, score.similarity) == (3.0, pytest.approx(0.3), 0.8)
    assert (score.n_exhausted, score.n_queries, score.n_queries_median) == (1, 117, 9.0)
