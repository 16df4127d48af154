"""What a forecast counts, and what it makes of a pilot's record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from robusweep import plan as planning
from robusweep.pilot import Pilot, Piloted, Text, Texts, assignments, foreknown, spread
from robusweep.recipe import SweepPlan, load_recipe
from robusweep.record import AdapterRecord, AttackOutcome, AttackScore, PointRecord, TrialRecord
from robusweep.scores import Rate

RECIPE = """\
# A sweep for tests.
version: 1
name: small
data: {kind: csv, path: data.csv, n_train: 20, n_validation: 10, n_calibration: 4, n_test: 4}
model: {base: minilm_l6}
adapter: {kind: lora, rank: 4}
train: {kind: standard, n_epochs: 1}
adversarial: [{kind: pgd, radius: 0.3, n_epochs: 1}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 10}
search: {space: space.yaml, budget: {n_trials: 6}}
"""


@pytest.fixture
def declare(tmp_path: Path) -> Any:
    def make(space: str) -> SweepPlan:
        (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(60)))
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        (tmp_path / "space.yaml").write_text(f"# A space of one test.\n{space}")
        return load_recipe(tmp_path / "recipe.yaml")

    return make


WEIGHTS = "mix.weight: {grid: [0.0, 0.5, 1.0], after: training}\n"


@pytest.mark.parametrize(
    ("space", "n_trainings"),
    [
        ("adapter.rank: {grid: [4, 8]}\n", 4),  # 2 ranks, each a clean and an adversarial adapter, three times
        ("adversarial.0.radius: {grid: [0.1, 0.2, 0.3]}\n", 4),  # one clean adapter for three radii
        ("adversarial.0.radius: {uniform: [0.1, 0.6]}\n", 7),  # six radii, all different
    ],
)
def test_trainings_that_trials_share_are_counted_once(declare: Any, space: str, n_trainings: int) -> None:
    plan = declare(WEIGHTS + space)
    trials = assignments(plan, plan.recipe, [])
    assert (len(trials), sum(len(trial.points) for trial in trials)) == (6, 18)
    assert len(planning._trainings(trials)) == n_trainings


def test_the_first_trial_of_a_forecast_is_the_sweeps_own(declare: Any, tmp_path: Path) -> None:
    from robusweep.sweep.driver import Driver

    plan = declare(WEIGHTS + "adversarial.0.radius: {uniform: [0.1, 0.6]}\n")
    forecast = assignments(plan, plan.recipe, [])[0]
    swept = Driver(tmp_path, plan, plan.recipe, [], name="small").next_assignment()
    assert swept is not None
    assert swept.params == forecast.params
    assert [point.params for point in swept.points] == [point.params for point in forecast.points]


def record(n_points: int, keys: str = "kl") -> TrialRecord:
    """Each point: 30 queries of one attack and 10 of a held-out one; 5 s of attacks and 2 s of the rest."""

    def score(n_queries: int) -> AttackScore:
        one = AttackOutcome(example_id="0", label=0, status="broken", n_queries=n_queries, n_words=5)
        return AttackScore.of([one])

    points = [
        PointRecord(
            id=f"t000.{i:02d}",
            params={},
            clean_accuracy=Rate.of(1, 1),
            robust_accuracy=Rate.of(0, 1),
            attacks={"pwws": score(30)},
            held_out={"deepwordbug": score(10)},
            model_digest="m",
            seconds={"clean": 1.5, "attack pwws": 3.0, "parts attack pwws": 2.0, "flags": 0.5},
        )
        for i in range(n_points)
    ]
    adapter: dict[str, Any] = {"cached": True, "final_loss": 0.1, "n_steps": 1}
    adapter |= {"token_efficiency": 1.0, "precision": "fp32"}
    adapters = [
        AdapterRecord(view="clean", cache_key=keys[0], method="standard", train_seconds=10.0, **adapter),
        AdapterRecord(
            view="adversarial.0", cache_key=keys[1], method="pgd", train_seconds=30.0, reference_seconds=5.0, **adapter
        ),
    ]
    return TrialRecord(
        name="run",
        number=0,
        status="complete",
        params={},
        recipe={},
        recipe_digest="d",
        adapters=adapters,
        points=points,
        seconds={"data": 1.0, "model": 2.0, "train clean": 10.0, "train adversarial.0": 30.0, "ticket": 9.0},
    )


def tried(
    n_points: int,
    attacked: Sequence[tuple[int, int, int]] = ((8, 1, 40),),
    n_right: Sequence[int] = (1,),
    keys: str = "kl",
) -> Piloted:
    """A trial of a pilot. ``attacked``: words, points that are right, and queries of each example."""
    texts = [Text(n_words=words, n_right=right, n_queries=asked) for words, right, asked in attacked]
    return Piloted(record(n_points, keys), Texts(attacked=texts, n_right=list(n_right)))


def found(n_points: int, *args: Any, **named: Any) -> Pilot:
    return Pilot([tried(n_points, *args, **named)])


def test_a_pilot_tells_seconds_of_a_query_and_of_the_rest() -> None:
    seen = found(2, attacked=[(8, 2, 80)])
    assert seen.n_queries == 80
    assert seen.query_seconds() == 2 * 5.0 / 80
    assert seen.rest_seconds() == 2.0
    assert seen.trial_seconds() == 3.0
    assert seen.train_seconds() == {"standard": 10.0, "pgd": 35.0}


def test_a_sweeps_queries_are_those_of_words_that_points_are_right_about() -> None:
    """Two points; 30 queries for 10 words, so 3 a word. Left: 4 words that both are right about, and 5 of one."""
    seen = found(2, attacked=[(5, 1, 10), (5, 1, 20), (9, 0, 0)], n_right=[1, 1, 0, 2, 1])
    told = seen.queries([5, 5, 9, 4, 5], [2, 2])
    assert told.value == 3 * (30 + 3 * (2 * 4 + 5))
    assert told.interval is not None
    assert 3 * (30 + 2 * 13) <= told.interval[0] < told.value < told.interval[1] <= 3 * (30 + 4 * 13)
    assert found(1).queries([8], []).interval is None
    everything = found(1, attacked=[(8, 1, 40), (2, 1, 1)], n_right=[1, 1]).queries([8, 2], [])
    assert (everything.value, everything.interval) == (41, (41, 41))


def test_trials_that_were_not_tried_ask_what_those_ask_on_the_average_by_their_points() -> None:
    """One trial asks 20 with one point, one 80 with two; all of their examples were attacked."""
    seen = Pilot([tried(1, [(5, 1, 10), (5, 1, 10)], [1, 1]), tried(2, [(5, 2, 40), (5, 2, 40)], [2, 2])])
    assert seen.queries([5, 5], []).value == 100
    assert seen.queries([5, 5], [1, 3, 2]).value == pytest.approx(100 + 6 * 100 / 3)


def alike(*asked: int) -> Pilot:
    """A trial of one point for each number: what each of its ten examples asks, all of which were attacked."""
    return Pilot([tried(1, [(5, 1, n)] * 10, [1] * 10) for n in asked])


def test_the_interval_holds_the_spread_between_trials_and_not_that_of_those_that_were_tried() -> None:
    """Examples are all alike, so nothing else is in it."""
    words = [5] * 10
    assert alike(10, 10).queries(words, [1]).interval == pytest.approx((300, 300))
    assert alike(10, 20, 30).queries(words, []).interval == pytest.approx((600, 600))
    low, high = alike(18, 20, 22).queries(words, [1]).interval or (0, 0)
    half = 4.303 * 20 * (1 / 3 + 1) ** 0.5  # Student's t of two degrees of freedom; trials are 20 queries apart
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    wider = alike(18, 20, 22).queries(words, [1] * 9)
    assert wider.value == pytest.approx(2400)
    assert wider.interval is not None
    assert (wider.interval[1] - wider.interval[0]) / 2 == pytest.approx(
        9 * 4.303 * 20 * (1 / 3 + 1 / 9) ** 0.5, rel=0.15
    )
    assert (alike(1, 30).queries(words, [1]).interval or (0, 0))[0] == 310  # that many were asked already


def test_adapters_that_trials_of_a_pilot_share_count_once() -> None:
    assert Pilot([tried(1), tried(1, keys="km")]).train_seconds() == {"standard": 10.0, "pgd": 70.0}


def test_a_pilot_is_spread_over_the_trials_that_are_known_in_advance(declare: Any, tmp_path: Path) -> None:
    plan = declare(WEIGHTS + "adversarial.0.radius: {uniform: [0.1, 0.6]}\n")
    trials = assignments(plan, plan.recipe, [])
    assert foreknown(plan, trials, n_workers=1) == 4  # of 3 points each; the sampler learns from 10
    assert foreknown(plan, trials, n_workers=2) == 5
    random = load_recipe(tmp_path / "recipe.yaml", ["search.sampler={kind: random}"])
    assert foreknown(random, trials, n_workers=1) == 6
    grid = declare(WEIGHTS + "adversarial.0.radius: {grid: [0.1, 0.2]}\n")
    assert foreknown(grid, trials, n_workers=1) == 6
    assert spread([0, 1, 2, 3], 3) == [0, 2, 3]
    assert (spread([0, 1, 2, 3], 1), spread([0, 1], 5)) == ([0], [0, 1])


def test_trials_are_foreknown_as_far_as_the_sweep_asks_for_them_whatever_it_is_told(declare: Any) -> None:
    from robusweep.sweep.study import Study

    plan = declare(WEIGHTS + "adversarial.0.radius: {uniform: [0.1, 0.6]}\n")
    trials = assignments(plan, plan.recipe, [])
    asked, study = [], Study(Path(plan.file).parent / "s.journal", plan)
    for _ in trials:
        one = study.ask()
        asked.append(one.params)
        rows = [{"mix.weight": weight, **one.params} for weight in (0.0, 0.5, 1.0)]
        study.complete(one, [(f"{one.number}.{i}", row, [0.9, 0.1 * i]) for i, row in enumerate(rows)])
    n = foreknown(plan, trials, n_workers=1)
    assert asked[:n] == [trial.params for trial in trials[:n]]
    assert asked[n] != trials[n].params


class Predicted:
    """20 s of training for the one method, 10 s for the other."""

    def train_seconds(self, _recipe: Any, method: Any) -> float:
        return {"standard": 20.0, "pgd": 10.0}[method.kind]


def test_predicted_training_is_scaled_by_method_to_what_the_pilot_took(declare: Any) -> None:
    plan = declare(WEIGHTS)
    bench: Any = Predicted()
    trials = assignments(plan, plan.recipe, [])[:1]
    scaled = planning._scaled({"standard": 40.0, "pgd": 30.0, "vat": 30.0}, found(1), trials, bench)
    assert scaled == pytest.approx({"standard": 20.0, "pgd": 105.0, "vat": 45.0})  # vat: as the whole, 45 for 30


class Measured(Predicted):
    """A machine on which a query takes a millisecond."""

    bf16 = False

    def __init__(self, _recipe: Any, _dataset: Any) -> None:
        return None

    def query_seconds(self, _ticket: Any) -> float:
        return 0.001

    def search_seconds(self, recipe: Any) -> float:
        return 60.0 if recipe.ticket else 0.0

    def training_queries(self, _recipe: Any, _method: Any) -> float:
        return 0.0

    def said(self) -> str:
        return "nothing"


def test_a_forecast_of_a_sweep_that_may_stop_is_an_upper_bound(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MicroBenchmark", Measured)
    plan = declare(WEIGHTS)
    assert "upper_bound" not in planning.predict(plan)
    stopping = planning.predict(load_recipe(tmp_path / "recipe.yaml", ["search.stop={}", "search.early_stopping=mild"]))
    assert "search.stop ends the sweep sooner" in stopping["upper_bound"]
    assert "search.early_stopping attacks" in stopping["upper_bound"]
    assert "epochs" not in stopping["upper_bound"]
    assert stopping["trials"] == 6


def test_tickets_of_several_sizes_are_foretold_one_search(declare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MicroBenchmark", Measured)
    sizes = ", ".join(f"half{i}: {{kind: early_bird, head_density: 0.{i}}}" for i in range(3, 9))
    ticket = f"ticket: {{grid: {{{sizes}}}}}\n"
    told = planning.predict(declare(WEIGHTS + ticket))
    assert told["ticket_searches"] == 1
    assert told["search_hours"] == round(60 / 3600, 3)
    assert told["adapter_trainings"] == 12
    assert "ticket_searches" not in planning.predict(declare(WEIGHTS))


def test_what_pruning_takes_is_said_not_to_be_counted(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MicroBenchmark", Measured)
    declare(WEIGHTS)
    plan = load_recipe(tmp_path / "recipe.yaml", ["prune={kind: magnitude, n_texts: 8}"])
    assert "--pilot" in planning.predict(plan)["not_counted"]


def test_stages_that_take_different_resources_have_workers_of_their_own(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MicroBenchmark", Measured)
    monkeypatch.setattr(planning.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(Measured, "train_seconds", lambda *_: 3600.0)
    declare(WEIGHTS)
    plain = planning.predict(load_recipe(tmp_path / "recipe.yaml"))
    assert (plain["workers"], plain["train_hours"]) == (4, 2.0)
    assert "training_workers" not in plain
    told = planning.predict(load_recipe(tmp_path / "recipe.yaml", ["resources.train={cpus: 2}"]))
    assert (told["training_workers"], told["workers"]) == (2, 4)
    assert told["wall_hours"] == pytest.approx(2 / 2 + told["attack_hours"] / 4, abs=0.001)


EPOCHS = "search.early_stopping={epochs: [0.5], epoch_examples: 4, rungs: []}"
RADII = WEIGHTS + "adversarial.0.radius: {grid: [0.1, 0.2, 0.3]}\n"


def test_attacks_at_rungs_of_epochs_are_counted_and_may_save_training(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 of 6 trials train anew, as a rung of their two epochs finds them: 3 points on 4 examples of 2 words each."""
    monkeypatch.setattr(planning, "MicroBenchmark", Measured)
    declare(RADII)
    longer = ["adversarial.0.n_epochs=2"]
    plain = planning.predict(load_recipe(tmp_path / "recipe.yaml", longer))
    told = planning.predict(load_recipe(tmp_path / "recipe.yaml", [*longer, EPOCHS]))
    extra = 3 * 3 * 4 * 2 * 2  # two queries a word
    assert told["of_them_at_epoch_rungs"] == extra == told["attack_queries"] - plain["attack_queries"]
    assert told["attack_hours"] >= plain["attack_hours"]
    assert "search.early_stopping.epochs trains no further" in told["upper_bound"]
    two = ["train.n_epochs=3", EPOCHS.replace("[0.5]", "[1, 2]")]  # at the second one only the clean adapter goes on
    assert planning.predict(load_recipe(tmp_path / "recipe.yaml", [*longer, *two]))["of_them_at_epoch_rungs"] == 4 * 48


