"""A forecast held against its sweep: wall-clock hours and queries, foretold and found.

    python bench/plan.py recipes/radius.yaml --pilot 40 search.budget.n_trials=6
    python bench/plan.py recipes/compare_tickets.yaml --pilot 60 data.kind=bbc_news

The pilot runs first, then the sweep, in the folder that ``--root`` names or in one that is removed. Wanted: within a
factor of 1.5 of the hours that are left after the pilot, and of 1.1 of the queries. Nothing else should run beside it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from robusweep.plan import predict
from robusweep.recipe import load_recipe
from robusweep.record import TrialRecord, read_trials
from robusweep.sweep.run import run_sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--pilot", type=int, default=40, help="examples that the first trial is tried on")
    parser.add_argument("--root", type=Path)
    given = parser.parse_intermixed_args()
    with TemporaryDirectory(prefix="robusweep-plan-") as folder:
        root = given.root or Path(folder)
        plan = load_recipe(given.recipe, given.overrides)
        began = time.perf_counter()
        foretold = predict(plan, root, n_pilot=given.pilot)
        print(json.dumps(foretold, indent=2, ensure_ascii=False))
        print(f"the forecast took {(time.perf_counter() - began) / 60:.1f} min")
        began = time.perf_counter()
        run_sweep(plan, root=root, say=partial(print, file=sys.stderr))
        minutes = (time.perf_counter() - began) / 60
        trials = read_trials(root / "runs" / plan.recipe.name)
        n_queries = sum(map(_n_queries, trials))
        told = 60 * foretold["wall_hours"]
        print(f"minutes: foretold {told:.1f}, found {minutes:.1f}: {told / minutes:.2f}")
        asked = foretold["attack_queries"]
        print(f"queries: foretold {asked:,}, found {n_queries:,}: {asked / n_queries:.2f}")
        by_trial = ", ".join(f"{_n_queries(trial) / max(1, len(trial.points)):,.0f}" for trial in trials)
        print(f"queries of a point, by trial: {by_trial}")


def _n_queries(trial: TrialRecord) -> int:
    return sum(s.n_queries for point in trial.points for s in [*point.attacks.values(), *point.held_out.values()])


if __name__ == "__main__":
    main()
