"""A few trials of a sweep on few examples: what a forecast can measure, and what the sweep then finds in its cache.

Nothing of it is lost: adapters, and outcomes of the examples that were attacked, are those of the sweep's own trials.
So only trials are tried whose parameters are known before any trial has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from robusweep.assignment import Assignment
from robusweep.cache import Cache
from robusweep.examples import Example
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import StandIn, TrialRecord, read_outcomes, read_trial, write_text
from robusweep.seeds import generator
from robusweep.spec import Spec
from robusweep.sweep.driver import Driver
from robusweep.sweep.study import learns_after
from robusweep.trial import run_trial

PILOT_CODE = 2  # raise it when a pilot would measure something else
ELSEWHERE = {"executor", "max_concurrent", "storage", "train", "score"}  # of ``resources``: changes no measurement
RECORD, TEXTS = "record.json", "texts.json"
N_RESAMPLES = 2000

T = TypeVar("T")


class Text(Spec):
    """An example of the pilot: ``n_right`` points were right about it, and met ``n_queries`` in all their attacks."""

    n_words: int
    n_right: int
    n_queries: int


class Texts(Spec):
    """``attacked``: the pilot's own. ``n_right``: for each text that the sweep attacks, of how many points."""

    attacked: list[Text]
    n_right: list[int]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without one where a single text was seen."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Piloted:
    """One trial on the pilot's examples."""

    record: TrialRecord
    texts: Texts

    @property
    def n_points(self) -> int:
        return len(self.record.points)

    @property
    def n_queries(self) -> int:
        """That were asked, over all points and attacks."""
        return sum(text.n_queries for text in self.texts.attacked)


@dataclass(frozen=True)
class Pilot:
    """Trials of one sweep, all on the same examples."""

    trials: Sequence[Piloted]

    @property
    def n_examples(self) -> int:
        return len(self.trials[0].texts.attacked)

    @property
    def n_queries(self) -> int:
        """That were asked, over all trials, points and attacks."""
        return sum(trial.n_queries for trial in self.trials)

    def queries(self, words: Sequence[int], others: Sequence[int]) -> Estimate:
        """Of a sweep whose attacked texts have so many ``words``. ``others``: the points of each trial not tried here.

        Of a trial that was tried: what its points ask for each word that they are right about, a ratio over the
        examples, and what they are right about, which is known of every text. A point of the others asks what a point
        of these asks on the average. The interval is a bootstrap over the examples, the same ones in all trials; for
        the others, the spread between the trials comes on top, by Student's t: it is seen on few.
        """
        asked = np.array([[t.n_queries for t in one.texts.attacked] for one in self.trials], dtype=float)
        of = np.array([[t.n_words * t.n_right for t in one.texts.attacked] for one in self.trials], dtype=float)
        right = np.array([one.texts.n_right for one in self.trials], dtype=float)
        asked, of = asked[:, of.any(axis=0)], of[:, of.any(axis=0)]
        done, left = asked.sum(axis=1), right @ np.array(words, dtype=float) - of.sum(axis=1)
        points = np.array([one.n_points for one in self.trials], dtype=float)
        scale = 1 + sum(others) / points.sum()
        trials = done + left * done / np.maximum(of.sum(axis=1), 1.0)
        value, n = float(scale * trials.sum()), asked.shape[1]
        if n < 2:
            return Estimate(value, None)
        random = generator(0, "pilot")
        drawn = random.integers(n, size=(N_RESAMPLES, n))
        resampled = asked[:, drawn].sum(axis=2) / np.maximum(of[:, drawn].sum(axis=2), 1.0)
        whole = scale * (done[:, None] + left[:, None] * resampled).sum(axis=0)
        if len(points) > 1:
            whole += _between(trials, points, others) * random.standard_t(len(points) - 1, size=N_RESAMPLES)
        low, high = np.percentile(whole, [2.5, 97.5])
        return Estimate(value, (max(done.sum(), min(value, float(low))), max(value, float(high))))

    def train_seconds(self) -> dict[str, float]:
        """Training method -> seconds, summed over the adapters of that method; what trials share counts once."""
        found: dict[str, float] = {}
        for adapter in {a.cache_key: a for trial in self.trials for a in trial.record.adapters}.values():
            found[adapter.method] = found.get(adapter.method, 0.0) + adapter.train_seconds + adapter.reference_seconds
        return found

    def query_seconds(self) -> float:
        """Of one query of an attack, the attack's own work included."""
        return self._seconds(lambda stage: "attack " in stage) / max(1, self.n_queries)

    def rest_seconds(self) -> float:
        """Of a point, attacks aside."""
        return self._seconds(lambda stage: "attack " not in stage) / sum(trial.n_points for trial in self.trials)

    def clean_seconds(self) -> float:
        """Of a point: mixing it, and its answers on clean texts."""
        return self._seconds(lambda stage: stage == "clean") / sum(trial.n_points for trial in self.trials)

    def known_share(self) -> float:
        """Of all queries: those of known attacks."""
        points = [point for trial in self.trials for point in trial.record.points]
        known = sum(score.n_queries for point in points for score in point.attacks.values())
        held_out = sum(score.n_queries for point in points for score in point.held_out.values())
        return known / max(1, known + held_out)

    def trial_seconds(self) -> float:
        """Of a trial before its points are scored, training and the ticket's search aside."""
        spent = [trial.record.seconds for trial in self.trials]
        rest = sum(s for stages in spent for stage, s in stages.items() if not stage.startswith(("train ", "ticket")))
        return rest / len(self.trials)

    def _seconds(self, wanted: Callable[[str], bool]) -> float:
        """Over all points, of the stages that are wanted."""
        points = [point for trial in self.trials for point in trial.record.points]
        return sum(s for point in points for stage, s in point.seconds.items() if wanted(stage))


