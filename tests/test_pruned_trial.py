"""A trial whose points are pruned: one training for all sparsities, what is recorded of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from robusweep import data, defended, scoring
from robusweep import model as model_stage
from robusweep.assignment import PointPlan, single_assignment
from robusweep.errors import RecipeError
from robusweep.mixing import Fixed
from robusweep.pruned import pruned, pruning_of
from robusweep.pruning import Pruning
from robusweep.recipe import Recipe, SweepPlan, load_recipe
from robusweep.record import PointRecord, TrialRecord
from robusweep.seeds import derive
from robusweep.space import SearchSpace
from robusweep.sweep.driver import Driver
from robusweep.trial import run_trial

OPTIMISER = "n_epochs: 6, learning_rate: 2.0e-2, batch_size: 8"
RECIPE = f"""\
# Pruned after training.
version: 1
name: pruned
data:
  {{kind: csv, path: data.csv, text: text, label: label, n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}}
model: {{base: ./model, max_tokens: 32}}
adapter: {{kind: lora, rank: 2}}
train: {{kind: standard, {OPTIMISER}}}
adversarial: [{{kind: pgd, radius: 0.1, n_steps: 1, {OPTIMISER}}}]
mix: {{kind: uniform}}
prune: {{kind: akr, n_texts: 24}}
attacks: {{known: [deepwordbug], n_examples: 6}}
search: {{space: space.yaml, budget: {{n_trials: 1}}}}
resources: {{precision: fp32, executor: local}}
"""
SPACE = "# Three sparsities of one trained set.\nprune.sparsity: {grid: [0.0, 0.5, 0.8], after: training}\n"


def declared(folder: Path, *overrides: str, space: str = SPACE) -> SweepPlan:
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "space.yaml").write_text(space)
    return load_recipe(folder / "recipe.yaml", list(overrides))


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def trial(project: Path) -> tuple[SweepPlan, TrialRecord]:
    plan = declared(project)
    assignment = Driver(project, plan, plan.recipe, [], name="pruned").next_assignment()
    assert assignment is not None
    return plan, run_trial(assignment)


def test_one_training_serves_all_sparsities(trial: tuple[SweepPlan, TrialRecord]) -> None:
    _, record = trial
    assert record.status == "complete"
    assert record.n_trained == len(record.adapters) == 2
    assert [point.params for point in record.points] == [{"prune.sparsity": s} for s in (0.0, 0.5, 0.8)]
    told = [point.pruning for point in record.points]
    assert all(one is not None and (one.kind, one.units) == ("akr", "weights") for one in told)
    assert [one.zeros for one in told if one] == [0.0, 0.5, pytest.approx(0.8, abs=1e-3)]
    errors = [one.error for one in told if one]
    assert 0.0 == errors[0] < errors[1] < errors[2]
    assert len({point.model_digest for point in record.points}) == 3
    assert all("prune" in point.seconds for point in record.points)


def test_a_sparsity_of_zero_is_the_point_without_pruning(project: Path, trial: tuple[SweepPlan, TrialRecord]) -> None:
    plain = load_recipe(project / "recipe.yaml", ["prune=null", "search=null"]).recipe
    record = run_trial(single_assignment(plain, name="plain", root=project, stand_ins=[]))
    assert record.n_trained == 0
    (point,), zero = record.points, trial[1].points[0]
    assert point.pruning is None
    assert point.model_digest == zero.model_digest
    assert (point.clean_accuracy, point.robust_accuracy) == (zero.clean_accuracy, zero.robust_accuracy)


def test_a_point_is_made_again_from_its_record(project: Path, trial: tuple[SweepPlan, TrialRecord]) -> None:
    """What an export does: recipe and values from the record, adapters from the cache, the same weights bit for bit."""
    plan, record = trial
    recipe = Recipe.model_validate_json(json.dumps(record.recipe))
    dataset = data.load(recipe.data, recipe.seed)
    base = model_stage.load(recipe.model, dataset.label_names, seed=derive(recipe.seed, "head"), device="cpu")
    from safetensors.torch import load_file

    own = dict(base.network.named_parameters())
    entries = [project / "cache/train" / adapter.cache_key / "adapter.safetensors" for adapter in record.adapters]
    folded = [recipe.adapter.fold(own, load_file(entry)) for entry in entries]
    mixed = {name: folded[0][name] + 0.5 * (folded[1][name] - folded[0][name]) for name in folded[0]}
    texts = [example.text for example in dataset.train]
    for point in record.points:
        prune = pruning_of(recipe, point.params, plan.space)
        assert prune is not None
        assert prune.sparsity == point.params["prune.sparsity"]
        system, told = pruned(Fixed(mixed), prune, base, texts)
        assert defended.digest(system, base, model_stage.identity(recipe.model)) == point.model_digest
        assert told == point.pruning


def test_kinds_and_units_are_searched_as_named_blocks(project: Path) -> None:
    space = """\
