"""What a sweep costs for the front that it finds: robusweep's beside a plain Ray Tune and Optuna sweep.

    python bench/sweep.py --parts real --out sweep.json       # an hour on a core
    python bench/sweep.py --parts arms                        # half an hour
    python bench/sweep.py --parts surrogate overhead          # two minutes; --out takes the surrogate from a file

``real``: BBC News, MiniLM, a clean and an adversarial LoRA adapter, their mixing weight, the perturbation radius and
the rank; the same texts, attacks, constraints and training loop on both sides, and as many scored points. The plain
sweep is what a few lines of Ray Tune with ``OptunaSearch`` give: each trial draws its own mixing weight, trains both
adapters, and TextAttack attacks the mixed model through its own wrapper, one text after the other. The wrapper pads to
the tokenizer's longest text. The same model is attacked twice more, with padding to the recipe's tokens and with the
engine, so that a plain sweep of people who know better can be priced, too, and outcomes are compared.
CPU seconds are those of the processes that do trials, from their start, imports included; drivers are told apart.
Hypervolumes (reference point 0, 0) of both fronts are bootstrapped over the same texts. ``robusweep run`` attacks in
bfloat16 where that pays, so a few attacks end otherwise than TextAttack's.

``surrogate``: samplers on a smooth model of the points that ``real`` has recorded, with its costs: one weight a trial,
or all weights of a trained set. Fronts are chosen on rates drawn as binomials, and judged by the model's own values.

``arms``: robusweep's own ways to search on the real task, each a sweep of ``--real-trials`` trials with a cache of its
own: random, TPE and NSGA-II with all weights of a trained set; TPE with a race inside each trial, and with early
stopping over all trials.

``overhead``: CPU seconds for asking and telling one trial: Optuna alone, and the driver's study.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusweep.examples import Example
from robusweep.recipe import Recipe, load_recipe
from robusweep.scores import Goal, hypervolume, pareto_ranks
from robusweep.sweep.study import Study, make_sampler

RECIPE = """\
# The embedded news corpus, small enough for a bench.
version: 1
name: bench
data: {{kind: bbc_news, n_train: 320, n_validation: 240, n_calibration: 40, n_test: 40, max_words: 20}}
model: {{base: minilm_l6, max_tokens: {max_tokens}, dropout: 0.0}}
adapter: {{kind: lora, rank: 8, alpha: 16}}
train: {{kind: standard, n_epochs: 3, learning_rate: 3.0e-3}}
adversarial: [{{kind: pgd, radius: 0.3, radius_warmup: 0.5, n_steps: 2, n_epochs: 3, learning_rate: 3.0e-3}}]
mix: {{kind: adpmixup, weighting: fixed, weight: 0.5}}
attacks: {{protocol: standard_v1, known: [textfooler_wordnet, deepwordbug], n_examples: {n_examples}, calibrate: false}}
search:
  space: space.yaml
  sampler: {sampler}
  budget: {{n_trials: {n_trials}}}
