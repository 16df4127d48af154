"""Broken recipes, spaces and data files through the command line: exit code, place, key, hint, and nothing left
behind."""

from __future__ import annotations

import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from robusweep.cli import main
from robusweep.errors import RecipeError
from robusweep.hub import hub_reachable
from robusweep.recipe import load_recipe

RECIPE = """\
# A small recipe over a file of one's own.
version: 1
name: small
data:
  kind: csv
  path: reviews.csv
  n_train: 20
  n_validation: 12
  n_calibration: 6
  n_test: 6
model:
  base: ./encoder
adapter: {kind: lora, rank: 4}
train: {kind: standard, n_epochs: 1}
adversarial:
  - kind: pgd
    radius: 0.3
mix: {kind: adpmixup, weight: 0.5}
attacks:
  protocol: standard_v1
  known: [deepwordbug]
  n_examples: 4
search:
  space: space.yaml
  sampler: {kind: random}
  budget: {n_trials: 2}
resources: {executor: local}
"""

SPACE = """\
# A small space.
mix.weight: {grid: [0.0, 0.5, 1.0], after: training}
adversarial.0.radius: {log_uniform: [0.1, 0.6]}
adapter.rank: {choice: [4, 8]}
"""

CSV = "text,label\n" + "".join(f"number {i} is a {'good' if i % 2 else 'bad'} film,{i % 2}\n" for i in range(60))


@dataclass(frozen=True)
class Broken:
    """One mistake. ``edits``: (file, old text, new text), or a whole new content; None removes the file.

    ``line`` is a piece of the line that the message must name (``file:number``); ``says`` must all be in the message.
    """

    name: str
    code: int
    says: tuple[str, ...]
    edits: tuple[tuple[str, str, str], ...] = ()
    contents: dict[str, bytes | None] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    line: tuple[str, str] | None = None
    recipe: str = "recipe.yaml"


def typed(name: str, old: str, new: str, *says: str, line: str | None = None, file: str = "recipe.yaml") -> Broken:
    """A mistake in the text of the recipe or its space; the message names the line that holds ``line``."""
    return Broken(name, 2, says, edits=((file, old, new),), line=(file, line if line is not None else new))


def searched(name: str, line: str, *says: str) -> Broken:
    """A mistake in one more line of the space."""
    return typed(name, "adapter.rank: {choice: [4, 8]}", line, *says, file="space.yaml")


def given(name: str, file: str, content: str | None, *says: str) -> Broken:
    """A data or model file that is missing (None) or wrong; the message names it."""
    return Broken(name, 3, (file, *says), contents={file: None if content is None else content.encode("latin1")})


