"""A forecast held against its sweep: hours and queries, foretold and found.

    python bench/plan.py recipes/radius.yaml --pilot 40 search.budget.n_trials=6 resources.executor=local
    python bench/plan.py recipes/compare_tickets.yaml --pilot 60 data.kind=bbc_news

The pilot runs first, then the sweep, in the folder that ``--root`` names or in one that is removed. Wanted: within a
factor of 1.5 of the hours that are left after the pilot, and of 1.1 of the queries.

Hours are by the clock, so nothing else should run beside it. Where something does, the seconds of CPU tell more: those
of this process and of its workers, which it knows with ``resources.executor=local`` alone. What was foretold is then
also given as CPU: times the share of the pilot's wall time in which it had a CPU.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import resource
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
    parser.add_argument("--pilot", type=int, default=40, help="examples that each of the pilot's trials is tried on")
    parser.add_argument("--pilot-trials", type=int, default=3, help="trials of the pilot, at most")
    parser.add_argument("--root", type=Path)
    given = parser.parse_intermixed_args()
    with TemporaryDirectory(prefix="robusweep-plan-") as folder:
        root = given.root or Path(folder)
        plan = load_recipe(given.recipe, given.overrides)
        clock = Clock()
        foretold = predict(plan, root, n_pilot=given.pilot, n_pilot_trials=given.pilot_trials)
        print(json.dumps(foretold, indent=2, ensure_ascii=False))
        wall, cpu = clock.minutes()
        share = cpu / wall
        print(f"the forecast took {wall:.1f} min, {cpu:.1f} of CPU ({share:.0%})")
        clock = Clock()
        run_sweep(plan, root=root, say=partial(print, file=sys.stderr))
        wall, cpu = clock.minutes()
        trials = read_trials(root / "runs" / plan.recipe.name)
        n_queries = sum(map(_n_queries, trials))
        told = 60 * foretold["wall_hours"]
        print(f"minutes: foretold {told:.1f}, found {wall:.1f}: {told / wall:.2f}")
        told *= foretold["workers"] * share
        print(f"minutes of CPU: foretold {told:.1f}, found {cpu:.1f}: {told / cpu:.2f}")
        asked = foretold["attack_queries"] - foretold.get("of_them_at_epoch_rungs", 0)  # those are in no record
        interval = foretold.get("attack_queries_interval")
        print(f"queries: foretold {asked:,} {interval or ''}, found {n_queries:,}: {asked / n_queries:.3f}")
        by_trial = ", ".join(f"{_n_queries(trial) / max(1, len(trial.points)):,.0f}" for trial in trials)
        print(f"queries of a point, by trial: {by_trial}")


class Clock:
    """Minutes since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def minutes(self) -> tuple[float, float]:
        """By the clock, and of CPU: of this process and of its children that are over."""
        return (time.perf_counter() - self._wall) / 60, (_cpu_seconds() - self._cpu) / 60


def _cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _n_queries(trial: TrialRecord) -> int:
    return sum(s.n_queries for point in trial.points for s in [*point.attacks.values(), *point.held_out.values()])


if __name__ == "__main__":
    main()