def _between(trials: NDArray[np.float64], points: NDArray[np.float64], others: Sequence[int]) -> float:
    """Standard error of the queries of ``others``, for the spread between trials alone.

    ``trials``, ``points`` [n_trials]: the queries and the points of those that were tried. Their mean, a ratio, is off,
    and so is that of the others.
    """
    n, n_others = len(trials), sum(others)
    if not n_others:
        return 0.0
    residuals = (trials - points * trials.sum() / points.sum()) / points.mean()
    variance = float((residuals**2).sum()) / (n - 1)
    return n_others * float(np.sqrt(variance * (1 / n + sum(m * m for m in others) / n_others**2)))


def assignments(plan: SweepPlan, recipe: Recipe, stand_ins: list[StandIn]) -> list[Assignment]:
    """What the sweep's trials would be if none told the sampler anything."""
    with TemporaryDirectory(prefix="robusweep-plan-") as folder:
        driver, found = Driver(Path(folder), plan, recipe, stand_ins, name="plan"), []
        while (assignment := driver.next_assignment()) is not None:
            found.append(assignment.model_copy(update={"leg": None}))  # whole ones
    return found


def foreknown(plan: SweepPlan, trials: Sequence[Assignment], *, n_workers: int) -> int:
    """How many of the first ``assignments`` will be the sweep's own, whatever its trials come to.

    Grids are walked in turn, and samplers draw at random until they have been told of some points. With several
    workers a trial is asked for before the last ones have been told.
    """
    search = plan.recipe.search
    if search is None or all(d.grid and not d.when for d in plan.space.training.values()):
        return len(trials)
    after = learns_after(search.sampler)
    if after is None:
        return len(trials)
    for number in range(len(trials)):
        told = sorted((len(trial.points) for trial in trials[:number]), reverse=True)[: max(0, number + 1 - n_workers)]
        if sum(told) >= after:
            return number
    return len(trials)


def spread(items: Sequence[T], n: int) -> list[T]:
    """At most ``n`` of the items, evenly spread from the first to the last; the first where one is asked for."""
    n = min(n, len(items))
    return [items[round(i * (len(items) - 1) / max(1, n - 1))] for i in range(n)]


def pilot(trials: Sequence[Assignment], examples: list[Example], root: Path, *, n_examples: int) -> Pilot:
    """Run these trials on ``n_examples`` of validation each, or read what an earlier pilot measured."""
    return Pilot([_piloted(trial, examples, root, n_examples=n_examples) for trial in trials])


def _piloted(trial: Assignment, examples: list[Example], root: Path, *, n_examples: int) -> Piloted:
    suite = trial.recipe.attacks
    n = min(n_examples, suite.n_examples, len(examples))
    recipe = trial.recipe.model_copy(  # nothing is stopped early
        update={"attacks": suite.model_copy(update={"n_examples": n, "race": None}), "search": None}
    )
    cache = Cache(root / "cache")
    met = examples[: suite.n_examples]
    key = {
        "code": PILOT_CODE,
        "recipe": recipe.model_dump(mode="json", exclude={"search": True, "resources": ELSEWHERE}),
        "points": [point.model_dump(mode="json") for point in trial.points],
        "texts": [example.text for example in met],
    }
    make = partial(_run, assignment=trial.model_copy(update={"recipe": recipe}), met=met, cache=cache)
    entry, _ = cache.get_or_make("pilot", key, make)
    return Piloted(read_trial(entry / RECORD), Texts.model_validate_json((entry / TEXTS).read_text(encoding="utf-8")))


def _run(folder: Path, *, assignment: Assignment, met: list[Example], cache: Cache) -> None:
    with TemporaryDirectory(prefix="robusweep-pilot-") as made:
        cache.root.mkdir(parents=True, exist_ok=True)
        (Path(made) / "cache").symlink_to(cache.root.resolve())
        assignment = assignment.model_copy(update={"root": made})
        record = run_trial(assignment)
        texts = _texts(record, assignment.trial_dir / "attacks", met)
        write_text(folder / TEXTS, texts.model_dump_json() + "\n")
        write_text(folder / RECORD, record.model_dump_json(indent=2) + "\n")


def _texts(record: TrialRecord, folder: Path, met: Sequence[Example]) -> Texts:
    marks = [(folder / f"{point.id}.clean.txt").read_text(encoding="utf-8") for point in record.points]
    n_right = [sum(of_point[i] == "1" for of_point in marks) for i in range(len(met))]
    asked: dict[str, int] = {}
    for point in record.points:
        for kind in [*point.attacks, *point.held_out]:
            for outcome in read_outcomes(folder / f"{point.id}.{kind}.jsonl"):
                n = outcome.n_queries if outcome.status != "misclassified" else 0
                asked[outcome.example_id] = asked.get(outcome.example_id, 0) + n
    attacked = [
        Text(n_words=len(example.text.split()), n_right=n, n_queries=asked[example.id])
        for example, n in zip(met, n_right, strict=True)
        if example.id in asked
    ]
    return Texts(attacked=attacked, n_right=n_right)
