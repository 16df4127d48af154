"""What early stopping across trials saves, and what it costs the front: a simulation, and recorded outcomes.

    python bench/halving.py                        # two minutes on one core, nothing is trained
    python bench/halving.py --parts told           # what stopped points should be told to the sampler as
    python bench/halving.py --run runs/NAME        # every point of a finished run, stopped after the fact

``policies``: sweeps of trials with five mixing weights each, four workers at a time, on a surrogate. A point's true
rates are smooth in its parameters, plus the luck of its training; whether it survives an example is drawn from them,
correlated over points by how hard the example is. A trial costs its training and every attacked example of every point.
All policies spend the same. The front is chosen among points attacked in full, as measured, and judged by true rates:
shown is its hypervolume in per cent of that of the surrogate's own front, as quartiles over seeds; luck can exceed it.

``told``: the same for TPE and NSGA-II when a stopped point is told as pruned, as complete with its partial rates, or as
complete with the lower ends of their intervals.

``--run``: the trials of a run in random orders, with the outcomes and queries it has recorded.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robusweep.halving import PRESETS, Halving, Place, goes_on, places
from robusweep.record import read_outcomes, read_trials
from robusweep.scores import Goal, Rate, hypervolume, pareto_ranks

Floats = NDArray[np.float64]
Told = Literal["pruned", "partial", "low"]
GOALS: list[Goal] = ["max", "max"]
REFERENCE = (0.5, 0.0)  # clean, robust: what is worse is of no interest
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
N_CLEAN, N_EXAMPLES, N_WORKERS = 240, 100, 4
TRAINING = 90.0  # cost of training, in attacked examples of one point: 30 s and 0.33 s, as bench/sweep.py measured
DIFFICULTY = 0.8  # latent correlation of two points' survival; recorded points have a median phi of 0.57
LUCK = 0.15  # of a training, on the logits of both rates


# ---------------------------------------------------------------------------------------------- the surrogate
def true_rates(params: dict[str, Any], luck: Floats) -> Floats:
    """(clean, robust) over texts without number: weight and radius trade one for the other, the rest is good or bad."""
    weight, radius = float(params["weight"]), float(np.log(params["radius"] / 0.25))
    rate, rank = float(np.log(params["learning_rate"] / 2e-3)), float(params["rank"] == 8)
    harm = 0.5 * rate**2
    clean = 3.0 - 0.5 * weight**2 * (1 + radius) - harm + 0.1 * rank
    robust = -0.8 + 1.6 * weight * (1 + 0.3 * radius) - 0.8 * weight**2 - 0.6 * harm + 0.1 * rank
    return 1 / (1 + np.exp(-(np.array([clean, robust]) + luck)))


def suggested(trial: Any) -> dict[str, Any]:
    return {
        "weight": trial.suggest_categorical("weight", list(WEIGHTS)),
        "radius": trial.suggest_float("radius", 0.1, 0.6, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 2e-4, 2e-2, log=True),
        "rank": trial.suggest_categorical("rank", [4, 8]),
    }


def best_hypervolume() -> float:
    """Of the true front, without luck."""
    grid = itertools.product(WEIGHTS, np.geomspace(0.1, 0.6, 60), np.geomspace(1e-3, 4e-3, 15), [4, 8])
    keys = ("weight", "radius", "learning_rate", "rank")
    rates = np.array([true_rates(dict(zip(keys, row, strict=True)), np.zeros(2)) for row in grid])
    return hypervolume(rates[np.array(pareto_ranks(rates.tolist(), GOALS)) == 1].tolist(), GOALS, REFERENCE)


@dataclass
class Scored:
    """A point: what it really is, what was measured of its clean accuracy, and which examples it survives."""

    params: dict[str, Any]
    truth: Floats
    clean: float
    survived: NDArray[np.bool_]
    n_met: int = 0

    def values(self, n: int) -> list[float]:
        return [self.clean, float(self.survived[:n].mean())]


class World:
    """Points of one seed; all meet the same texts."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._hardness = self._rng.standard_normal(N_CLEAN + N_EXAMPLES)

    def trial(self, params: dict[str, Any]) -> list[Scored]:
        luck = LUCK * self._rng.standard_normal(2)
        found = []
        for weight in WEIGHTS:
            point = params | {"weight": weight}
            truth = true_rates(point, luck)
            clean, survived = self._draw(truth[0], slice(N_CLEAN)), self._draw(truth[1], slice(N_CLEAN, None))
            found.append(Scored(point, truth, float(clean.mean()), survived))
        return found

    def _draw(self, rate: float, texts: slice) -> NDArray[np.bool_]:
        shared = self._hardness[texts]
        latent = math.sqrt(DIFFICULTY) * shared + math.sqrt(1 - DIFFICULTY) * self._rng.standard_normal(len(shared))
        right: NDArray[np.bool_] = latent < NormalDist().inv_cdf(float(rate))
        return right


