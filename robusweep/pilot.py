"""The first trial of a sweep on few examples: what a forecast can measure, and what the sweep then finds in its cache.

Nothing of it is lost: its adapters, and the outcomes of the examples that it attacked, are those of the sweep's own
first trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from robusweep.assignment import Assignment
from robusweep.cache import Cache
from robusweep.examples import Example
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import StandIn, TrialRecord, read_outcomes, read_trial, write_text
from robusweep.seeds import generator
from robusweep.spec import Spec
from robusweep.sweep.driver import Driver
from robusweep.trial import run_trial

PILOT_CODE = 2  # raise it when a pilot would measure something else
ELSEWHERE = {"executor", "max_concurrent", "storage"}  # of ``resources``: where trials run changes no measurement
RECORD, TEXTS = "record.json", "texts.json"
N_RESAMPLES = 2000


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
class Pilot:
    record: TrialRecord
    texts: Texts

    @property
    def n_examples(self) -> int:
        return len(self.texts.attacked)

    @property
    def n_queries(self) -> int:
        """That were asked, over all points and attacks."""
        return sum(text.n_queries for text in self.texts.attacked)

    def queries(self, words: Sequence[int], n_points: int) -> Estimate:
        """Of a sweep with ``n_points``, whose attacked texts have so many ``words``.

        What a point asks for each word that it is right about, a ratio over the pilot's texts, and what this trial's
        points are right about, which is known of every text. The interval is a bootstrap over the texts.
        """
        met = [(t.n_queries, t.n_words * t.n_right) for t in self.texts.attacked if t.n_right]
        rows = np.array(met, dtype=float).reshape(-1, 2)
        left = sum(w * n for w, n in zip(words, self.texts.n_right, strict=True)) - rows[:, 1].sum()
        scale = n_points / len(self.record.points)

        def whole(asked: Any, of: Any) -> Any:
            return scale * (self.n_queries + left * asked / np.maximum(of, 1.0))

        value = float(whole(*rows.sum(axis=0)))
        if len(rows) < 2:
            return Estimate(value, None)
        drawn = generator(0, "pilot").integers(len(rows), size=(N_RESAMPLES, len(rows)))
        low, high = np.percentile(whole(*rows[drawn].sum(axis=1).T), [2.5, 97.5])
        return Estimate(value, (min(value, float(low)), max(value, float(high))))

    def train_seconds(self) -> dict[str, float]:
        """Training method -> seconds, summed over this trial's adapters of that method."""
        found: dict[str, float] = {}
        for adapter in self.record.adapters:
            found[adapter.method] = found.get(adapter.method, 0.0) + adapter.train_seconds + adapter.reference_seconds
        return found

    def query_seconds(self) -> float:
        """Of one query of an attack, the attack's own work included."""
        spent = sum(s for point in self.record.points for stage, s in point.seconds.items() if "attack " in stage)
        return spent / max(1, self.n_queries)

    def rest_seconds(self) -> float:
        """Of a point, attacks aside."""
        spent = [s for point in self.record.points for stage, s in point.seconds.items() if "attack " not in stage]
        return sum(spent) / len(self.record.points)

    def trial_seconds(self) -> float:
        """Of a trial before its points are scored, training and the ticket's search aside."""
        return sum(s for stage, s in self.record.seconds.items() if not stage.startswith(("train ", "ticket")))


def assignments(plan: SweepPlan, recipe: Recipe, stand_ins: list[StandIn]) -> list[Assignment]:
    """What the sweep's trials would be if none told the sampler anything."""
    with TemporaryDirectory(prefix="robusweep-plan-") as folder:
        driver, found = Driver(Path(folder), plan, recipe, stand_ins, name="plan"), []
        while (assignment := driver.next_assignment()) is not None:
            found.append(assignment)
    return found


def pilot(first: Assignment, examples: list[Example], root: Path, *, n_examples: int) -> Pilot:
    """Run the first trial on ``n_examples`` of validation, or read what an earlier pilot measured."""
    suite = first.recipe.attacks
    n = min(n_examples, suite.n_examples, len(examples))
    recipe = first.recipe.model_copy(  # nothing is stopped early
        update={"attacks": suite.model_copy(update={"n_examples": n, "race": None}), "search": None}
    )
    cache = Cache(root / "cache")
    met = examples[: suite.n_examples]
    key = {
        "code": PILOT_CODE,
        "recipe": recipe.model_dump(mode="json", exclude={"search": True, "resources": ELSEWHERE}),
        "points": [point.model_dump(mode="json") for point in first.points],
        "texts": [example.text for example in met],
    }
    make = partial(_run, assignment=first.model_copy(update={"recipe": recipe}), met=met, cache=cache)
    entry, _ = cache.get_or_make("pilot", key, make)
    return Pilot(read_trial(entry / RECORD), Texts.model_validate_json((entry / TEXTS).read_text(encoding="utf-8")))


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
