"""The recipe: what loads, what a digest depends on, and every YAML file of the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from robusweep.errors import RecipeError
from robusweep.recipe import Recipe, SweepPlan, load_recipe
from robusweep.space import load_space
from robusweep.spec import canonical_json

REPOSITORY = Path(__file__).parent.parent
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
SPACES = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))

SMALL: dict[str, Any] = {
    "version": 1,
    "name": "small",
    "data": {"kind": "csv", "path": "reviews.csv"},
    "adapter": {"kind": "lora"},
    "train": {"kind": "standard"},
    "adversarial": [{"kind": "pgd", "radius": 0.3}],
    "mix": {"kind": "adpmixup"},
    "attacks": {"known": ["deepwordbug"]},
    "search": {"space": "space.yaml", "sampler": {"kind": "random"}},
}
SPACE = "mix.weight: {grid: [0.0, 1.0], after: training}\nadapter.rank: {choice: [4, 8]}\n"


def plan(folder: Path, *overrides: str, recipe: dict[str, Any] = SMALL, space: str = SPACE) -> SweepPlan:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "space.yaml").write_text(space)
    return load_recipe(folder / "recipe.yaml", list(overrides))


def test_there_are_recipes_and_spaces_to_check() -> None:
    assert RECIPES
    assert SPACES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_loads_with_its_space(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.recipe.name == path.stem
    assert loaded.recipe.search is None or loaded.space.dimensions


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_every_search_space_of_the_repository_loads(path: Path) -> None:
    assert load_space(path)[0].dimensions


@pytest.mark.parametrize("path", [*RECIPES, *SPACES], ids=lambda p: p.stem)
def test_every_file_opens_with_a_comment_and_the_command_that_runs_it(path: Path) -> None:
    comment = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    assert comment is not None
    commands = re.findall(r"robusweep (?:run|trial) (\S+\.yaml)", comment[0])
    assert commands
    assert all((REPOSITORY / named).is_file() for named in commands)
    assert path.parent.name != "recipes" or f"recipes/{path.name}" in commands


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": [1, {"d": None, "c": "é"}], "a": 0.1}) == '{"a":0.1,"b":[1,{"c":"é","d":null}]}'


def test_a_digest_counts_defaults_and_not_the_order_of_keys(tmp_path: Path) -> None:
    turned = {key: SMALL[key] for key in reversed(SMALL)}
    spelt = SMALL | {"train": {"n_epochs": 3, "kind": "standard", "batch_size": 16}}
    digests = {plan(tmp_path, recipe=recipe).recipe.digest() for recipe in (SMALL, turned, spelt)}
    assert len(digests) == 1


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = plan(tmp_path).recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")).digest() == recipe.digest()


@pytest.mark.parametrize(
    "change",
    ["search.budget.n_trials=7", "resources.executor=local", "resources.max_concurrent=2", "resources.cpus=2"],
)
def test_a_sweep_stays_the_same_whatever_its_budget_and_where_it_runs(tmp_path: Path, change: str) -> None:
    assert plan(tmp_path, change).sweep_digest() == plan(tmp_path).sweep_digest()
    assert plan(tmp_path, change).recipe.trial_digest() == plan(tmp_path).recipe.trial_digest()


@pytest.mark.parametrize(
    "change",
    [
        "search.objectives=[{metric: clean_accuracy}]",
        "search.objectives=[{metric: clean_accuracy}, {metric: robust_accuracy, goal: min}]",
        "seed=1",
        "train.n_epochs=2",
        "adversarial.0.radius=0.4",
        "attacks.n_examples=7",
        "attacks.held_out=[pwws]",
        "attacks.replay=true",
        "attacks.race={error: 0.1}",
        "attacks.protocol={min_similarity: 0.9}",
        "resources.precision=bf16",
    ],
)
def test_a_sweep_with_other_objectives_seed_or_stages_is_another_sweep(tmp_path: Path, change: str) -> None:
    assert plan(tmp_path, change).sweep_digest() != plan(tmp_path).sweep_digest()


def test_a_sweep_over_another_space_is_another_sweep(tmp_path: Path) -> None:
    assert plan(tmp_path, space=SPACE.replace("8]", "16]")).sweep_digest() != plan(tmp_path).sweep_digest()


def test_a_trials_digest_leaves_out_its_name_and_the_search(tmp_path: Path) -> None:
    one, other = plan(tmp_path).recipe, plan(tmp_path, "name=other", "search=null").recipe
    assert one.trial_digest() == other.trial_digest()
    assert one.trial_digest() != plan(tmp_path, "seed=1").recipe.trial_digest()


def test_parameters_are_put_into_the_recipe(tmp_path: Path) -> None:
    loaded = plan(tmp_path)
    recipe = loaded.with_params({"adapter.rank": 4, "adversarial.0.radius": 0.5, "mix.weight": 1.0})
    dumped = recipe.model_dump(mode="json")
    assert dumped["adapter"]["rank"] == 4
    assert dumped["adversarial"][0]["radius"]["value"] == 0.5
    assert dumped["mix"]["weight"] == 1.0
    assert loaded.recipe.model_dump(mode="json")["adapter"]["rank"] == 8


def test_parameters_that_make_no_recipe_are_refused_by_their_dotted_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"adversarial\.0\.radius: must be greater than or equal to 0, given -1"):
        plan(tmp_path).with_params({"adversarial.0.radius": -1})


def test_relative_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    recipe = plan(tmp_path, "model.base=./encoder").recipe
    dumped = recipe.model_dump(mode="json")
    assert dumped["data"]["path"] == str(tmp_path / "reviews.csv")
    assert dumped["model"]["base"] == str(tmp_path / "encoder")
    assert plan(tmp_path, "model.base=org/name").recipe.model_dump()["model"]["base"] == "org/name"


def test_a_path_that_begins_like_a_home_folder_of_nobody_is_a_plain_name(tmp_path: Path) -> None:
    dumped = plan(tmp_path, "data.path=~nobody-of-that-name/x.csv").recipe.model_dump(mode="json")
    assert dumped["data"]["path"] == str(tmp_path / "~nobody-of-that-name" / "x.csv")


def test_a_recipe_without_a_search_needs_no_space(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({k: v for k, v in SMALL.items() if k != "search"}))
    loaded = load_recipe(tmp_path / "recipe.yaml")
    assert loaded.recipe.search is None
    assert loaded.space.dimensions == {}


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("adapter.ranks: {choice: [4]}", "did you mean 'adapter.rank'"),
        ("attacks.n_examples: {choice: [4, 8]}", "can't be searched"),
        ("resources.precision: {choice: [fp32, bf16]}", "can't be searched"),
        ("adversarial.1.radius: {choice: [0.1, 0.2]}", "no such key"),
        ("train.n_epochs: {uniform: [1, 3]}", "valid integer"),
        ("adapter: {choice: [lora]}", "must be a block of keys"),
        ("train.learning_rate: {choice: [0.1, big]}", "train.learning_rate='big'"),
        ("data: {choice: {a: {kind: trec}}}", "can't be searched"),
        ("resources: {choice: {a: {cpus: 2}}}", "can't be searched"),
        ("model: {choice: {a: {base: minilm_l6}}}", "the encoder can't be searched"),
        ("model.base: {choice: [minilm_l6]}", "the encoder can't be searched"),
        ("mix: {grid: {a: {kind: adpmixup}}}", "needs no retraining"),
        ("adapter: {grid: {a: {kind: lora}}, after: training}", "only mix and keys below it"),
    ],
)
def test_a_space_may_only_search_what_keeps_every_trial_valid_and_comparable(
    tmp_path: Path, space: str, says: str
) -> None:
    with pytest.raises(RecipeError) as e:
        plan(tmp_path, space=f"# one line\n{space}\n")
    assert "space.yaml:2: " in str(e.value)
    assert says in str(e.value)


def test_a_key_that_the_recipe_leaves_at_its_default_may_be_searched(tmp_path: Path) -> None:
    searched = plan(tmp_path, space="adversarial.0.n_steps: {integer: [1, 5]}\nmodel.dropout: {uniform: [0.0, 0.3]}\n")
    assert searched.with_params({"adversarial.0.n_steps": 5, "model.dropout": 0.1}).adversarial[0].digest()


def test_a_protocol_may_be_changed_field_by_field(tmp_path: Path) -> None:
    recipe = plan(tmp_path, "attacks.protocol={base: strict_v1, max_candidates: 20}").recipe
    constraints = recipe.attacks.constraints
    assert constraints.name == "strict_v1+max_candidates=20"
    assert (constraints.max_candidates, constraints.min_similarity) == (20, 0.9)
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again.attacks.constraints == constraints
    assert plan(tmp_path, "attacks.protocol={base: standard_v1}").recipe.attacks.constraints.name == "standard_v1"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("attacks.protocol=standard_v2", "did you mean 'standard_v1'"),
        ("attacks.protocol={max_word_changed: 0.2}", "did you mean 'max_words_changed'"),
        ("attacks.protocol={max_words_changed: 2}", "less than or equal to 1"),
        ("attacks.protocol={base: library_default_v1, max_candidates: 9}", "can't be changed"),
        ("attacks.known=[input_reduction]", "list it as held out"),
        ("attacks.known=[deepwordbug, deepwordbug]", "listed more than once"),
        ("attacks.known=[{kind: genetic_wordnet, population: 0}]", "population"),
        ("attacks.race={error: 1.5}", "attacks.race.error"),
        ("search.objectives=[{metric: accuracy_under_attack.pwws}]", "accuracy_under_attack.deepwordbug"),
    ],
)
def test_a_suite_that_means_nothing_is_refused_by_its_key(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError) as e:
        plan(tmp_path, override)
    assert says in str(e.value)
    assert "must be a valid string" not in str(e.value)
    assert str(e.value).count("recipe.yaml:") <= 1, "one mistake, one line"


def test_a_race_is_refused_where_its_error_rate_would_not_hold(tmp_path: Path) -> None:
    assert plan(tmp_path, "attacks.race={first: 16}").recipe.attacks.race is not None
    with pytest.raises(RecipeError, match="leave out replay, or race"):
        plan(tmp_path, "attacks.race={first: 16}", "attacks.replay=true")
    with pytest.raises(RecipeError, match="the objectives also hold train_seconds"):
        plan(
            tmp_path,
            "attacks.race={first: 16}",
            "search.objectives=[{metric: robust_accuracy}, {metric: train_seconds, goal: min}]",
        )


NAMED = """\
mix.weight: {grid: [0.0, 1.0], after: training}
train:
  grid:
    vanilla: {kind: standard, n_epochs: 2}
    pgd:
      kind: pgd
      radius: 0.3
