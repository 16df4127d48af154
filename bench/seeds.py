"""The same points of finished runs that differ in their seed, together: rates of each seed, and of all of them.

    python bench/seeds.py runs/compare_tickets runs/compare_tickets_1 runs/compare_tickets_2 --key ticket train

Points that have the same values of ``--key`` are one row. Differences from the first row are paired by text and seed,
pooled: McNemar's exact test and Newcombe's interval, as if all texts were different ones. Seeds draw their own
texts, so few are, but a text may be in two of them, and the spread between seeds is not in the interval: look at the
rates of each seed beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robusweep.record import PointRecord, TrialRecord, read_clean, read_outcomes, read_trials
from robusweep.scores import Comparison, Rate

Marks = dict[str, list[bool]]  # metric -> one mark for each text


def marks(folder: Path, point: PointRecord) -> Marks:
    """Right on each validation text, and right under all known and under all held-out attacks on the attacked ones."""
    clean = read_clean(folder, point.id)
    assert clean is not None, folder
    found = {"clean": clean}
    for metric, kinds in (("robust", point.attacks), ("held out", point.held_out)):
        suites = [read_outcomes(folder / f"{point.id}.{kind}.jsonl") for kind in kinds]
        if suites:
            found[metric] = [all(o.status == "survived" for o in row) for row in zip(*suites, strict=True)]
    return found


def row_of(trial: TrialRecord, point: PointRecord, keys: Sequence[str]) -> str:
    params = trial.params | point.params
    return ", ".join(str(params[key]) for key in keys if key in params)


def percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--key", nargs="+", required=True, help="searched keys that name a row")
    asked = parser.parse_args()
    found: dict[str, list[Marks]] = {}
    seconds: dict[str, list[float]] = {}
    for run in asked.runs:
        for trial in read_trials(run):
            for point in trial.points:
                name = row_of(trial, point, asked.key)
                folder = run / "trials" / f"t{trial.number:03d}" / "attacks"
                found.setdefault(name, []).append(marks(folder, point))
                seconds.setdefault(name, []).append(sum(a.train_seconds for a in trial.adapters))
    reference = next(iter(found.values()))
    print(f"{len(asked.runs)} runs; rates in %, of all runs with 95 % interval, then of each; differences in points")
    for name, each in found.items():
        print(f"\n{name or 'all'} ({len(each)} runs, training {', '.join(f'{s:.0f}' for s in seconds[name])} s)")
        for metric in each[0]:
            together = [mark for one in each for mark in one[metric]]
            by_seed = ", ".join(f"{100 * sum(one[metric]) / len(one[metric]):.1f}" for one in each)
            line = f"  {metric:9} {percent(Rate.of(sum(together), len(together))):22} ({by_seed})"
            if each is not reference:
                line += f"  {_difference(together, [mark for one in reference for mark in one[metric]])}"
            print(line)


def _difference(mine: Sequence[bool], other: Sequence[bool]) -> str:
    if len(mine) != len(other):
        return "not all runs"
    found: Any = Comparison.of(list(mine), list(other))
    return (
        f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}], p {found.p_value:.2g} "
        f"({found.n_only_first} / {found.n_only_second})"
    )


if __name__ == "__main__":
    main()
