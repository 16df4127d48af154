"""What thousands of trials cost the driver and those who read a sweep, with trials that train nothing.

    python bench/scale.py                             # 5,000 points of 417 trials, two local workers
    python bench/scale.py --executor ray --trials 100
    python bench/scale.py --executor ray --trials 100 --workers 50 --seconds 60     # 50 of them at once
    python bench/scale.py --trials 5000 --weights 1   # a trial for each point

Printed are CPU seconds: of the driver and of its workers over the whole sweep, by trial; how many trials ran at once,
and the most memory that all processes took together, each page once; then CPU seconds of each reading command in a
process of its own, start included, with its largest resident memory. With Ray, a trial asks for as small a part of a
CPU as lets all workers run. ``--seconds``: how long a trial idles, so that trials meet.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

from robusweep.assignment import Assignment
from robusweep.recipe import load_recipe
from robusweep.record import AttackOutcome, AttackScore, PointRecord, TrialRecord, robust_accuracy, write_text
from robusweep.scores import Rate
from robusweep.seeds import generator
from robusweep.sweep.run import run_sweep

N = 20  # attacked examples of a point
SECONDS, BEGUN_AND_ENDED = "SCALE_SECONDS", "begun_and_ended"  # an environment variable, and a file in the root
RECIPE = """\
# A sweep whose trials train nothing.
version: 1
name: scale
data: {{kind: csv, path: data.csv, n_train: 20, n_validation: 10, n_calibration: 4, n_test: 4}}
model: {{base: minilm_l6}}
adapter: {{kind: lora, rank: 4}}
train: {{kind: standard, n_epochs: 1}}
adversarial: [{{kind: pgd, radius: 0.3, n_epochs: 1}}]
mix: {{kind: adpmixup}}
attacks: {{known: [deepwordbug], n_examples: 10}}
search:
  space: space.yaml
  budget: {{n_trials: {trials}}}