train.radius: {log_uniform: [0.1, 1.0], when: {train: pgd}}
adapter: {choice: {small: {kind: lora, rank: 2}, all: {kind: full}}}
"""


def test_a_named_block_is_put_into_the_recipe_and_keys_inside_it_after_it(tmp_path: Path) -> None:
    loaded = plan(tmp_path, space=NAMED)
    recipe = loaded.with_params({"train.radius": 0.7, "train": "pgd", "adapter": "all"})
    assert recipe.train.kind == "pgd"
    assert recipe.model_dump()["train"]["radius"]["value"] == 0.7
    assert recipe.adapter.kind == "full"
    assert loaded.with_params({"train": "pgd"}).model_dump()["train"]["radius"]["value"] == 0.3, "nothing is kept"
    assert loaded.with_params({"train": "vanilla"}).train.n_epochs == 2
    assert loaded.recipe.train.n_epochs == 3


def test_mix_blocks_may_be_searched_after_training(tmp_path: Path) -> None:
    space = "mix: {grid: {half: {kind: adpmixup, weight: 0.5}, all: {kind: adpmixup, weight: 1.0}}, after: training}\n"
    loaded = plan(tmp_path, space=space)
    mixers = [loaded.with_params(point).mix for point in loaded.space.grid_points({})]
    assert [mix.weight for mix in mixers if mix] == [0.5, 1.0]


def test_a_sweep_over_other_blocks_or_other_names_is_another_sweep(tmp_path: Path) -> None:
    spaces = [NAMED, NAMED.replace("radius: 0.3", "radius: 0.4"), NAMED.replace("vanilla", "plain")]
    assert len({plan(tmp_path, space=space).sweep_digest() for space in spaces}) == 3


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("radius: 0.3", "radius: -1"), 7, "train.grid.pgd.radius: must be greater than or equal to 0, given -1"),
        (("n_epochs: 2", "n_epoch: 2"), 4, "train.grid.vanilla.n_epoch: unknown key; did you mean 'n_epochs'?"),
        (("n_epochs: 2", "n_epochs: 0"), 4, "train.grid.vanilla.n_epochs: must be greater than or equal to 1"),
        (("kind: standard, ", ""), 4, "train.grid.vanilla: the key 'kind' is missing"),
        (("      kind: pgd", "      kind: pdg"), 6, "train.grid.pgd.kind: unknown kind 'pdg'; did you mean 'pgd'?"),
        (("{kind: full}", "{kind: full, rank: 2}"), 9, "adapter.choice.all.rank: unknown key"),
    ],
)
def test_a_mistake_in_a_named_block_is_told_where_the_space_has_it(
    tmp_path: Path, change: tuple[str, str], line: int, says: str
) -> None:
    with pytest.raises(RecipeError) as e:
        plan(tmp_path, space=NAMED.replace(*change))
    assert f"space.yaml:{line}: {says}" in str(e.value)
    assert str(e.value).count("space.yaml:") == 1, "one mistake, one line"


def test_all_mistakes_of_named_blocks_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as e:
        plan(tmp_path, space=NAMED.replace("radius: 0.3", "radius: -1").replace("rank: 2", "rank: 0"))
    assert "train.grid.pgd.radius" in str(e.value)
    assert "adapter.choice.small.rank" in str(e.value)


def test_a_block_that_does_not_fit_the_rest_of_the_recipe_is_refused_by_its_name(tmp_path: Path) -> None:
    space = "mix.weight: {grid: [0.5], after: training}\ntrain: {grid: {own: {kind: text_attack, attack: pwws}}}\n"
    with pytest.raises(RecipeError, match=r"space\.yaml:2: train\.grid\.own\.attack: 'pwws' is listed under"):
        plan(tmp_path, "attacks.held_out=[pwws]", space=space)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("train.radius: {uniform: [0.1, 1.0]}", "no such key"),
        ("train.radius: {uniform: [0.1, 1.0], when: {train: vanilla}}", "train='vanilla', train.radius=0.1 gives no"),
        ("train.radius: {uniform: [-1.0, 1.0], when: {train: pgd}}", "train='pgd', train.radius=-1.0 gives no valid"),
        ("train.n_epochs: {choice: [1, 0]}", "train.n_epochs=0 gives no valid recipe"),
    ],
)
def test_a_key_inside_a_searched_block_has_to_fit_the_blocks_that_it_meets(tmp_path: Path, key: str, says: str) -> None:
    space = NAMED.replace("train.radius: {log_uniform: [0.1, 1.0], when: {train: pgd}}", key)
    with pytest.raises(RecipeError) as e:
        plan(tmp_path, space=space)
    assert says in str(e.value)
    assert "space.yaml:8: " in str(e.value)
    assert says != "no such key" or e.value.hint == "if some blocks of train have it, say which: when: {train: [...]}"


def test_a_reference_is_no_part_of_what_makes_a_sweep(tmp_path: Path) -> None:
    loaded = plan(tmp_path, "search.reference={train: vanilla, mix.weight: 0}", space=NAMED)
    assert loaded.recipe.search is not None
    assert loaded.recipe.search.reference == {"train": "vanilla", "mix.weight": 0}
    assert loaded.sweep_digest() == plan(tmp_path, space=NAMED).sweep_digest()
    assert plan(tmp_path).recipe.search.reference is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("{trian: vanilla}", "search.reference.trian: is not searched; did you mean 'train'?"),
        ("{adapter.rank: 4}", "search.reference.adapter.rank: is not searched"),
        ("{train: vanila}", "'vanila' is none of the values of that key; did you mean 'vanilla'? ('vanilla', 'pgd')"),
        ("{train.radius: 0.1}", "is searched in a range, which meets no value twice"),
        ("{mix.weight: 0.5}", "0.5 is none of the values"),
        ("{mix.weight: false}", "False is none of the values"),
        ("{train: vanilla, train.n_steps: 2}", "is searched only where train is 'pgd'"),
        ("{}", "at least 1"),
        ("vanilla", "must be a block of keys"),
        ("{train: [vanilla, pgd]}", "search.reference.train"),
    ],
)
def test_a_reference_that_no_point_can_be_is_refused(tmp_path: Path, reference: str, says: str) -> None:
    space = NAMED + "train.n_steps: {choice: [2, 3], when: {train: pgd}}\n"
    with pytest.raises(RecipeError) as e:
        plan(tmp_path, f"search.reference={reference}", space=space)
    assert says in str(e.value)