RECIPES = [
    typed("typo in a key", "adversarial:", "adverserial:", "adverserial", "unknown key", "did you mean 'adversarial'"),
    typed("typo in a nested key", "  n_train: 20", "  n_trian: 20", "data.n_trian", "did you mean 'n_train'"),
    typed("typo in a list item", "    radius: 0.3", "    raduis: 0.3", "adversarial.0.raduis", "did you mean 'radius'"),
    typed("text for a number", "n_epochs: 1", "n_epochs: many", "train.n_epochs", "valid integer", "'many'"),
    typed("a fraction for a count", "n_train: 20", "n_train: 20.5", "data.n_train", "valid integer", "20.5"),
    typed("a quoted number", "weight: 0.5", "weight: '0.5'", "mix.weight", "valid number", "'0.5'"),
    typed("a mapping for a list", "known: [deepwordbug]", "known: deepwordbug", "attacks.known", "valid list"),
    typed("a value for a block", "train: {kind: standard, n_epochs: 1}", "train: standard", "train", "'standard'"),
    typed("not a number", "weight: 0.5", "weight: .nan", "mix.weight", "'.nan'"),
    typed("unknown data", "kind: csv", "kind: cvs", "data.kind", "'cvs'", "did you mean 'csv'", "parquet"),
    typed("unknown adapter", "kind: lora", "kind: lore", "adapter.kind", "did you mean 'lora'", "full"),
    typed("unknown method", "kind: pgd", "kind: pdg", "adversarial.0.kind", "did you mean 'pgd'", "standard"),
    typed("unknown mixer", "kind: adpmixup", "kind: adpmix", "mix.kind", "did you mean 'adpmixup'"),
    typed("unknown attack", "[deepwordbug]", "[deepwordbugs]", "attacks.known.0", "did you mean 'deepwordbug'", "pwws"),
    typed("unknown sampler", "kind: random", "kind: randon", "search.sampler.kind", "did you mean 'random'", "nsga2"),
    typed("unknown protocol", "standard_v1", "standard_v2", "attacks.protocol", "did you mean 'standard_v1'"),
    typed("a block without its kind", "{kind: lora, rank: 4}", "{rank: 4}", "adapter", "'kind' is missing", "lora"),
    typed("negative radius", "radius: 0.3", "radius: -0.3", "adversarial.0.radius", "must be greater", "-0.3"),
    typed("rank 0", "rank: 4}", "rank: 0}", "adapter.rank", "greater than or equal to 1", "given 0"),
    typed("undefined ball", "radius: 0.3", "radius: {value: 0.3, norm: linf}", "adversarial.0.radius", "not defined"),
    typed("unbounded radius without a step", "radius: 0.3", "radius: null", "adversarial.0", "needs a step_size",
          line="kind: pgd"),
    typed("weight above 1", "weight: 0.5", "weight: 1.5", "mix.weight", "less than or equal to 1", "1.5"),
    typed("missing key", "name: small\n", "", "name", "required and missing", line=""),
    typed("missing nested key", "  path: reviews.csv\n", "", "data.path", "required and missing", line="data:"),
    typed("missing block", "train: {kind: standard, n_epochs: 1}\n", "", "train", "required and missing", line=""),
    typed("a name that is a path", "name: small", "name: ../small", "name", "'../small'"),
    typed("another version", "version: 1", "version: 2", "version", "must be 1", "given 2"),
    typed("repeated key", "  n_test: 6", "  n_test: 6\n  n_train: 30", "data.n_train", "repeated", "line 7",
          line="n_train: 30"),
    typed("tab for indentation", "  n_test: 6", "\tn_test: 6", "not valid YAML"),
    typed("wrong indentation", "  n_test: 6", "   n_test: 6", "not valid YAML"),
    typed("unclosed bracket", "[deepwordbug]", "[deepwordbug", "not valid YAML", line="n_examples: 4"),
    typed("metric that no attack of the suite measures", "  sampler:",
          "  objectives: [{metric: accuracy_under_attack.deepwordbag}]\n  sampler:",
          "search.objectives", "did you mean 'accuracy_under_attack.deepwordbug'", line="objectives"),
    typed("attack known and held out", "  n_examples: 4", "  held_out: [deepwordbug]\n  n_examples: 4", "attacks",
          "deepwordbug", "not both", line="attacks:"),
    typed("more examples than there are", "n_examples: 4", "n_examples: 13", "attacks.n_examples", "13", "12"),
    typed("nothing to mix", "adversarial:\n  - kind: pgd\n    radius: 0.3\n", "", "mix", "nothing to mix", line="mix:"),
    typed("no mixer", "mix: {kind: adpmixup, weight: 0.5}\n", "", "adversarial", "'mix' is needed", line="adversarial"),
    typed("space that is not there", "space: space.yaml", "space: spice.yaml", "search.space", "no such file",
          "did you mean", "space.yaml"),
    typed("alias", "weight: 0.5", "weight: *half", "not valid YAML", "aliases are not read here"),
    typed("tag", "rank: 4}", "rank: !!python/name:os.system ''}", "tags are not read here"),
    typed("tagged text", "rank: 4}", "rank: !!int four}", "'four' can't be read as int"),
    typed("list for a name", "name: small", "name: [small]", "name", "valid string"),
    typed("no list of attacks", "known: [deepwordbug]", "known: []", "attacks.known", "at least 1"),
    Broken("empty recipe", 2, ("recipe.yaml: ", "an empty file"), contents={"recipe.yaml": b""}),
    Broken("recipe of comments", 2, ("recipe.yaml: ", "an empty file"), contents={"recipe.yaml": b"# nothing\n"}),
    Broken("list for a recipe", 2, ("recipe.yaml", "found a list"), contents={"recipe.yaml": b"- version: 1\n"}),
    Broken("not UTF-8", 2, ("recipe.yaml", "not UTF-8", "byte 2"), contents={"recipe.yaml": b"# \xe9t\xe9\n"}),
    Broken("control character", 2, ("recipe.yaml", "not valid YAML"), contents={"recipe.yaml": b"name: a\x00b\n"}),
    Broken("nested deeply", 2, ("recipe.yaml", "nested too deeply"), contents={"recipe.yaml": b"a: " + b"[" * 999}),
    Broken("too long a name", 2, ("can't be read",), recipe="a" * 5000 + ".yaml"),
    Broken("no such recipe", 2, ("recipes.yaml: no such file", "did you mean recipe.yaml"), recipe="recipes.yaml"),
    Broken("no such folder", 2, ("nowhere", "there is no folder"), recipe="nowhere/recipe.yaml"),
    Broken("a folder for a recipe", 2, ("encoder",), recipe="encoder"),
]  # fmt: skip