resources: {{executor: local, max_concurrent: 1, cpus: 1}}
"""
SPACE = """\
# Mixing weights need no training.
mix.weight: {grid: [0.0, 0.25, 0.5, 0.75, 1.0], after: training}
adversarial.0.radius: {log_uniform: [0.1, 0.6]}
adapter.rank: {choice: [4, 8]}
"""
N_WEIGHTS, MAX_TOKENS = 5, 64
GOALS: list[Goal] = ["max", "max"]
Marks = NDArray[np.bool_]  # one for each text


def recipe_in(root: Path, *, n_trials: int, n_examples: int = 32, sampler: str = "{kind: tpe}") -> Path:
    """The recipe, written into a folder with its search space."""
    (root / "space.yaml").write_text(SPACE)
    (root / "recipe.yaml").write_text(
        RECIPE.format(n_trials=n_trials, n_examples=n_examples, sampler=sampler, max_tokens=MAX_TOKENS)
    )
    return root / "recipe.yaml"


@dataclass(frozen=True)
class Scored:
    """A point: which validation texts it gets right, which attacked ones it survives; and what it was."""

    params: dict[str, Any]
    right: Marks
    survived: Marks


# ------------------------------------------------------------------------------------------- the plain sweep
def plain_trial(config: dict[str, Any], *, recipe: str, root: str) -> dict[str, Any]:
    """Train both adapters, mix, attack with TextAttack; CPU seconds of this process by stage, from its start."""
    import torch

    torch.set_num_threads(1)
    from robusweep import data, model
    from robusweep.assignment import single_assignment
    from robusweep.attacks import run_attack
    from robusweep.attacks.library import import_textattack
    from robusweep.cache import Cache
    from robusweep.ground import Ground
    from robusweep.mixing import Fixed
    from robusweep.progress import Progress
    from robusweep.seeds import derive
    from robusweep.trial import trained_on

    import_textattack()
    spent = {"start": time.process_time()}

    def took(stage: str) -> None:
        spent[stage] = time.process_time() - sum(spent.values())

    made = load_recipe(Path(recipe), [f"{key}={value}" for key, value in config.items()]).recipe
    with TemporaryDirectory(dir=root) as folder:  # nothing is shared with another trial
        assigned = single_assignment(made, name="plain", root=Path(folder), stand_ins=[])
        dataset = data.load(made.data, made.seed)
        base = model.load(made.model, dataset.label_names, seed=derive(made.seed, "head"), device="cpu")
        bf16 = model.uses_bf16("auto", "cpu")
        ground = Ground(
            made,
            dataset,
            base,
            model.identity(made.model),
            bf16,
            Cache(Path(folder) / "cache"),
            Progress(assigned.trial_dir),
            assigned.trial_dir,
        )
        took("load")
        adapters = trained_on(ground).adapters
    took("train")
    assert made.mix is not None
    system = made.mix.mix(adapters)
    assert isinstance(system, Fixed)
    network = copy.deepcopy(base.network).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in system.parameters:  # those that training changed
                parameter.copy_(system.parameters[name])
    exact = model.victims(base, system.parameters, bf16=False)[1]
    answers = exact([example.text for example in dataset.validation]).argmax(axis=1)
    right = [int(answer) == example.label for answer, example in zip(answers, dataset.validation, strict=True)]
    took("clean")
    rules, examples = made.attacks.constraints, dataset.validation[: made.attacks.n_examples]
    for stage, longest in (("textattack", None), ("textattack, short", base.max_tokens)):
        tokenizer = copy.deepcopy(base.tokenizer)
        tokenizer.model_max_length = longest or tokenizer.model_max_length  # what TextAttack's wrapper pads to
        broken, n_queries = attacked_by_textattack(made, network, tokenizer, examples)
        took(stage)
    survived = [not any(broken[attack.kind, e.id] for attack in made.attacks.known) for e in examples]
    n_other, (fast, exact) = 0, model.victims(base, system.parameters, bf16=bf16)
    for attack in made.attacks.known:
        outcomes = run_attack(
            attack, victim=fast, exact=exact, examples=examples, protocol=rules, seed=made.seed, bf16=bf16
        )
        n_other += sum(broken[attack.kind, o.example_id] != (o.status != "survived") for o in outcomes)
    took("engine")
    return {
        "params": config,
        "right": "".join("01"[r] for r in right),
        "survived": "".join("01"[s] for s in survived),
        "seconds": spent,
        "n_queries": n_queries,
        "n_other": n_other,
    }


def attacked_by_textattack(
    made: Recipe, network: Any, tokenizer: Any, examples: Sequence[Example]
) -> tuple[dict[tuple[str, str], bool], int]:
    """((attack, id of the example) -> whether it is wrong now, or was before; queries), one text after the other."""
    from robusweep.attacks.library import quiet
    from robusweep.attacks.parts import AttackedText, VictimWrapper, textattack
    from robusweep.attacks.run import seed_generators
    from robusweep.seeds import derive

    rules, n_queries, broken = made.attacks.constraints, 0, dict[tuple[str, str], bool]()
    wrapper = VictimWrapper()
    wrapper.victim = textattack.models.wrappers.HuggingFaceModelWrapper(network, tokenizer)
    for attack in made.attacks.known:
        with quiet():
            built = attack.build(rules, wrapper)
        built.goal_function.model = wrapper.victim
        for example in examples:
            text = AttackedText(example.text)
            built.goal_function.query_budget = rules.max_queries(text.num_words) or float("inf")
            seed_generators(derive(made.seed, attack.kind, example.id))
            found = built.attack(text, example.label)
            n_queries += found.num_queries
            broken[attack.kind, example.id] = not isinstance(found, textattack.attack_results.FailedAttackResult)
    return broken, n_queries


def plain_sweep(root: Path, n_points: int, n_examples: int) -> list[dict[str, Any]]:
    """Ray Tune with Optuna's search, as its manual has it; what each trial reported."""
    import ray
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    work = partial(
        plain_trial,
        recipe=str(recipe_in(root, n_trials=n_points, n_examples=n_examples)),
        root=str(root),
    )

    def trainable(config: dict[str, Any]) -> None:
        told = work(config)
        clean, robust = (told[key].count("1") / len(told[key]) for key in ("right", "survived"))
        tune.report({"clean": clean, "robust": robust, "told": json.dumps(told)})

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    space = {
        "mix.weight": tune.uniform(0.0, 1.0),
        "adversarial.0.radius": tune.loguniform(0.1, 0.6),
        "adapter.rank": tune.choice([4, 8]),
    }
    search = OptunaSearch(metric=["clean", "robust"], mode=["max", "max"], seed=0)
    found = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(num_samples=n_points, search_alg=ConcurrencyLimiter(search, max_concurrent=1)),
        run_config=tune.RunConfig(storage_path=str(root / "tune"), verbose=0),
    ).fit()
    ray.shutdown()
    assert not found.errors, found.errors
    return [json.loads(result.metrics["told"]) for result in found if result.metrics]


