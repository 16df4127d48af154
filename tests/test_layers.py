"""Imports point down: a checker over every module, and its twin on a tree that breaks each rule."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import robusweep

PACKAGE = Path(robusweep.__file__).parent
LAYERS = {
    0: "errors spec examples record scores seeds storage cache queries packed packed_blend race halving hub front "
    "progress environment reference pick gate membership shipped mixture units memory hypervolume",
    1: "data model adapters tickets training mixing pruning attacks analysis",
    2: "yaml_source recipe resources space space_check",
    3: "assignment stored lent defended ground ticketed pruned shipping standalone "
    "onnx_folder costs scoring trained halfway trial tracking evaluate predict",
    4: "sweep report catalogue micro_benchmark pilot plan upkeep compare restored confirm export",
    5: "cli display __main__",
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names.split()}
ONLY_IN = {"mlflow": "tracking", "ray": "sweep", "optuna": "sweep"}
HEAVY = {"torch", "transformers", "peft", "textattack", "datasets", "pandas", "matplotlib", "ray", "optuna", "mlflow"}


@dataclass(frozen=True)
class Import:
    """One imported module, as a dotted name. ``at_import``: it runs when the importing module is loaded."""

    line: int
    name: str
    at_import: bool


def modules(package: Path) -> dict[str, Path]:
    """Every module below the package by its dotted name; a package stands for its ``__init__``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, name: str) -> list[Import]:
    """All imports of a module, those inside functions and under ``TYPE_CHECKING`` included."""
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), name, path.name == "__init__.py", True))


def _imports(node: ast.AST, name: str, is_package: bool, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(child.lineno, alias.name, at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            level = child.level - is_package if child.level else 0
            above = name.rsplit(".", level)[0] if level else name
            base = ".".join(filter(None, (above, child.module))) if child.level else str(child.module)
            yield Import(child.lineno, base, at_import)
            yield from (Import(child.lineno, f"{base}.{alias.name}", at_import) for alias in child.names)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, name, is_package, False)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.body, []), name, is_package, False)
            yield from _imports(ast.Module(child.orelse, []), name, is_package, at_import)
        else:
            yield from _imports(child, name, is_package, at_import)


def part_of(module: str) -> str | None:
    """The first name below the package: the row of the table that a module belongs to."""
    return module.split(".")[1] if "." in module else None


def violations(package: Path) -> list[str]:
    """Every import that breaks the layering, as ``module:line: what``."""
    known, found = modules(package), []
    for module, path in known.items():
        part = part_of(module)
        if part is None:
            continue
        if part not in LAYER_OF:
            found.append(f"{module}:1: {part} has no layer")
            continue
        for one in imports(path, module):
            top = one.name.split(".")[0]
            if ONLY_IN.get(top, part) != part:
                found.append(f"{module}:{one.line}: only {ONLY_IN[top]} imports {top}")
            target = part_of(one.name) if top == package.name else None
            if target in LAYER_OF and target != part:
                found += [f"{module}:{one.line}: {says}" for says in _wrong(part, str(target))]
    return sorted(set(found) | set(_heavy_at_import(package, known)))


def _wrong(part: str, target: str) -> list[str]:
    own, other = LAYER_OF[part], LAYER_OF[target]
    says = [f"{part} (layer {own}) imports {target} (layer {other})"] if other > own else []
    if own == other == 1:
        says.append(f"{part} and {target} are both stages")
    if part == "report" and other > 0:
        says.append(f"report reads records alone, and imports {target}")
    return says