# Ways to prune.
prune:
  grid:
    akr: {kind: akr, n_texts: 24}
    heads: {kind: akr, units: structured, n_texts: 24}
    control: {kind: magnitude, units: structured, n_texts: 24}
  after: training
"""
    plan = declared(project, "mix=null", "adversarial=[]", space=space)
    assignment = Driver(project, plan, plan.recipe, [], name="ways").next_assignment()
    assert assignment is not None
    record = run_trial(assignment)
    assert record.n_trained == 0, "the clean adapter is there already"
    found = {point.params["prune"]: point.pruning for point in record.points}
    assert {name: (one.kind, one.units) for name, one in found.items() if one} == {
        "akr": ("akr", "weights"),
        "heads": ("akr", "structured"),
        "control": ("magnitude", "structured"),
    }
    for point in record.points:
        made = pruning_of(plan.recipe, point.params, plan.space)
        assert made is not None
        assert (made.kind, made.units) == (found[point.params["prune"]].kind, found[point.params["prune"]].units)  # type: ignore[union-attr]
    assert pruning_of(plan.recipe.model_copy(update={"prune": None}), {}, SearchSpace()) is None


@pytest.mark.parametrize("race", [None, {"first": 3, "growth": 2.0}])
def test_a_point_is_pruned_once_and_in_a_race_again_to_the_same_weights(
    project: Path, race: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[float, list[str]] = {}

    def spying(system: Fixed, prune: Pruning, base: model_stage.TextModel, texts: Iterable[str]) -> Any:
        found, told = pruned(system, prune, base, texts)
        made.setdefault(prune.sparsity, []).append(defended.digest(found, base, ""))
        return found, told

    monkeypatch.setattr(scoring, "pruned", spying)
    plan = declared(project, f"attacks={{known: [deepwordbug], n_examples: 12, race: {json.dumps(race)}}}")
    points = [
        PointPlan(id=f"t000.{i:02d}", params=params, mix=plan.recipe.mix, prune=plan.with_params(params).prune)
        for i, params in enumerate(plan.space.grid_points({}))
    ]
    assignment = single_assignment(plan.recipe, name=f"race {race is not None}", root=project, stand_ins=[])
    record = run_trial(assignment.model_copy(update={"points": points}))
    assert record.status == "complete"
    assert made.keys() == {0.0, 0.5, 0.8}
    assert [len(digests) > 1 for digests in made.values()] == [race is not None] * 3
    assert all(len(set(digests)) == 1 for digests in made.values())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mix={kind: adpmixup, weighting: entropy_ratio}", r"prune: one network is pruned.*\(entropy_ratio\)"),
        ("mix={kind: adpmixup, weighting: emea}", r"prune: one network is pruned.*\(emea\)"),
        ("mix={kind: logits}", r"prune: one network is pruned.*kind: logits"),
        ("mix={kind: emulated, large: some/model}", r"prune: one network is pruned.*kind: emulated"),
        ("adapter={kind: pfeiffer}", "prune: a plain network is pruned, and 'pfeiffer'"),
        ("adapter={kind: prefix}", "prune: a plain network is pruned, and 'prefix'"),
        ("prune.n_texts=49", r"prune\.n_texts: 49 is more than data\.n_train \(48\)"),
        ("prune.sparsity=1.0", r"prune\.sparsity"),
        ("prune={kind: wanda}", "wanda"),
    ],
)
def test_what_can_not_be_pruned_is_refused(project: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        declared(project, override)


@pytest.mark.parametrize("mix", ["{kind: adpmixup}", "{kind: adpmixup, weighting: grid_validation}", "{kind: ties}"])
def test_every_mix_with_one_set_of_weights_is_pruned(project: Path, mix: str) -> None:
    assert declared(project, f"mix={mix}").recipe.prune is not None


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("prune.sparsity: {choice: [0.1, 0.5]}", "needs no retraining: write it as {grid: [...], after: training}"),
        ("prune.sparsity: {uniform: [0.1, 0.5]}", "needs no retraining"),
        ("prune.sparsity: {grid: [0.5, 1.0], after: training}", "prune.sparsity=1.0"),
        ("prune.density: {grid: [0.5], after: training}", "did you mean"),
        ("mix: {grid: {a: {kind: logits}}, after: training}", "one network is pruned"),
        ("train: {grid: {a: {kind: standard}}, after: training}", "only mix and keys below it or prune and keys below"),
    ],
)
def test_a_space_searches_pruning_after_training_alone(project: Path, space: str, says: str) -> None:
    with pytest.raises(RecipeError) as e:
        declared(project, space=f"# A space.\n{space}\n")
    assert says in str(e.value)


def test_a_record_of_before_pruning_is_read(trial: tuple[SweepPlan, TrialRecord]) -> None:
    old = trial[1].points[0].model_dump(mode="json")
    del old["pruning"]
    assert PointRecord.model_validate_json(json.dumps(old)).pruning is None
    recipe = trial[1].recipe
    assert Recipe.model_validate_json(json.dumps({k: v for k, v in recipe.items() if k != "prune"})).prune is None