# ---------------------------------------------------------------------------------------------- the policies
Rule = Callable[[list[list[float]], Halving], list[bool]]


def ours(values: list[list[float]], halving: Halving) -> list[bool]:
    return [goes_on(place, len(values), halving) for place in places(values, GOALS)]


def by_one(metric: int) -> Rule:
    """Successive halving on one objective: the control."""

    def rule(values: list[list[float]], halving: Halving) -> list[bool]:
        column = np.array(values)[:, metric]
        found = [Place(2, int((column > v).sum())) for v in column]
        return [goes_on(place, len(values), halving) for place in found]

    return rule


@dataclass(frozen=True)
class Policy:
    name: str
    halving: Halving | None
    rule: Rule = ours
    told: Told = "pruned"
    sampler: str = "tpe"


@dataclass
class Run:
    """What a sweep has found when its budget is spent; ``full``: (cost when known, point attacked in full)."""

    full: list[tuple[float, Scored]] = field(default_factory=list)
    n_trials: int = 0
    n_stopped: int = 0
    n_saved: int = 0  # attacked examples

    def reached(self, spent: float, best: float) -> float:
        """The hypervolume of the front that is chosen after this cost, per cent of ``best``."""
        known = [point for cost, point in self.full if cost <= spent]
        if not known:
            return 0.0
        ranks = pareto_ranks([p.values(N_EXAMPLES) for p in known], GOALS)
        front = [p.truth.tolist() for p, rank in zip(known, ranks, strict=True) if rank == 1]
        return 100 * hypervolume(front, GOALS, REFERENCE) / best


class ToldStudy:
    """An Optuna study that is told as robusweep's is: the first point is the trial, the others are added."""

    def __init__(self, policy: Policy, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        }
        self._told = policy.told
        self.study = optuna.create_study(directions=["maximize", "maximize"], sampler=samplers[policy.sampler]())

    def ask(self) -> tuple[Any, dict[str, Any]]:
        self.study.enqueue_trial({"weight": WEIGHTS[0]})
        trial = self.study.ask()
        return trial, suggested(trial)

    def tell(self, trial: Any, points: Sequence[Scored]) -> None:
        from optuna.trial import TrialState, create_trial

        for i, point in enumerate(points):
            values = self._values(point)
            state = TrialState.PRUNED if values is None else TrialState.COMPLETE
            if i == 0:
                self.study.tell(trial, values, state=state)
                frozen = self.study.get_trials(deepcopy=False)[trial.number]
                continue
            self.study.add_trial(
                create_trial(
                    state=state,
                    params=point.params,
                    distributions=frozen.distributions,
                    values=values,
                    system_attrs={k: v for k, v in frozen.system_attrs.items() if "generation" in k},
                )
            )

    def _values(self, point: Scored) -> list[float] | None:
        if point.n_met == N_EXAMPLES or self._told == "partial":
            return point.values(point.n_met)
        if self._told == "pruned":
            return None
        clean, robust = point.values(point.n_met)
        low = Rate.of(round(robust * point.n_met), point.n_met).low
        return [clean, low]


def swept(policy: Policy, seed: int, budget: float) -> Run:
    """A sweep of ``budget`` by workers that never wait; verdicts see what others have left so far."""
    world, study, run = World(seed), ToldStudy(policy, seed), Run()
    rungs: dict[int, list[list[float]]] = {}
    sizes = [*(policy.halving.sizes(N_EXAMPLES) if policy.halving else []), N_EXAMPLES]
    spent, order = 0.0, itertools.count()
    events: list[tuple[float, int, Iterator[float]]] = []

    def working() -> Iterator[float]:
        """The costs of one trial's steps; what a step does happens when it is over."""
        trial, params = study.ask()
        points = world.trial(params)
        yield TRAINING
        running, done = points, 0
        for n in sizes:
            yield float((n - done) * len(running))
            for point in running:
                point.n_met = n
            done = n
            if n < N_EXAMPLES and policy.halving is not None:
                here = rungs.setdefault(n, [])
                here += [point.values(n) for point in running]
                verdicts = policy.rule(here, policy.halving)[-len(running) :]
                running = [point for point, verdict in zip(running, verdicts, strict=True) if verdict]
                if not running:
                    break
        study.tell(trial, points)
        run.n_trials += 1
        run.n_stopped += len(points) - len(running)
        run.n_saved += sum(N_EXAMPLES - point.n_met for point in points)
        run.full += [(spent, point) for point in running]

    for _ in range(N_WORKERS):
        steps = working()
        heapq.heappush(events, (next(steps), next(order), steps))
    while events:
        now, _, steps = heapq.heappop(events)
        spent = now * N_WORKERS
        if spent > budget:
            return run
        cost = next(steps, None)
        if cost is None:
            steps = working()
            cost = next(steps)
        heapq.heappush(events, (now + cost, next(order), steps))
    return run


