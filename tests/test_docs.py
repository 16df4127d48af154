"""The documentation says what the code does: commands, options, paths, recipes, kinds and generated pages."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robusweep import cli, errors
from robusweep.attacks import PROTOCOLS, attack_kinds
from robusweep.catalogue import FAMILIES, kinds
from robusweep.evaluate import Answer
from robusweep.examples import Example
from robusweep.front import Point
from robusweep.recipe import load_recipe
from robusweep.record import AttackOutcome
from robusweep.scores import Rate

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").glob("*.md")])
COMMANDS: dict[str, Any] = runpy.run_path(str(ROOT / "docs/generate.py"))["commands"]()
MADE_LATER = {"docs/report.png"}  # drawn from a real run
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def options_of(verb: str) -> set[str]:
    names = {name for p in COMMANDS[verb].params for name in (*p.opts, *p.secondary_opts)}
    return {"--help"} | {name for name in names if name.startswith("--")}


ALL_OPTIONS = {"--version"} | {option for verb in COMMANDS for option in options_of(verb)}


def code_in(text: str) -> Iterator[str]:
    """Each inline code span, and each line of a code block without its comment."""
    for _, block in FENCE.findall(text):
        yield from (line.partition(" #")[0] for line in block.splitlines())
    rest = FENCE.sub("", text)
    yield from (line.partition(" #")[0].strip() for line in re.findall(r"^ {4}\S.*$", rest, re.MULTILINE))
    yield from (span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest))


def unknown_commands(text: str) -> list[str]:
    """Commands of robusweep in the text that do not exist, and options that their command does not have."""
    wrong = []
    for code in code_in(text):
        for verb, rest in re.findall(r"(?:^|[ /])robusweep ([a-z]\w*)([^|;]*)", code):
            group = [name for name in COMMANDS if name == " ".join([verb, *rest.split()[:1]])]
            verb = group[0] if group else verb
            if verb not in COMMANDS:
                wrong.append(f"robusweep {verb}")
                continue
            used = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest))
            wrong += [f"robusweep {verb} {option}" for option in used - options_of(verb)]
        if code.startswith("--") and code.split()[0] not in {*ALL_OPTIONS, "--no-deps"}:
            wrong.append(code)
    return wrong


def missing_targets(text: str) -> list[str]:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [m for code in code_in(text) for m in re.findall(r"^make ([a-z-]+)", code)]
    return [target for target in named if target not in targets]


def missing_paths(page: Path, text: str) -> list[str]:
    """Relative links, anchors and paths of the repository that lead nowhere."""
    wrong = []
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if str(file.relative_to(ROOT)) in MADE_LATER or "://" in target:
            continue
        if not file.exists() or (anchor and anchor not in anchors_of(file.read_text(encoding="utf-8"))):
            wrong.append(target)
    folders = "robusweep|recipes|search_spaces|docs|tests|bench"
    named = re.findall(rf"(?<![\w/.<`])`?((?:{folders})/[\w./*]+)", text)
    experiments = {f"robusweep/{path.stem}" for path in (ROOT / "recipes").glob("*.yaml")}
    return wrong + [n for n in named if n not in experiments | MADE_LATER and not any(ROOT.glob(n.rstrip("./")))]


def anchors_of(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_option_target_and_path_in_the_documentation_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert unknown_commands(text) == []
    assert missing_targets(text) == []
    assert missing_paths(page, text) == []


def test_what_does_not_exist_is_found() -> None:
    assert len(PAGES) >= 5
    assert unknown_commands("`robusweep conform x`") == ["robusweep conform"]
    assert unknown_commands("    robusweep run r.yaml --nme x  # --no\n") == ["robusweep run --nme"]
    assert unknown_commands("```\nrobusweep pareto x --pick knee\n```\nand `--nme`") == ["--nme"]
    assert missing_targets("    make nothing") == ["nothing"]
    text = "[a](docs/none.md) [b](docs/recipe.md#none) `robusweep/none.py` `recipes/agnews_mixup.yaml`"
    assert missing_paths(README, text) == ["docs/none.md", "docs/recipe.md#none", "docs/none.md", "robusweep/none.py"]


def test_the_readme_names_every_command_and_both_main_targets() -> None:
    text = README.read_text(encoding="utf-8")
    assert [verb for verb in COMMANDS if f"`robusweep {verb}`" not in text] == []
    assert {"make run", "make test"} <= {line.strip() for line in code_in(text)}


def test_generated_pages_are_what_the_code_says() -> None:
    stale = runpy.run_path(str(ROOT / "docs/generate.py"))["stale"]()
    assert stale == [], "write them with: python docs/generate.py"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readme_mentions_every_kind(family: str) -> None:
    text = README.read_text(encoding="utf-8")
    members = kinds(FAMILIES[family])
    assert members
    assert [kind for kind in members if f"`{kind}`" not in text] == []


def recipes_in(text: str) -> dict[str, str]:
    """Name -> text of each YAML block that begins with a comment naming its file."""
    blocks = [block for language, block in FENCE.findall(text) if language == "yaml"]
    return {m[1]: block for block in blocks if (m := re.match(r"# ([\w.]+\.yaml)\n", block))}


def test_the_recipes_of_the_readme_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe for one's own data is validated beside the files that it asks for; the others are in recipes/."""
    monkeypatch.delenv("ROBUSWEEP_DATA", raising=False)
    files = recipes_in(README.read_text(encoding="utf-8"))
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = [f'"review number {i}, with a comma",{i % 5 + 1}' for i in range(1300)]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars", *rows]) + "\n", encoding="utf-8")
    encoder = tmp_path / "my-encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    (encoder / "model.safetensors").write_bytes(b"")
    whole = [tmp_path / name for name, text in files.items() if "\nversion:" in text]
    assert whole
    for recipe in [*whole, *(ROOT / "recipes").glob("*.yaml")]:
        assert exit_code(["validate", str(recipe)], monkeypatch) == 0, capsys.readouterr().err
        assert "valid" in capsys.readouterr().out