# ------------------------------------------------------------------------------------------- robusweep's sweep
def expanded_sweep(root: Path, n_trials: int, n_examples: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Points, CPU seconds of the worker from its start, of the driver, and what trainings and attacks took.

    A point that was stopped early keeps no marks of texts: it can't be on the front.
    """
    from robusweep.record import read_outcomes
    from robusweep.sweep.run import run_sweep

    plan = load_recipe(recipe_in(root, n_trials=n_trials, n_examples=n_examples), list(overrides))
    before = _cpu()
    done = run_sweep(plan, root=root, say=partial(print, file=sys.stderr), track=False)
    driver, worker = (after - b for after, b in zip(_cpu(), before, strict=True))
    points = []
    for record in done.records:
        folder = done.run_dir / "trials" / f"t{record.number:03d}" / "attacks"
        for point in record.points:
            if point.stopped is not None:
                continue
            stood: Marks = np.ones(n_examples, dtype=bool)
            for kind in point.attacks:
                rows = read_outcomes(folder / f"{point.id}.{kind}.jsonl")
                stood &= np.array([row.status == "survived" for row in rows])
            right = (folder / f"{point.id}.clean.txt").read_text().strip()
            survived = "".join("01"[int(s)] for s in stood)
            points.append({"params": record.params | point.params, "right": right, "survived": survived})
    trained = sum(adapter.train_seconds for record in done.records for adapter in record.adapters if not adapter.cached)
    n_queries = sum(score.n_queries for record in done.records for p in record.points for score in p.attacks.values())
    n_points = sum(len(record.points) for record in done.records)
    return {
        "points": points,
        "n_points": n_points,
        "worker": worker,
        "driver": driver,
        "trained": trained,
        "n_queries": n_queries,
    }


ARMS = {
    "random": ["search.sampler={kind: random}"],
    "TPE": [],
    "NSGA-II": ["search.sampler={kind: nsga2, population_size: 4}"],
    "TPE, race": ["attacks.race={}"],
    "TPE, early stopping": ["search.early_stopping={kind: halving, rungs: [0.25, 0.5], min_points: 5}"],
}


def arms(asked: argparse.Namespace) -> None:
    """One table row for each way to search; hypervolumes are bootstrapped over the same texts."""
    found = {}
    for name, overrides in ARMS.items():
        with TemporaryDirectory(prefix="robusweep-sweep-") as folder:
            found[name] = expanded_sweep(Path(folder), asked.real_trials, asked.examples, overrides)
    drawn = bootstrapped([scored(one["points"]) for one in found.values()])
    reference = list(found).index("TPE")
    print(f"{'':22} {'points':>6} {'whole':>6} {'queries':>8} {'CPU s':>7} {'training':>8}  hypervolume, less TPE's")
    for i, (name, one) in enumerate(found.items()):
        value = volume(np.array([[p.right.mean(), p.survived.mean()] for p in scored(one["points"])]))
        low, high = np.percentile(drawn[:, i], [2.5, 97.5])
        least, most = np.percentile(drawn[:, i] - drawn[:, reference], [2.5, 97.5])
        print(f"{name:22} {one['n_points']:6} {len(one['points']):6} {one['n_queries']:8} {one['worker']:7.0f} "
              f"{one['trained']:8.0f}  {value:.3f} [{low:.3f}, {high:.3f}] [{least:+.3f}, {most:+.3f}]")  # fmt: skip


def _cpu() -> tuple[float, float]:
    """(of this process, of its children that have ended)."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


# ------------------------------------------------------------------------------------------------ the front
def volume(values: NDArray[np.float64]) -> float:
    """The area that points (clean, robust) dominate above (0, 0)."""
    return hypervolume(values.tolist(), GOALS, (0.0, 0.0))


def scored(points: Sequence[dict[str, Any]]) -> list[Scored]:
    marks = [[np.array([mark == "1" for mark in p[key]]) for key in ("right", "survived")] for p in points]
    return [Scored(p["params"], right, survived) for p, (right, survived) in zip(points, marks, strict=True)]


def bootstrapped(arms: Sequence[Sequence[Scored]], n_draws: int = 2000) -> NDArray[np.float64]:
    """Hypervolumes of each arm's front (n_draws, arms) over texts drawn anew, the same ones for every arm."""
    rng = np.random.default_rng(0)
    clean = [np.stack([p.right for p in points]) for points in arms]
    robust = [np.stack([p.survived for p in points]) for points in arms]
    found = np.empty((n_draws, len(arms)))
    for draw in range(n_draws):
        texts = rng.integers(0, clean[0].shape[1], clean[0].shape[1])
        attacked = rng.integers(0, robust[0].shape[1], robust[0].shape[1])
        for i in range(len(arms)):
            values = np.stack([clean[i][:, texts].mean(axis=1), robust[i][:, attacked].mean(axis=1)], axis=1)
            found[draw, i] = volume(values)
    return found


def real(asked: argparse.Namespace) -> dict[str, Any]:
    """Both sweeps on real texts: what they cost and the hypervolume of their fronts."""
    with TemporaryDirectory(prefix="robusweep-sweep-") as folder:
        root = Path(folder)
        ours = expanded_sweep(root, asked.points // N_WEIGHTS, asked.examples)
        plain = plain_sweep(root, asked.points, asked.examples)
    told = {"ours": ours, "plain": plain, "n_examples": asked.examples, "max_tokens": MAX_TOKENS}
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1))
    report(told)
    return told