OVERRIDES = [
    Broken("override of an unknown key", 2, ("train.epochs=2", "train.epochs", "'n_epochs'"), args=("train.epochs=2",)),
    Broken("override below a value", 2, ("name.first=a", "the recipe has no name.first"), args=("name.first=a",)),
    Broken("override of an item that is not there", 2, ("adversarial.1.radius=1", "adversarial.1"),
           args=("adversarial.1.radius=1",)),
    Broken("override without a value", 2, ("'train.n_epochs'", "expected key=value"), args=("train.n_epochs",)),
    Broken("override without a key", 2, ("'=2'", "expected key=value"), args=("=2",)),
    Broken("override with an empty part", 2, ("train..n_epochs=2", "expected key=value"), args=("train..n_epochs=2",)),
    Broken("override with a wrong block", 2, ("override 'adapter={kind: lorra}'", "adapter.kind", "mean 'lora'"),
           args=("adapter={kind: lorra}",)),
    Broken("override with a repeated key", 2, ("override 'adapter={a: 1, a: 2}'", "repeated"),
           args=("adapter={a: 1, a: 2}",)),
    Broken("override with a sign for an index", 2, ("adversarial.\u00b2", "no adversarial.\u00b2"),
           args=("adversarial.\u00b2.radius=1",)),
    Broken("override with a wrong value", 2, ("train.n_epochs=none", "train.n_epochs", "'none'"),
           args=("train.n_epochs=none",)),
    Broken("override with broken YAML", 2, ("attacks.known=[pwws", "attacks.known"), args=("attacks.known=[pwws",)),
    Broken("option that does not exist", 2, ("--n-trials",), args=("--n-trials", "3")),
]  # fmt: skip

SPACES = [
    searched("key that does not exist", "adapter.rnak: {choice: [4, 8]}", "adapter.rnak", "mean 'adapter.rank'"),
    searched("size of the data", "data.n_train: {choice: [10, 20]}", "data.n_train", "can't be searched"),
    searched("seed", "seed: {choice: [0, 1]}", "seed", "can't be searched"),
    searched("rank after training", "adapter.rank: {grid: [4, 8], after: training}", "adapter.rank", "only mix"),
    typed("weight before training", "grid: [0.0, 0.5, 1.0], after: training", "uniform: [0, 1]", "mix.weight",
          "after: training", file="space.yaml"),
    searched("rank 0", "adapter.rank: {choice: [4, 0]}", "adapter.rank=0", "greater than or equal to 1"),
    searched("fractional rank", "adapter.rank: {uniform: [1, 8]}", "adapter.rank=1.0", "valid integer"),
    typed("radius below 0", "log_uniform: [0.1, 0.6]", "uniform: [-1, 0.6]", "adversarial.0.radius=-1",
          "greater than or equal to 0", file="space.yaml"),
    typed("logarithm of 0", "log_uniform: [0.1, 0.6]", "log_uniform: [0, 0.6]", "adversarial.0.radius", "above 0",
          file="space.yaml"),
    typed("bounds the wrong way round", "log_uniform: [0.1, 0.6]", "log_uniform: [0.6, 0.1]", "adversarial.0.radius",
          "0.6 must be below the upper bound 0.1", file="space.yaml"),
    typed("one bound", "log_uniform: [0.1, 0.6]", "log_uniform: [0.1]", "adversarial.0.radius.log_uniform", "least 2",
          file="space.yaml"),
    searched("two kinds", "adapter.rank: {choice: [4, 8], integer: [1, 8]}", "adapter.rank", "choice, integer"),
    searched("no kind", "adapter.rank: {}", "adapter.rank", "exactly one of"),
    searched("typo in a kind", "adapter.rank: {choise: [4, 8]}", "adapter.rank.choise", "did you mean 'choice'"),
    searched("no block", "adapter.rank: [4, 8]", "adapter.rank", "expected a block", "[4, 8]"),
    searched("a value twice", "adapter.rank: {choice: [4, 4]}", "adapter.rank", "twice"),
    searched("condition on an unknown key", "adapter.rank: {choice: [4, 8], when: {adapter.kind: lora}}",
             "adapter.rank.when.adapter.kind", "does not search"),
    searched("condition on a value that is never there",
             "adapter.rank: {choice: [4, 8], when: {mix.weight: 0.7}, after: training}", "adapter.rank", "grid"),
    searched("list of lists", "adapter.targets: {choice: [[query]]}", "adapter.targets.choice.0"),
    Broken("two values that do not go together", 2,
           ("space.yaml:4: ", "adversarial.0.radius=null, adversarial.0.step_size=null gives no", "needs a step_size"),
           edits=(("recipe.yaml", "radius: 0.3", "radius: 0.3\n    step_size: 0.1"),
                  ("space.yaml", "{log_uniform: [0.1, 0.6]}", "{choice: [0.3, null]}"),
                  ("space.yaml", "adapter.rank: {choice: [4, 8]}", "adversarial.0.step_size: {choice: [0.1, null]}"))),
    typed("repeated dimension", "adapter.rank:", "mix.weight:", "mix.weight", "repeated", file="space.yaml"),
    Broken("empty space", 2, ("space.yaml", "an empty file"), contents={"space.yaml": b""}),
    Broken("two mistakes at once", 2, ("data.n_trian", "mix.weight", "recipe.yaml:7", "recipe.yaml:18"),
           edits=(("recipe.yaml", "n_train", "n_trian"), ("recipe.yaml", "0.5", "5"))),
]  # fmt: skip