def _heavy_at_import(package: Path, known: dict[str, Path]) -> Iterator[str]:
    """Heavy libraries that load with the command line, or with what a command imports first of all."""
    cli = f"{package.name}.cli"
    waiting = [cli, *(one.name for one in imports(known[cli], cli))]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in known:
            continue
        seen.add(module)
        waiting += [".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)]
        for one in imports(known[module], module):
            if one.at_import:
                waiting.append(one.name)
                if one.name.split(".")[0] in HEAVY:
                    yield f"{module}:{one.line}: {one.name.split('.')[0]} loads with the command line"


def test_every_module_has_a_layer_and_imports_point_down() -> None:
    assert violations(PACKAGE) == []


def test_the_checker_sees_the_modules_and_their_imports() -> None:
    known = modules(PACKAGE)
    assert {part_of(module) for module in known} - {None} <= set(LAYER_OF)
    assert len(known) > 50
    inner = [one for one in imports(known["robusweep.cli"], "robusweep.cli") if not one.at_import]
    assert "robusweep.recipe" in {one.name for one in inner}
    assert "torch" in {one.name for one in imports(known["robusweep.training.loop"], "robusweep.training.loop")}


PLAIN = {
    "__init__.py": "",
    "cli.py": "from fake.recipe import a\n",
    "recipe.py": "from fake.data import a\n",
    "data/__init__.py": "",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A package that breaks nothing, with some of its files added or replaced."""
    package = folder / "fake"
    for name, text in (PLAIN | files).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_a_tree_that_breaks_nothing_has_no_violation(tmp_path: Path) -> None:
    allowed = {
        "sweep/__init__.py": "import optuna\nfrom fake.report import a\n",
        "tracking/__init__.py": "def ui():\n    import mlflow\n",
        "model.py": "import typing\nif typing.TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n",
        "training/__init__.py": "",
        "training/loop.py": "import torch\nfrom fake.seeds import a\nfrom . import embedding\n",
        "training/embedding.py": "import torch\n",
        "report.py": "from fake.front import a\n",
        "seeds.py": "",
        "front.py": "from fake.seeds import a\n",
    }
    package = tree(tmp_path, allowed)
    assert len(modules(package)) == len(PLAIN) + len(allowed)
    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("recipe.py", "from fake.trial import a\n", "fake.recipe:1: recipe (layer 2) imports trial (layer 3)"),
        ("seeds.py", "def f():\n    import fake.recipe\n", "fake.seeds:2: seeds (layer 0) imports recipe (layer 2)"),
        ("trial.py", "from fake import sweep\n", "fake.trial:1: trial (layer 3) imports sweep (layer 4)"),
        ("sweep.py", "from .cli import a\n", "fake.sweep:1: sweep (layer 4) imports cli (layer 5)"),
        ("training/loop.py", "from ..data import a\n", "fake.training.loop:1: training and data are both stages"),
        ("model.py", "def f():\n    from fake.data import a\n", "fake.model:2: model and data are both stages"),
        ("report.py", "from fake.recipe import a\n", "fake.report:1: report reads records alone, and imports recipe"),
        ("report.py", "def f():\n    from fake import data\n",
         "fake.report:2: report reads records alone, and imports data"),
        ("sweep.py", "def f():\n    import mlflow.client\n", "fake.sweep:2: only tracking imports mlflow"),
        ("trial.py", "def f():\n    from ray import tune\n", "fake.trial:2: only sweep imports ray"),
        ("trial.py", "def f():\n    import optuna\n", "fake.trial:2: only sweep imports optuna"),
        ("helpers.py", "", "fake.helpers:1: helpers has no layer"),
        ("cli.py", "import torch\n", "fake.cli:1: torch loads with the command line"),
        ("recipe.py", "import torch.nn\n", "fake.recipe:1: torch loads with the command line"),
        ("data/__init__.py", "class A:\n    import peft\n", "fake.data:2: peft loads with the command line"),
        ("data/__init__.py", "try:\n    import textattack\nexcept ImportError:\n    pass\n",
         "fake.data:2: textattack loads with the command line"),
        ("data/__init__.py", "if True:\n    from transformers import a\n",
         "fake.data:2: transformers loads with the command line"),
    ],
)  # fmt: skip
def test_the_checker_reports_each_broken_rule(tmp_path: Path, file: str, text: str, says: str) -> None:
    assert violations(tree(tmp_path, {file: text})) == [says]


def test_a_heavy_library_is_found_behind_a_parent_package_and_an_import_inside_a_command(tmp_path: Path) -> None:
    files = {
        "cli.py": "def run():\n    from fake.sweep.run import a\n",
        "sweep/__init__.py": "import ray\n",
        "sweep/run.py": "",
    }
    package = tree(tmp_path, files)
    assert violations(package) == ["fake.sweep:1: ray loads with the command line"]
