"""Seeds depend on the recipe's seed and on names, and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

from robusweep.seeds import derive, generator


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from robusweep.seeds import derive; print(derive(3, 'data', 'split', 'test'))"
    for hash_seed in ("0", "1"):
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        )
        assert int(ended.stdout) == derive(3, "data", "split", "test")


def test_seeds_of_different_names_and_numbers_differ_and_fit_in_63_bits() -> None:
    keys = [(seed, *names) for seed in range(20) for names in product(("a", "b", "train"), (0, 1, "x"))]
    seeds = {derive(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60


def test_the_draws_of_one_name_do_not_depend_on_those_of_another() -> None:
    first = generator(0, "a")
    first.random(100)
    assert generator(0, "b").random() == generator(0, "b").random()
    assert generator(0, "a").random() != generator(0, "b").random()
    assert generator(0, "a").random() != generator(1, "a").random()