def test_the_named_blocks_of_the_documentation_fit_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "version: 1\nname: a\ndata: {kind: trec}\nadapter: {kind: lora}\ntrain: {kind: standard}\n"
        "attacks: {known: [pwws]}\nsearch: {space: space.yaml, reference: {train: vanilla}}\n"
    )
    for page in (README, ROOT / "docs/recipe.md"):
        found = [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if "  grid:\n" in text]
        assert found
        for text in found:
            (tmp_path / "space.yaml").write_text(text)
            assert load_recipe(tmp_path / "recipe.yaml").space.dimensions["train"].blocks


def test_stand_ins_are_refused_as_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ROBUSWEEP_DATA", raising=False)
    recipe = str(ROOT / "recipes/agnews_mixup.yaml")
    assert exit_code(["validate", recipe, "data.stand_in=null", "model.stand_in=null"], monkeypatch) == 3
    assert "AG News cannot be had" in capsys.readouterr().err


def exit_code(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["robusweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    listed = set(map(int, re.findall(r"^\| (\d+) \| ", README.read_text(encoding="utf-8"), re.MULTILINE)))
    raised = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and hasattr(e, "exit_code")}
    assert raised
    assert listed == raised | {0, 4, 6, 130}


def test_the_json_that_the_readme_promises_is_what_a_point_holds() -> None:
    text = " ".join(README.read_text(encoding="utf-8").split())
    listed = re.search(r"gives a list of points, each with (.*?)\. ", text)
    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(Point.model_fields)
    reading = re.search(r"For a script\.\*\* (.*?) take `--json`", text)
    assert reading
    assert set(re.findall(r"`([\w ]+)`", reading[1])) == {verb for verb in COMMANDS if "--json" in options_of(verb)}


def test_the_json_that_the_readme_promises_is_what_an_attack_gives() -> None:
    text = README.read_text(encoding="utf-8")
    example = Example("a text", 0)
    answer = Answer(
        protocol=PROTOCOLS["standard_v1"],
        protocol_hash="0" * 16,
        label_names=("a", "b"),
        labels=("a",),
        examples=(example,),
        clean_accuracy=Rate.of(1, 1),
        robust_accuracy=Rate.of(1, 1),
        outcomes={"pwws": [AttackOutcome(example_id=example.id, label=0, status="survived", n_queries=9, n_words=2)]},
        predicted={},
        flags=[],
        stand_ins=[],
        temperature=None,
        n_computed=9,
    )
    summary = answer.summary()
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|$", text.split("| key | holds |")[1].split("\n\n")[0], re.MULTILINE)
    assert {key for keys, _ in rows for key in re.findall(r"`(\w+)`", keys)} == set(summary)
    of_attacks = next(holds for keys, holds in rows if "`attacks`" in keys)
    assert set(re.findall(r"`(\w+)`", outside_brackets(of_attacks))) == set(summary["attacks"]["pwws"])
    line = re.search(r"`--out` writes one JSON line(.*?)\. `--html`", " ".join(text.split()))
    assert line
    assert set(re.findall(r"`(\w+)`", outside_brackets(line[1]))) == set(answer.lines()[0])


def outside_brackets(text: str) -> str:
    return re.sub(r"\(.*?\)", "", text)


def test_every_embedded_package_and_every_substitution_is_explained() -> None:
    text = " ".join((ROOT / "docs/resources.md").read_text(encoding="utf-8").split())
    pins = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "embedded.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pins
    assert [pin for pin in pins if " ".join(pin) not in text] == []
    substitutions = [s for attack in attack_kinds().values() for s in attack.substitutions]
    assert substitutions
    assert [s for s in substitutions if s not in text] == []
