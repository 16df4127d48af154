"""The first trial of a sweep on few examples: what a forecast can measure, and what the sweep then finds in its cache.

Nothing of it is lost: its adapters, and the outcomes of the examples that it attacked, are those of the sweep's own
first trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from robusweep.assignment import Assignment
from robusweep.cache import Cache
from robusweep.examples import Example
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import AttackScore, PointRecord, StandIn, TrialRecord, read_trial, write_text
from robusweep.sweep.driver import Driver
from robusweep.trial import run_trial

PILOT_CODE = 1  # raise it when a pilot would measure something else


@dataclass(frozen=True)
class Pilot:
    """``n_words``: of the attacked texts together, wrongly classified ones included."""

    record: TrialRecord
    n_examples: int
    n_words: int

    def queries_per_word(self) -> float:
        """Of a point, over all its attacks: queries / words of the texts that were to be attacked."""
        asked = sum(score.n_queries for point in self.record.points for score in _scores(point))
        return asked / len(self.record.points) / self.n_words

    def train_seconds(self) -> dict[str, float]:
        """Training method -> seconds, summed over this trial's adapters of that method."""
        found: dict[str, float] = {}
        for adapter in self.record.adapters:
            found[adapter.method] = found.get(adapter.method, 0.0) + adapter.train_seconds + adapter.reference_seconds
        return found

    def point_seconds(self) -> tuple[float, float]:
        """(attacks on these examples, everything else) of a point, means over the trial's points."""
        attacks = rest = 0.0
        for point in self.record.points:
            for stage, seconds in point.seconds.items():
                is_attack = "attack " in stage
                attacks += seconds if is_attack else 0.0
                rest += 0.0 if is_attack else seconds
        n = len(self.record.points)
        return attacks / n, rest / n

    def trial_seconds(self) -> float:
        """Of a trial before its points are scored, training and the ticket's search aside."""
        return sum(s for stage, s in self.record.seconds.items() if not stage.startswith(("train ", "ticket")))


def _scores(point: PointRecord) -> list[AttackScore]:
    return [*point.attacks.values(), *point.held_out.values()]


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
    suite = suite.model_copy(update={"n_examples": n, "race": None})
    recipe = first.recipe.model_copy(update={"attacks": suite, "search": None})  # nothing is stopped early
    cache = Cache(root / "cache")
    key = {
        "code": PILOT_CODE,
        "recipe": recipe.model_dump(mode="json", exclude={"search"}),
        "points": [point.model_dump(mode="json") for point in first.points],
        "texts": [example.text for example in examples[:n]],
    }
    make = partial(_run, assignment=first.model_copy(update={"recipe": recipe}), cache=cache)
    entry, _ = cache.get_or_make("pilot", key, make)
    record = read_trial(entry / "record.json")
    return Pilot(record, n, sum(len(example.text.split()) for example in examples[:n]))


def _run(folder: Path, *, assignment: Assignment, cache: Cache) -> None:
    with TemporaryDirectory(prefix="robusweep-pilot-") as made:
        cache.root.mkdir(parents=True, exist_ok=True)
        (Path(made) / "cache").symlink_to(cache.root.resolve())
        record = run_trial(assignment.model_copy(update={"root": made}))
        write_text(folder / "record.json", record.model_dump_json(indent=2) + "\n")