def table(policies: Sequence[Policy], n_trials: int, n_seeds: int) -> None:
    """A row for each policy: what is missing at a quarter, half and all of the budget, and what was run."""
    budget, best = n_trials * (TRAINING + len(WEIGHTS) * N_EXAMPLES), best_hypervolume()
    print(f"{n_seeds} seeds, the cost of {n_trials} full trials; hypervolume, % of the best without luck: quartiles")
    heads = "".join(f" {when:>20}" for when in ("at a quarter", "at half", "at the end"))
    print(f"{'policy':24}{heads} {'trials':>7} {'stopped':>8} {'saved':>6}")
    for policy in policies:
        runs = [swept(policy, seed, budget) for seed in range(n_seeds)]
        cells = []
        for share in (0.25, 0.5, 1.0):
            reached = [run.reached(share * budget, best) for run in runs]
            cells.append(" ".join(f"{v:5.1f}" for v in np.percentile(reached, [25, 50, 75])))
        n_points = sum(len(WEIGHTS) * run.n_trials for run in runs)
        saved = sum(run.n_saved for run in runs) / (n_points * N_EXAMPLES)
        stopped = sum(run.n_stopped for run in runs) / n_points
        n = np.median([run.n_trials for run in runs])
        print(f"{policy.name:24} {cells[0]:>20} {cells[1]:>20} {cells[2]:>20} {n:7.0f} {stopped:8.0%} {saved:6.0%}",
              flush=True)  # fmt: skip


def policies() -> list[Policy]:
    strong = PRESETS["strong"]
    return [
        *(Policy(name, halving) for name, halving in PRESETS.items()),
        Policy("strong, robust only", strong, by_one(1)),
        Policy("strong, clean only", strong, by_one(0)),
    ]


def tellings() -> list[Policy]:
    told: tuple[Told, ...] = ("pruned", "partial", "low")
    return [
        Policy(f"strong, {sampler}, {how}", PRESETS["strong"], told=how, sampler=sampler)
        for sampler in ("tpe", "nsga2")
        for how in told
    ]


# ------------------------------------------------------------------------------------------ recorded outcomes
@dataclass
class Recorded:
    """The points of one trial: clean rates [points], survival and queries [points, attacks, examples]."""

    clean: Floats
    survived: NDArray[np.bool_]
    queries: NDArray[np.int64]
    train_seconds: float
    attack_seconds: float

    @property
    def robust(self) -> NDArray[np.bool_]:
        """[points, examples]: survived every attack."""
        found: NDArray[np.bool_] = self.survived.all(axis=1)
        return found


def recorded(run_dir: Path) -> list[Recorded]:
    """The trials of a run, without points that were stopped."""
    found = []
    for trial in read_trials(run_dir):
        whole = [point for point in trial.points if point.stopped is None]
        if trial.status != "complete" or not whole:
            continue
        folder = run_dir / "trials" / f"t{trial.number:03d}" / "attacks"
        rows = [[read_outcomes(folder / f"{point.id}.{kind}.jsonl") for kind in point.attacks] for point in whole]
        seconds = sum(s for point in whole for stage, s in point.seconds.items() if "attack" in stage)
        found.append(
            Recorded(
                np.array([point.clean_accuracy.value for point in whole]),
                np.array([[[o.status == "survived" for o in one] for one in suite] for suite in rows]),
                np.array([[[o.n_queries for o in one] for one in suite] for suite in rows]),
                trial.train_seconds,
                seconds,
            )
        )
    return found