def report(told: dict[str, Any]) -> None:
    ours, plain = told["ours"], told["plain"]
    arms = [scored(ours["points"]), scored(plain)]
    volumes = [volume(np.array([[p.right.mean(), p.survived.mean()] for p in points])) for points in arms]
    drawn = bootstrapped(arms)
    others = ("textattack", "textattack, short", "engine")
    own = sum(seconds for p in plain for stage, seconds in p["seconds"].items() if stage not in others)
    whole, short, engine = (own + sum(p["seconds"][stage] for p in plain) for stage in others)
    print(f"{'':42} {'points':>6} {'queries':>8} {'CPU s':>8} {'ratio':>6}  hypervolume")
    n_plain = sum(p["n_queries"] for p in plain)
    for name, n, queries, seconds, arm in (
        ("Ray Tune, OptunaSearch, TextAttack", len(plain), n_plain, whole, 1),
        (f"the same, padded to {told['max_tokens']} tokens only", len(plain), n_plain, short, 1),
        ("the same, with robusweep's attack engine", len(plain), n_plain, engine, 1),
        ("robusweep run", len(ours["points"]), ours["n_queries"], ours["worker"], 0),
    ):
        low, high = np.percentile(drawn[:, arm], [2.5, 97.5])
        ratio = seconds / ours["worker"]
        print(f"{name:42} {n:6} {queries:8} {seconds:8.0f} {ratio:6.1f}  {volumes[arm]:.3f} [{low:.3f}, {high:.3f}]")
    gain = drawn[:, 0] - drawn[:, 1]
    low, high = np.percentile(gain, [2.5, 97.5])
    print(f"hypervolume, robusweep's less the plain one: {volumes[0] - volumes[1]:+.3f} [{low:+.3f}, {high:+.3f}]")
    by_stage = {s: sum(p["seconds"][s] for p in plain) / len(plain) for s in plain[0]["seconds"]}
    n_ours = len(ours["points"])
    priced = by_stage["start"] + by_stage["load"] + n_ours / N_WEIGHTS * by_stage["train"]
    priced += n_ours * (by_stage["clean"] + by_stage["engine"])
    print(f"robusweep's work at the prices of the plain trials: {priced:.0f} CPU s, ratio {whole / priced:.1f} "
          "(free of what else the machine did)")  # fmt: skip
    print("a plain trial, CPU s: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in by_stage.items()))
    print(f"robusweep: trained {ours['trained']:.0f} s, driver {ours['driver']:.1f} CPU s besides")
    n_attacks = 2 * told["n_examples"] * len(plain)
    print(f"attacks that ended otherwise with the engine: {sum(p['n_other'] for p in plain)} of {n_attacks}")


# ---------------------------------------------------------------------------------------------- the surrogate
RECORDED = {  # coefficients of ``features`` for the logits of both rates, and costs, as recorded by ``real``
    "clean": [2.159, 0.313, -0.852, 0.01, -1.047, 0.215],
    "robust": [-0.629, 0.067, -0.202, 0.061, -0.532, 0.094],
    "costs": {"start": 6.1, "train": 25.7, "attack": 8.2, "textattack": 272.2},
}


def features(params: dict[str, Any]) -> NDArray[np.float64]:
    """(1, w, w squared, ln radius, w ln radius, rank 8)."""
    weight, radius = float(params["mix.weight"]), float(np.log(params["adversarial.0.radius"] / 0.25))
    return np.array([1.0, weight, weight**2, radius, weight * radius, float(params["adapter.rank"] == 8)])


class Surrogate:
    """Smooth rates and costs: a ridge regression on the empirical logits of recorded points."""

    def __init__(self, told: dict[str, Any] | None) -> None:
        fitted: dict[str, Any] = RECORDED if told is None else self._fitted(told)
        self._clean, self._robust = np.array(fitted["clean"]), np.array(fitted["robust"])
        self.costs: dict[str, float] = fitted["costs"]
        self.fitted = fitted

    @staticmethod
    def _fitted(told: dict[str, Any]) -> dict[str, Any]:
        points = [*scored(told["ours"]["points"]), *scored(told["plain"])]
        x = np.stack([features(p.params) for p in points])
        solved = {}
        for name, marks in (("clean", [p.right for p in points]), ("robust", [p.survived for p in points])):
            rates = np.array([(m.sum() + 0.5) / (len(m) + 1) for m in marks])
            y = np.log(rates / (1 - rates))
            solved[name] = [round(float(c), 3) for c in np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)]
        mean = {s: float(np.mean([p["seconds"][s] for p in told["plain"]])) for s in told["plain"][0]["seconds"]}
        costs = {
            "start": mean["start"] + mean["load"],
            "train": mean["train"],
            "attack": mean["clean"] + mean["engine"],
            "textattack": mean["clean"] + mean["textattack"],
        }
        return solved | {"costs": {name: round(seconds, 1) for name, seconds in costs.items()}}

    def values(self, params: dict[str, Any]) -> NDArray[np.float64]:
        """(clean, robust), as they would be with texts without number."""
        x = features(params)
        return np.array([1 / (1 + np.exp(-x @ self._clean)), 1 / (1 + np.exp(-x @ self._robust))])


