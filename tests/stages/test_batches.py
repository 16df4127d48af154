from __future__ import annotations

import math

import numpy as np
import pytest

from robusweep.training.batches import CHUNK, grouped_batches, token_efficiency


def lengths_of(mean: float, n: int = 2000) -> list[int]:
    """Log-normal lengths, as texts have them."""
    spread = 0.5
    draws = np.random.default_rng(0).lognormal(math.log(mean) - spread**2 / 2, spread, size=n)
    return [int(length) for length in draws.round().clip(3, 128)]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 16 * CHUNK, 16 * CHUNK + 5, 2000])
def test_an_epoch_holds_every_example_once_and_keeps_the_last_small_batch(n: int) -> None:
    batches = grouped_batches(lengths_of(27, n), batch_size=16, rng=np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert len(batches) == math.ceil(n / 16)
    assert sorted({len(batch) for batch in batches} - {16}) == ([n % 16] if n % 16 else [])


def test_batches_depend_on_the_seed_alone() -> None:
    lengths = lengths_of(27, 200)

    def epoch(seed: int) -> list[list[int]]:
        return grouped_batches(lengths, batch_size=16, rng=np.random.default_rng(seed))

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)


@pytest.mark.parametrize("mean", [27, 52])
def test_little_is_computed_on_padding(mean: int) -> None:
    lengths = lengths_of(mean)
    assert abs(np.mean(lengths) - mean) < 2
    grouped = grouped_batches(lengths, batch_size=16, rng=np.random.default_rng(0))
    shuffled = np.random.default_rng(0).permutation(len(lengths)).reshape(-1, 16).tolist()
    assert token_efficiency(lengths, grouped) >= 0.97
    assert token_efficiency(lengths, shuffled) < 0.75  # what grouping is for


def test_batches_do_not_come_in_order_of_length() -> None:
    lengths = lengths_of(27)
    longest = [
        max(lengths[i] for i in b) for b in grouped_batches(lengths, batch_size=16, rng=np.random.default_rng(0))
    ]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


def test_token_efficiency_is_real_over_computed_tokens() -> None:
    assert token_efficiency([2, 4, 4], [[0, 1], [2]]) == pytest.approx(10 / 12)