def proxies(trials: Sequence[Recorded], n_splits: int) -> None:
    """How well a cheap reading of half of the examples tells the robust accuracy on the other half, and its price."""
    robust = np.concatenate([trial.robust for trial in trials])
    survived, queries = (np.concatenate([getattr(t, name) for t in trials]) for name in ("survived", "queries"))
    clean = np.concatenate([trial.clean for trial in trials])
    n, rng, table = robust.shape[1], np.random.default_rng(0), dict[str, list[tuple[float, float]]]()
    for _ in range(n_splits):
        order = rng.permutation(n)
        seen, rest = order[: n // 2], order[n // 2 :]
        target, whole = robust[:, rest].mean(axis=1), queries[:, :, seen].sum()
        for share in (0.1, 0.2, 0.4, 1.0):
            some = seen[: math.ceil(share * len(seen))]
            reading, price = robust[:, some].mean(axis=1), queries[:, :, some].sum() / whole
            name = f"whole attacks, {share:.0%} of the texts"
            table.setdefault(name, []).append((_spearman(reading, target), price))
        for budget in (10, 20, 40, 80):
            standing = (survived | (queries > budget))[:, :, seen].all(axis=1).mean(axis=1)
            price = np.minimum(queries[:, :, seen], budget).sum() / whole
            table.setdefault(f"{budget} queries a text, all texts", []).append((_spearman(standing, target), price))
        table.setdefault("clean accuracy alone", []).append((_spearman(clean, target), 0.0))
    print(f"rank correlation with robust accuracy on {n // 2} other texts: {len(robust)} points, {n_splits} splits")
    for name, rows in table.items():
        low, middle, high = np.percentile([row[0] for row in rows], [25, 50, 75])
        print(f"  {name:36} {middle:5.2f} [{low:5.2f}, {high:5.2f}]   queries {np.mean([r[1] for r in rows]):4.0%}")


def _spearman(a: Floats, b: Floats) -> float:
    """With mean ranks for ties; 0 where nothing varies."""
    ranks = [np.array([(x < y).sum() + (x == y).sum() / 2 for y in x]) for x in (np.round(a, 9), np.round(b, 9))]
    return 0.0 if min(r.std() for r in ranks) == 0 else float(np.corrcoef(*ranks)[0, 1])


def after_the_fact(trials: Sequence[Recorded], n_orders: int) -> None:
    """What each preset would have stopped, saved and lost, over random orders of trials and of texts."""
    rng, n = np.random.default_rng(0), trials[0].robust.shape[1]
    print(f"{n_orders} orders of {len(trials)} trials and their {n} texts; quartiles")
    print(f"{'preset':8}" + "".join(f" {of:>24}" for of in ("points stopped", "queries saved", "front kept", "volume")))
    for name, halving in PRESETS.items():
        if halving is not None:
            rows = [_stopped_in(trials, halving, rng) for _ in range(n_orders)]
            cells = [
                " ".join(f"{v:7.1%}" for v in np.percentile([row[i] for row in rows], [25, 50, 75])) for i in range(4)
            ]
            print(f"{name:8} {' '.join(f'{cell:>24}' for cell in cells)}")


def _stopped_in(trials: Sequence[Recorded], halving: Halving, rng: np.random.Generator) -> tuple[float, ...]:
    """(share of points stopped, of queries saved, of the front's points kept, of its hypervolume)."""
    texts = rng.permutation(trials[0].robust.shape[1])
    rungs: dict[int, list[list[float]]] = {}
    values, kept, saved, asked = list[list[float]](), list[bool](), 0, 0
    for at in rng.permutation(len(trials)):
        trial = trials[at]
        robust, cost = trial.robust[:, texts], trial.queries.sum(axis=1)[:, texts]
        running = list(range(len(robust)))
        asked += int(cost.sum())
        for n in halving.sizes(len(texts)):
            here = rungs.setdefault(n, [])
            here += [[float(trial.clean[i]), float(robust[i, :n].mean())] for i in running]
            verdicts = ours(here, halving)[len(here) - len(running) :]
            saved += sum(int(cost[i, n:].sum()) for i, verdict in zip(running, verdicts, strict=True) if not verdict)
            running = [i for i, verdict in zip(running, verdicts, strict=True) if verdict]
        values += [[float(trial.clean[i]), float(robust[i].mean())] for i in range(len(robust))]
        kept += [i in running for i in range(len(robust))]
    front = [i for i, rank in enumerate(pareto_ranks(values, GOALS)) if rank == 1]
    both = [hypervolume([values[i] for i in some], GOALS, (0.0, 0.0)) for some in (front, np.flatnonzero(kept))]
    return 1 - sum(kept) / len(kept), saved / asked, sum(kept[i] for i in front) / len(front), both[1] / both[0]


def run_part(run_dir: Path) -> None:
    """Costs, cheap readings, and presets on the outcomes of a run."""
    trials = recorded(run_dir)
    train, attack = (sum(getattr(t, name) for t in trials) for name in ("train_seconds", "attack_seconds"))
    print(f"{len(trials)} trials: {train:.0f} s of training, {attack:.0f} s of attacks")
    proxies(trials, 200)
    after_the_fact(trials, 200)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("policies", "told"), default=["policies"])
    parser.add_argument("--trials", type=int, default=30, help="full trials that the budget pays for")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--run", type=Path, help="the folder of a finished run")
    asked = parser.parse_args()
    began = time.process_time()
    if asked.run is not None:
        run_part(asked.run)
        return
    if "policies" in asked.parts:
        table(policies(), asked.trials, asked.seeds)
    if "told" in asked.parts:
        table(tellings(), asked.trials, asked.seeds)
    print(f"{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
