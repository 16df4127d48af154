"""What there is to choose from: recipes, spaces, runs, and every kind that a recipe can name. Loads no tensor
library."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from robusweep import model as model_stage
from robusweep.adapters import AnyAdapter
from robusweep.attacks import AnyAttack, describe_attacks
from robusweep.attacks.protocol import PROTOCOLS
from robusweep.data import AnyData, describe_sources
from robusweep.errors import MissingError, UsageError, nearest
from robusweep.hub import hub_reachable
from robusweep.mixing import AnyMixer
from robusweep.recipe import AnySampler, Recipe
from robusweep.space import Dimension
from robusweep.training import AnyTraining
from robusweep.yaml_source import load_yaml

FAMILIES: dict[str, Any] = {
    "data": AnyData,
    "adapters": AnyAdapter,
    "methods": AnyTraining,
    "mixers": AnyMixer,
    "attacks": AnyAttack,
    "samplers": AnySampler,
}


def kinds(union: Any) -> dict[str, type[BaseModel]]:
    """The members of a discriminated union by the name they have in YAML."""
    inner = get_args(union)[0] if hasattr(union, "__metadata__") else union
    members = get_args(inner) if get_origin(inner) is Union or get_args(inner) else (inner,)
    return {member.model_fields["kind"].default: member for member in members}


def catalogue(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Every list that ``ls`` shows; each row has a name and a description."""
    found: dict[str, list[dict[str, Any]]] = {
        "recipes": [_file_row(p) for p in sorted((root / "recipes").glob("*.yaml"))],
        "spaces": [_file_row(p) for p in sorted((root / "search_spaces").glob("*.yaml"))],
        "runs": [
            {"name": p.parent.name, "description": str(p.parent)} for p in sorted((root / "runs").glob("*/sweep.json"))
        ],
    }
    for family, union in FAMILIES.items():
        found[family] = [{"name": kind, "description": _first_line(cls)} for kind, cls in kinds(union).items()]
    found["models"] = [
        {"name": name, "description": "embedded encoder, from a package"} for name in model_stage.EMBEDDED
    ] + [{"name": "any", "description": "a model hub name, or a folder with config.json and *.safetensors"}]
    found["protocols"] = [
        {"name": name, "description": ", ".join(f"{k}={v}" for k, v in p.model_dump(exclude={"name"}).items() if v)}
        for name, p in PROTOCOLS.items()
    ]
    return found


def _first_line(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _file_row(path: Path) -> dict[str, Any]:
    comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return {"name": str(path), "description": comment[0].lstrip("# ") if comment else ""}


def describe_kind(name: str) -> dict[str, Any]:
    """A kind's documentation and keys. Raises ``UsageError`` with the nearest name."""
    known = {kind: (family, cls) for family, union in FAMILIES.items() for kind, cls in kinds(union).items()}
    if name not in known:
        near = nearest(name, known)
        raise UsageError(
            f"there is nothing called {name!r}",
            hint=f"did you mean {near!r}?" if near else "robusweep ls lists every kind",
        )
    family, cls = known[name]
    keys = [
        {
            "name": key,
            "type": str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", ""),
            "default": "(required)" if field.is_required() else repr(field.default),
        }
        for key, field in cls.model_fields.items()
    ]
    return {"name": name, "family": family, "documentation": _dedented(cls.__doc__ or ""), "keys": keys}


def _dedented(text: str) -> str:
    from inspect import cleandoc

    return cleandoc(text)


def copy_recipe(source: Path, target: Path) -> list[Path]:
    """Copy a YAML file, and its search space beside it with the recipe's path kept valid. Never overwrites."""
    loaded = load_yaml(source)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise UsageError(f"{target} exists already", hint="give another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    search = loaded.tree.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    if not isinstance(space, str):
        shutil.copyfile(source, target)
        return [target]
    beside = target.with_name(f"{target.stem}.space.yaml")
    if beside.exists():
        raise UsageError(f"{beside} exists already", hint="give another name")
    space_file = source.parent / space
    if not space_file.is_file():
        raise MissingError(f"{source}: search.space: no such file: {space_file}")
    shutil.copyfile(space_file, beside)
    target.write_text(source.read_text(encoding="utf-8").replace(space, beside.name), encoding="utf-8")
    return [target, beside]


def json_schema(*, space: bool) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe, or of a search space."""
    if space:
        dimension = Dimension.model_json_schema()
        return {"title": "SearchSpace", "type": "object", "additionalProperties": dimension}
    return Recipe.model_json_schema()


def examine() -> list[dict[str, Any]]:
    """What ``doctor`` shows: a row for each thing that robusweep needs or can use."""
    rows = [_row("python", sys.version.split()[0], ok=sys.version_info >= (3, 11), required=True)]
    for package in ("torch", "transformers", "peft", "textattack", "optuna", "ray", "mlflow"):
        try:
            rows.append(_row(package, version(package), ok=True, required=True))
        except PackageNotFoundError:
            rows.append(_row(package, "not installed: make setup", ok=False, required=True))
    for name, (_, _, pin) in model_stage.EMBEDDED.items():
        try:
            detail, ok = f"in {model_stage.embedded_folder(name).name}/, from {pin}", True
        except MissingError as e:
            detail, ok = e.hint or e.message, False
        rows.append(_row(f"model {name}", detail, ok=ok, required=False))
    for source in describe_sources():
        detail = source["summary"] if source["available"] else source["how_to_get"]
        rows.append(_row(f"data {source['kind']}", detail, ok=bool(source["available"]), required=False))
    for attack in describe_attacks():
        detail = attack["description"] if attack["available"] else "; ".join(attack["missing"])
        rows.append(_row(f"attack {attack['name']}", detail, ok=bool(attack["available"]), required=False))
    reachable = hub_reachable()
    hub = "reachable" if reachable else "can't be reached: recipes use their declared stand-ins, with a notice"
    rows.append(_row("model hub", hub, ok=reachable, required=False))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    rows.append(_row("disk", f"{free:.0f} GiB free here", ok=free > 1, required=True))
    rows.append(_row("cpus", str(os.cpu_count()), ok=True, required=True))
    return rows


def _row(name: str, detail: str, *, ok: bool, required: bool) -> dict[str, Any]:
    return {"name": name, "ok": ok, "required": required, "detail": detail}
