"""Racing: what it stops, what it never stops, and what it saves in a simulated sweep."""

from __future__ import annotations

from math import comb
from statistics import NormalDist

import numpy as np
import pytest

from robusweep.race import Arm, Race, sign_test, stops


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 2), (2, 5), (40, 38), (300, 180)])
def test_the_sign_test_is_the_binomial_tail(wins: int, losses: int) -> None:
    n = wins + losses
    tail = sum(comb(n, k) for k in range(wins, n + 1)) / 2**n
    assert sign_test(wins, losses) == pytest.approx(tail, rel=1e-9)


def test_looks_grow_and_end_at_all_examples() -> None:
    assert Race(first=32, growth=1.5).looks(100) == [32, 48, 72, 100]
    assert Race(first=32).looks(20) == [20]
    assert Race(first=1, growth=1.01).looks(5) == [1, 2, 3, 4, 5]


def arm(name: str, n_survived: int, *, clean: float = 0.9, n: int = 60, running: bool = True) -> Arm:
    """Survives the first ``n_survived`` of ``n`` examples."""
    return Arm(name, clean, [i < n_survived for i in range(n)], running=running)


def stopped(arms: list[Arm], race: Race | None = None, n_examples: int = 60) -> dict[str, str]:
    found = stops(arms, race or Race(), n_examples=n_examples, n_looks=3, n_started=len(arms))
    return {stop.name: stop.by for stop in found}


def test_a_point_far_behind_is_stopped_and_the_record_says_by_which() -> None:
    assert stopped([arm("good", 50), arm("bad", 10)]) == {"bad": "good"}


def test_a_point_that_is_cleaner_is_not_stopped_however_little_it_survives() -> None:
    assert stopped([arm("good", 50, clean=0.90), arm("bad", 10, clean=0.91)]) == {}
    assert stopped([arm("good", 50, clean=0.90), arm("bad", 10, clean=0.90)]) == {"bad": "good"}


def test_a_finished_point_stops_others_and_is_stopped_by_none() -> None:
    assert stopped([arm("done", 50, running=False), arm("bad", 10)]) == {"bad": "done"}
    assert stopped([arm("good", 50), arm("done", 10, running=False)]) == {}


def test_only_examples_that_both_have_seen_count() -> None:
    late = Arm("late", 0.9, [False] * 40 + [True] * 160, running=False)
    early = Arm("early", 0.9, [True] * 40 + [False] * 160)
    assert stopped([late, early], n_examples=40) == {}
    assert stopped([late, early], n_examples=200) == {"early": "late"}


def test_more_points_and_more_looks_ask_for_clearer_evidence() -> None:
    arms = [arm("good", 20), arm("bad", 10)]  # 10 of 10: p = 2 ** -10
    assert stops(arms, Race(), n_examples=60, n_looks=2, n_started=2)
    assert not stops(arms, Race(), n_examples=60, n_looks=50, n_started=2)
    assert not stops(arms, Race(), n_examples=60, n_looks=2, n_started=50)


def test_equal_points_and_a_point_alone_are_not_stopped() -> None:
    assert stopped([arm("one", 30), arm("same", 30)]) == {}
    assert stopped([arm("alone", 0)]) == {}


# ------------------------------------------------------------------------- a sweep of 50 points, simulated
N_POINTS, N_EXAMPLES, RHO = 50, 1000, 0.65


def simulated(rng: np.random.Generator, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([points, examples] survived, queries). Points share how hard an example is: latent correlation ``RHO``."""
    shared, own = rng.standard_normal(N_EXAMPLES), rng.standard_normal((len(rates), N_EXAMPLES))
    hardness = np.sqrt(RHO) * shared + np.sqrt(1 - RHO) * own
    survived = hardness < np.array([[NormalDist().inv_cdf(rate)] for rate in rates])
    queries = np.where(survived, 180, 60) * rng.lognormal(-0.125, 0.5, survived.shape)
    return survived, queries


def raced(survived: np.ndarray, queries: np.ndarray) -> tuple[set[int], float]:
    """(the points never stopped, queries spent / queries without a race)."""
    race, running, spent, before = Race(), set(range(len(survived))), 0.0, 0
    looks = race.looks(N_EXAMPLES)
    for n in looks:
        spent += float(queries[sorted(running), before:n].sum())
        before = n
        if n < N_EXAMPLES:
            arms = [Arm(str(i), 0.9, survived[i].tolist()) for i in sorted(running)]
            found = stops(arms, race, n_examples=n, n_looks=len(looks), n_started=len(survived))
            running -= {int(stop.name) for stop in found}
    return running, spent / float(queries.sum())


def test_a_race_keeps_the_best_of_fifty_points_for_less_than_a_third_of_the_queries() -> None:
    rng = np.random.default_rng(0)
    kept, shares, regrets, regrets_of_all = [], [], [], []
    for _ in range(20):
        rates = np.clip(rng.normal(0.4, 0.115, N_POINTS), 0.02, 0.98)
        survived, queries = simulated(rng, rates)
        running, share = raced(survived, queries)
        kept.append(int(rates.argmax()) in running)
        shares.append(share)
        regrets.append(rates.max() - rates[max(running, key=lambda i: survived[i].mean())])
        regrets_of_all.append(rates.max() - rates[survived.mean(axis=1).argmax()])
    assert np.mean(kept) >= 0.95
    assert np.mean(shares) <= 0.30
    assert np.mean(regrets) <= np.mean(regrets_of_all) + 0.0005  # half a tenth of a point


def test_among_equal_points_hardly_any_race_stops_one() -> None:
    rng = np.random.default_rng(1)
    stopped_any = [len(raced(*simulated(rng, np.full(N_POINTS, 0.4)))[0]) < N_POINTS for _ in range(20)]
    assert np.mean(stopped_any) <= Race().error