N_CLEAN, N_ATTACKED = 240, 100


def searched(surrogate: Surrogate, name: str, sampler: str, seed: int, n_points: int) -> list[tuple[float, float]]:
    """(cost so far, hypervolume of the chosen front) after each trial; a plain trial pays for TextAttack."""
    costs, rng, path = surrogate.costs, np.random.default_rng(seed), list[tuple[float, float]]()
    seen, true = list[NDArray[np.float64]](), list[NDArray[np.float64]]()

    def rates(params: dict[str, Any]) -> list[float]:
        true.append(surrogate.values(params))
        seen.append(rng.binomial([N_CLEAN, N_ATTACKED], true[-1]) / [N_CLEAN, N_ATTACKED])
        return [float(v) for v in seen[-1]]

    def scores(spent: float) -> None:
        path.append((spent, volume(np.array(true)[on_front(np.array(seen))])))

    with TemporaryDirectory(prefix="robusweep-surrogate-") as folder:
        file = recipe_in(Path(folder), n_trials=n_points // N_WEIGHTS, sampler=sampler)
        plan = load_recipe(file, [f"seed={seed}"])
        if name == "plain":
            assert plan.recipe.search is not None
            study = optuna_study(Path(folder), make_sampler(plan.recipe.search.sampler, seed))
            for n in range(n_points):
                trial = study.ask()
                study.tell(trial, rates(suggested(trial)))
                scores((n + 1) * (costs["start"] + costs["train"] + costs["textattack"]))
            return path
        ours = Study(Path(folder) / "study.journal", plan)
        for n in range(n_points // N_WEIGHTS):
            asked = ours.ask()
            every = [asked.params | values for values in plan.space.grid_points(asked.params)]
            ours.complete(asked, [(f"{n}.{i}", params, rates(params)) for i, params in enumerate(every)])
            scores(costs["start"] + (n + 1) * (costs["train"] + len(every) * costs["attack"]))
    return path


def optuna_study(folder: Path, sampler: Any) -> Any:
    """Optuna by itself, with a journal as ours."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.create_study(storage=storage, directions=["maximize", "maximize"], sampler=sampler)


def suggested(trial: Any) -> dict[str, Any]:
    return {
        "mix.weight": trial.suggest_float("mix.weight", 0.0, 1.0),
        "adversarial.0.radius": trial.suggest_float("adversarial.0.radius", 0.1, 0.6, log=True),
        "adapter.rank": trial.suggest_categorical("adapter.rank", [4, 8]),
    }


def on_front(values: NDArray[np.float64]) -> Marks:
    """Which rows no other row beats."""
    ranks: NDArray[np.int64] = np.array(pareto_ranks(values.tolist(), GOALS))
    return np.equal(ranks, 1)


def surrogate_part(asked: argparse.Namespace, told: dict[str, Any] | None) -> None:
    """Samplers on the surrogate, one weight a trial or all of them."""
    surrogate = Surrogate(told)
    print(f"\nsurrogate {json.dumps(surrogate.fitted)}")
    samplers = {"random": "{kind: random}", "tpe": "{kind: tpe}", "nsga2": "{kind: nsga2, population_size: 10}"}
    print(f"{asked.seeds} seeds, {asked.budget} points; medians with quartiles; fronts chosen on "
          f"{N_CLEAN} clean and {N_ATTACKED} attacked texts")  # fmt: skip
    print(f"{'sampler':8} {'weights':10} {'CPU s':>8} {'hypervolume':>22} {'at the cost of a tenth':>24}")
    whole = None
    for name in ("plain", "expanded"):
        for sampler, block in samplers.items():
            runs = [searched(surrogate, name, block, seed, asked.budget) for seed in range(asked.seeds)]
            cost = float(np.mean([run[-1][0] for run in runs]))
            whole = whole or cost
            tenth = [max((v for spent, v in run if spent <= whole / 10), default=0.0) for run in runs]
            last = [run[-1][1] for run in runs]
            cells = [" ".join(f"{v:.4f}" for v in np.percentile(x, [25, 50, 75])) for x in (last, tenth)]
            print(f"{sampler:8} {name:10} {cost:8.0f} {cells[0]:>22} {cells[1]:>24}", flush=True)


# ----------------------------------------------------------------------------------------------- the overhead
def overhead(n_trials: int) -> None:
    """CPU seconds a trial: asking and telling, with a journal on disk."""
    rng = np.random.default_rng(0)
    print(f"\n{n_trials} trials of TPE with a journal, CPU seconds a trial")
    with TemporaryDirectory(prefix="robusweep-overhead-") as folder:
        plan = load_recipe(recipe_in(Path(folder), n_trials=n_trials), [])
        assert plan.recipe.search is not None
        study = optuna_study(Path(folder), make_sampler(plan.recipe.search.sampler, 0))
        began = time.process_time()
        for _ in range(n_trials):
            trial = study.ask()
            suggested(trial)
            study.tell(trial, [float(v) for v in rng.random(2)])
        print(f"Optuna alone, a point a trial          {(time.process_time() - began) / n_trials:.4f}", flush=True)
        ours = Study(Path(folder) / "study.journal", plan)
        began = time.process_time()
        for n in range(n_trials):
            asked = ours.ask()
            every = [asked.params | values for values in plan.space.grid_points(asked.params)]
            ours.complete(asked, [(f"{n}.{i}", p, [float(v) for v in rng.random(2)]) for i, p in enumerate(every)])
        print(f"robusweep's study, {N_WEIGHTS} points a trial    {(time.process_time() - began) / n_trials:.4f}")


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("real", "arms", "surrogate", "overhead")
    parser.add_argument("--parts", nargs="+", choices=parts, default=["real", "surrogate", "overhead"])
    parser.add_argument("--points", type=int, default=10, help="of real; a multiple of 5")
    parser.add_argument("--examples", type=int, default=24, help="attacked texts of real")
    parser.add_argument("--real-trials", type=int, default=6, help="of arms")
    parser.add_argument("--budget", type=int, default=60, help="points of a surrogate's sweep")
    parser.add_argument("--seeds", type=int, default=20, help="of surrogate")
    parser.add_argument("--trials", type=int, default=100, help="of overhead")
    parser.add_argument("--out", type=Path, help="where real writes, and surrogate reads, what was recorded")
    asked = parser.parse_args()
    told = None
    if "real" in asked.parts:
        told = real(asked)
    elif asked.out and asked.out.is_file():
        told = json.loads(asked.out.read_text())
        report(told)
    if "arms" in asked.parts:
        arms(asked)
    if "surrogate" in asked.parts:
        surrogate_part(asked, told)
    if "overhead" in asked.parts:
        overhead(asked.trials)


if __name__ == "__main__":
    main()