def test_trials_of_a_pilot_are_left_out_of_rungs_of_epochs(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are trained whole. 40 queries of every point: known attacks take 30, on 10 examples; a rung has 4."""
    asked_for: list[int] = []

    def pilot(trials: Any, _examples: Any, _root: Path, *, n_examples: int) -> Pilot:
        asked_for.extend(trial.number for trial in trials)
        rows = [(2, 3, 120 // n_examples)] * n_examples
        return Pilot([tried(3, rows, [3] * 10, keys=f"k{trial.number}") for trial in trials])

    monkeypatch.setattr(planning, "MicroBenchmark", Measured)
    monkeypatch.setattr(planning, "pilot", pilot)
    declare(RADII)
    plan = load_recipe(tmp_path / "recipe.yaml", ["adversarial.0.n_epochs=2", EPOCHS])
    told = planning.predict(plan, n_pilot=10, n_pilot_trials=2)
    assert asked_for == [0, 5]  # the first and the last radius; only the second one is trained in the sweep
    assert told["of_them_at_epoch_rungs"] == 3 * 40 * 0.75 * 0.4
    assert told["attack_queries"] == 6 * 3 * 40 + told["of_them_at_epoch_rungs"]
    assert told["attack_queries_interval"] == [told["attack_queries"]] * 2
    assert "trials t000, t005 on the same 10 examples: 240 queries" in told["measured"]
    assert "as far apart as these" in told["assumed"]
    assert "last rung of epochs once more" in told["not_counted"]
    assert "assumed" not in planning.predict(plan, n_pilot=10, n_pilot_trials=9)