resources: {{executor: {executor}, cpus: {cpus}, max_concurrent: {workers}}}
"""
SPACE = """\
# Two dimensions of training, and mixing weights.
mix.weight: {{grid: {weights}, after: training}}
adversarial.0.radius: {{log_uniform: [0.1, 0.6]}}
adapter.rank: {{choice: [4, 8]}}
"""


def work(assignment_json: str) -> str:
    """A record with scores by chance around a trade-off; nothing is trained."""
    assignment = Assignment.model_validate_json(assignment_json)
    _note(assignment, 1)
    time.sleep(float(os.environ.get(SECONDS, "0")))
    rng = generator(assignment.number, "scale")
    radius, points = float(assignment.params["adversarial.0.radius"]), []
    for plan in assignment.points:
        weight = float(plan.params["mix.weight"])
        n_stood = int(rng.binomial(N, min(0.95, 0.1 + weight * radius)))
        outcomes = [
            AttackOutcome(
                example_id=str(i), label=0, status="survived" if i < n_stood else "broken", n_queries=9, n_words=5
            )
            for i in range(N)
        ]
        lines = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes)
        write_text(assignment.trial_dir / "attacks" / f"{plan.id}.deepwordbug.jsonl", lines)
        points.append(
            PointRecord(
                id=plan.id,
                params=plan.params,
                clean_accuracy=Rate.of(int(rng.binomial(1000, 0.95 - 0.2 * weight * radius)), 1000),
                robust_accuracy=robust_accuracy({"deepwordbug": outcomes}),
                attacks={"deepwordbug": AttackScore.of(outcomes)},
                model_digest="0",
            )
        )
    record = TrialRecord(
        name=assignment.name,
        number=assignment.number,
        status="complete",
        params=assignment.params,
        recipe=assignment.recipe.model_dump(mode="json"),
        recipe_digest=assignment.recipe.trial_digest(),
        protocol_hash="scale",
        points=points,
    )
    write_text(assignment.trial_dir / "record.json", record.model_dump_json())
    _note(assignment, -1)
    return record.model_dump_json()


def _note(assignment: Assignment, change: int) -> None:
    """That one trial more, or fewer, runs."""
    with (Path(assignment.root) / BEGUN_AND_ENDED).open("a") as file:
        file.write(f"{time.time()} {change}\n")


def _most_at_once(root: Path) -> int:
    lines = (root / BEGUN_AND_ENDED).read_text().splitlines()
    changes = sorted((float(at), int(change)) for at, change in map(str.split, lines))
    return max(accumulate(change for _, change in changes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=417)
    parser.add_argument("--weights", type=int, default=12, help="points of a trial")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long a trial idles")
    parser.add_argument("--mlflow", action="store_true", help="write to MLflow, too")
    given = parser.parse_args()
    os.environ[SECONDS] = str(given.seconds)  # workers have it of us
    with TemporaryDirectory(prefix="robusweep-scale-") as folder:
        root = Path(folder)
        weights = [round((i + 1) / given.weights, 4) for i in range(given.weights)]
        rows = "".join(f"{'cats' if i % 2 else 'dogs'} number {i},{'cat' if i % 2 else 'dog'}\n" for i in range(60))
        (root / "data.csv").write_text("text,label\n" + rows)
        cpus = int(10_000 * (os.cpu_count() or 1) / given.workers) / 10_000  # Ray counts ten-thousandths
        named = {"trials": given.trials, "executor": given.executor, "workers": given.workers, "cpus": min(1.0, cpus)}
        (root / "recipe.yaml").write_text(RECIPE.format(**named))
        (root / "space.yaml").write_text(SPACE.format(weights=weights))
        _sweep(root, given.trials, track=given.mlflow)
        for command in ("status scale", "pareto scale", "pareto scale --json", "report scale"):
            _read(root, command)


def _sweep(root: Path, n_trials: int, *, track: bool) -> None:
    plan, began, wall = load_recipe(root / "recipe.yaml", []), _cpu(), time.perf_counter()
    with _memory_watched() as most:
        found = run_sweep(plan, root=root, say=partial(print, file=sys.stderr), work=work, track=track)
    driver, workers = (after - before for before, after in zip(began, _cpu(), strict=True))
    front = sum(point.pareto for point in found.points)
    print(f"{n_trials} trials, {len(found.points)} points, {front} on the front, {time.perf_counter() - wall:.0f} s")
    print(
        f"driver {driver:.1f} CPU s, {driver / n_trials:.3f} a trial; its processes {workers:.1f} CPU s (work included)"
    )
    print(f"driver's memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print(f"at most {_most_at_once(root)} trials at once; all processes together at most {' MiB in '.join(most)}")


def _cpu() -> tuple[float, float]:
    """(of this process, of its children that have ended)."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


WATCH = """
import sys, time
from pathlib import Path
def below(pid):
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [p for child in path.read_text().split() for p in below(child)]
        except OSError:
            pass
    return found
def kib(pid):
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
while True:
    sizes = [size for size in map(kib, below(sys.argv[1])) if size]
    print(f"{sum(sizes) / 1024:.0f} {len(sizes)} processes", flush=True)
    time.sleep(3)
"""


@contextmanager
def _memory_watched() -> Iterator[list[str]]:
    """Looks every few seconds, in a process of its own. In the list at the end: the most MiB, and in what."""
    most: list[str] = []
    watch = subprocess.Popen([sys.executable, "-c", WATCH, str(os.getpid())], stdout=subprocess.PIPE, text=True)
    yield most
    watch.terminate()
    rows = [line.split(" ", 1) for line in watch.communicate()[0].splitlines()]
    most += max(rows, key=lambda row: int(row[0]))


READ = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def _read(root: Path, command: str) -> None:
    asked = [sys.executable, "-m", "robusweep", *command.split(), "--root", str(root)]
    told = subprocess.run([sys.executable, "-c", READ, *asked], check=True, capture_output=True, text=True).stdout
    seconds, memory = map(float, told.split())
    print(f"robusweep {command:22} {seconds:5.2f} CPU s {memory:6.0f} MiB")


if __name__ == "__main__":
    main()