MISSING = [
    given("no such data file", "reviews.csv", None, "there is no file"),
    given("no such column", "reviews.csv", CSV.replace("label", "lable"), "no column 'label'", "'lable'"),
    given("empty data file", "reviews.csv", "", "is empty"),
    given("a header and no rows", "reviews.csv", "text,label\n", "no rows"),
    given("missing label", "reviews.csv", CSV.replace("film,1\n", "film,\n", 1), "csv:3", "label is missing"),
    given("a comma too many", "reviews.csv", CSV.replace("1 is a", "1, is a", 1), "csv:3", "3 fields"),
    given("a quote that stays open", "reviews.csv", CSV.replace("number 1 ", '"number 1 ', 1), "not valid CSV"),
    given("data not UTF-8", "reviews.csv", CSV.replace("1 is a", "\xe9 is a", 1), "csv:3", "not UTF-8"),
    Broken("one class", 3, ("reviews", "one class only"),
           contents={"reviews.csv": CSV.replace(",0\n", ",1\n").encode()}),
    Broken("too few rows", 3, ("data.n_train", "10 different texts", "n_train 20"),
           contents={"reviews.csv": "\n".join(CSV.splitlines()[:11]).encode()}),
    Broken("no weights", 3, ("encoder", "no *.safetensors"), contents={"encoder/model.safetensors": None}),
    Broken("pickled weights only", 3, ("encoder", "safetensors only"),
           contents={"encoder/model.safetensors": None, "encoder/pytorch_model.bin": b"\x80\x04."}),
    Broken("no description of the model", 3, ("encoder", "config.json"), contents={"encoder/config.json": None}),
    Broken("no such model folder", 3, ("model.base", "encodre", "there is no folder"),
           edits=(("recipe.yaml", "./encoder", "./encodre"),)),
    Broken("hub model without a hub", 3, ("model.base", "'bert-base-uncased'", "stand_in"),
           edits=(("recipe.yaml", "base: ./encoder", "base: bert-base-uncased\n  stand_in: null"),)),
]  # fmt: skip

BROKEN = [*RECIPES, *OVERRIDES, *SPACES, *MISSING]
ALSO_RUN = BROKEN[::6]
FROM_A_SHELL = [(RECIPES, "typo in a nested key"), (OVERRIDES, "override of an unknown key"), (MISSING, "one class")]
STRANGE = [
    *(
        "null",
        "-1",
        "0",
        "1e999",
        "true",
        "'x'",
        '"\\0"',
        "\x01",
        "2026-01-01",
        "0x10",
        "1" * 5000,
        "\u2603",
        "\t",
        "",
        "#",
    ),
    *(
        "[]",
        "{}",
        "[[1]]",
        "{kind: pgd}",
        "{kind: [1]}",
        "{kind: null}",
        "{a: b, a: c}",
        "*a",
        "&b 1",
        "!!int x",
        "? x",
    ),
    *("~nobody/x", "- - -", "kind", "|\n  a", "[pwws, {kind: pwws}]", "{value: null, norm: linf, scope: coordinate}"),
]
KEYS = [
    "adapter",
    "adversarial.0",
    "adversarial.5",
    "attacks.known.0",
    "search.space",
    "data.path",
    "model.base",
    "a.b",
]
Command = Callable[..., "tuple[int, str]"]


def cases(broken: list[Broken]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("broken", broken, ids=[b.name.replace(" ", "-") for b in broken])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid recipe with its space, data and model folder, as the working folder; the hub is off."""
    files = {"recipe.yaml": RECIPE, "space.yaml": SPACE, "reviews.csv": CSV}
    files |= {"encoder/config.json": "{}", "encoder/model.safetensors": ""}
    (tmp_path / "encoder").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("ROBUSWEEP_CACHE", str(tmp_path / "cache"))
    hub_reachable.cache_clear()
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process: (exit code, stderr)."""

    def call(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["robusweep", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def break_it(folder: Path, broken: Broken) -> None:
    for file, old, new in broken.edits:
        text = (folder / file).read_text()
        assert old in text, "the case does not edit anything"
        (folder / file).write_text(text.replace(old, new, 1))
    for file, content in broken.contents.items():
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)


def check(folder: Path, broken: Broken, code: int, said: str) -> None:
    assert code == broken.code, said
    assert "Traceback" not in said
    missing = [text for text in broken.says if text not in said]
    assert not missing, said
    if broken.line is not None:
        file, piece = broken.line
        numbers = [
            i for i, line in enumerate((folder / file).read_text().splitlines(), 1) if piece.split("\n")[0] in line
        ]
        places = [f"{file}:{number}: " for number in numbers] if piece else [f"{file}: ", f"{file}:1: ", f"{file}:2: "]
        assert any(place in said for place in places), said


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_recipe_that_the_cases_break_is_valid(folder: Path, command: Command) -> None:
    assert command("validate", "recipe.yaml") == (0, "")


def test_there_are_many_cases_and_each_has_a_name_of_its_own() -> None:
    assert len({b.name for b in BROKEN if b not in SPACES}) + len(SPACES) == len(BROKEN) > 60


@cases(BROKEN)
def test_validate_names_the_place_and_the_mistake(folder: Path, command: Command, broken: Broken) -> None:
    break_it(folder, broken)
    before = tree(folder)
    code, said = command("validate", broken.recipe, *broken.args)
    check(folder, broken, code, said)
    assert tree(folder) == before


@cases(ALSO_RUN)
def test_run_refuses_it_alike_and_leaves_no_run_and_no_cache(folder: Path, command: Command, broken: Broken) -> None:
    break_it(folder, broken)
    before = tree(folder)
    code, said = command("run", broken.recipe, *broken.args)
    check(folder, broken, code, said)
    assert tree(folder) == before


@cases([next(b for b in group if b.name == name) for group, name in FROM_A_SHELL])
def test_from_a_shell_it_takes_seconds_and_shows_no_traceback(folder: Path, broken: Broken) -> None:
    break_it(folder, broken)
    before = tree(folder)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "robusweep", "validate", broken.recipe, *broken.args]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    check(folder, broken, ended.returncode, ended.stderr)
    assert ended.stdout == ""
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent < 3
    assert tree(folder) == before


def test_whatever_is_written_into_a_recipe_or_a_space_is_valid_or_refused(folder: Path) -> None:
    rng, refused = random.Random(0), []
    for _ in range(400):
        for file, text in {"recipe.yaml": RECIPE, "space.yaml": SPACE}.items():
            parts = re.split(r"([\s:,{}\[\]]+)", text)
            for _ in range(rng.choice([0, 1, 2])):
                parts[rng.randrange(len(parts))] = rng.choice(STRANGE)
            (folder / file).write_text("".join(parts))
        try:
            load_recipe("recipe.yaml", rng.choice([[], [f"{rng.choice(KEYS)}={rng.choice(STRANGE)}"]]))
        except RecipeError as e:
            refused.append(e.message)
    assert len(refused) > 100
    placed = re.compile(r"recipe\.yaml|space\.yaml|override |.*expected key=value")
    assert [message for message in refused if not placed.match(message) or "Input should" in message] == []


def test_an_override_mends_what_the_recipe_breaks(folder: Path, command: Command) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("kind: lora, rank: 4", "kind: lore, rank: 0"))
    assert command("validate", "recipe.yaml")[0] == 2
    assert command("validate", "recipe.yaml", "adapter={kind: lora}", "adapter.rank=2") == (0, "")
