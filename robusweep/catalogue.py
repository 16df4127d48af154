"""What there is to choose from: recipes, spaces, runs, and every kind that a recipe can name."""

from __future__ import annotations

import functools
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

from pydantic import BaseModel

from robusweep import model as model_stage
from robusweep.adapters import AnyAdapter
from robusweep.attacks import AnyAttack, describe_attacks
from robusweep.attacks.protocol import PROTOCOLS
from robusweep.data import AnyData, describe_sources
from robusweep.errors import MissingError, UsageError, nearest
from robusweep.hub import hub_reachable
from robusweep.mixing import AnyMixer
from robusweep.pruning import AnyPruning
from robusweep.recipe import NAME, AnySampler, Recipe, paths_in
from robusweep.record import write_text
from robusweep.space import Dimension
from robusweep.tickets import AnyTicket
from robusweep.training import AnyTraining
from robusweep.training.regularisers import AnyRegulariser
from robusweep.training.updates import AnyUpdate
from robusweep.yaml_source import KeyPath, Source, load_yaml

FAMILIES: dict[str, Any] = {
    "data": AnyData,
    "tickets": AnyTicket,
    "adapters": AnyAdapter,
    "methods": AnyTraining,
    "regularisers": AnyRegulariser,
    "updates": AnyUpdate,
    "mixers": AnyMixer,
    "prunings": AnyPruning,
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
        found[family] = [{"name": kind, "description": _summary(cls)} for kind, cls in kinds(union).items()]
    found["attacks"] = [row | {"description": f"{row['description']}{_not_here(row)}"} for row in _attack_rows()]
    found["models"] = [
        {"name": name, "description": "embedded encoder, from a package"} for name in model_stage.EMBEDDED
    ] + [{"name": "any", "description": "a model hub name, or a folder with config.json and *.safetensors"}]
    found["protocols"] = [
        {"name": name, "description": ", ".join(f"{k}={v}" for k, v in p.model_dump(exclude={"name"}).items() if v)}
        for name, p in PROTOCOLS.items()
    ]
    return found


def _attack_rows() -> list[dict[str, Any]]:
    """Every attack; ``stand_in`` is one that can run here, or None."""
    rows = describe_attacks()
    here = {row["name"] for row in rows if row["available"]}
    return [row | {"stand_in": row["stand_in"] if row["stand_in"] in here else None} for row in rows]


def _not_here(row: dict[str, Any]) -> str:
    if row["available"]:
        return ""
    return f" Not here: {row['stand_in']} runs in its place." if row["stand_in"] else " Not here: see robusweep doctor."


def _summary(cls: type[BaseModel]) -> str:
    """A source's own summary; of other kinds, the first paragraph of the documentation on one line."""
    own = getattr(cls, "summary", None)
    return own if isinstance(own, str) else " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())


def _file_row(path: Path) -> dict[str, Any]:
    comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return {"name": str(path), "description": comment[0].lstrip("# ") if comment else ""}


def describe_kind(name: str) -> list[dict[str, Any]]:
    """Documentation and keys of every kind of that name; ``tickets.magnitude`` is the one of a family.

    Raises ``UsageError`` with the nearest name.
    """
    known: dict[str, list[tuple[str, str, type[BaseModel]]]] = {}
    for family, union in FAMILIES.items():
        for kind, cls in kinds(union).items():
            for called in (kind, f"{family}.{kind}"):
                known.setdefault(called, []).append((family, kind, cls))
    if name not in known:
        near = nearest(name, known)
        raise UsageError(
            f"there is nothing called {name!r}",
            hint=f"did you mean {near!r}?" if near else "robusweep ls lists every kind",
        )
    return [
        {"name": kind, "family": family, "documentation": _dedented(cls.__doc__ or ""), "keys": _keys(cls)}
        for family, kind, cls in known[name]
    ]


def _keys(cls: type[BaseModel]) -> list[dict[str, str]]:
    return [
        {
            "name": key,
            "type": str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", ""),
            "default": "(required)" if field.is_required() else repr(field.default),
        }
        for key, field in cls.model_fields.items()
    ]


def _dedented(text: str) -> str:
    from inspect import cleandoc

    return cleandoc(text)


def copy_recipe(source: Path, target: Path) -> list[Path]:
    """Copy a YAML file, and its search space beside it; name and relative paths are made to fit. Never overwrites.

    Raises ``UsageError`` when something is there already, ``MissingError`` when the search space is not.
    """
    loaded = load_yaml(source)
    target = target / source.name if target.is_dir() else target
    written = {target: source}
    search = loaded.tree.get("search")
    if isinstance(search, dict) and isinstance(search.get("space"), str):
        beside = target.with_name(f"{target.stem}.space.yaml")
        written[beside] = source.parent / search["space"]
        if not written[beside].is_file():
            raise MissingError(f"{source}: search.space: no such file: {written[beside]}")
    for path in written:
        if path.exists():
            raise UsageError(f"{path} exists already", hint="give another name")
    texts = {path: original.read_text(encoding="utf-8") for path, original in written.items()}
    for key, value in _fitting(loaded, source, target).items():
        texts[target] = _with_value(texts[target], loaded, key, value)
    for path, text in texts.items():
        write_text(path, text.replace(f"robusweep run {source}", f"robusweep run {target}"))
    return list(written)


def _fitting(loaded: Source, source: Path, target: Path) -> dict[KeyPath, str]:
    """What a copy has to say instead: a name of its own, the copied space, and its relative paths from its folder."""
    fitting: dict[KeyPath, str] = {}
    if "name" in loaded.tree and re.fullmatch(NAME, target.stem):
        fitting[("name",)] = target.stem
    if ("search", "space") in loaded.values:
        fitting[("search", "space")] = f"{target.stem}.space.yaml"
    for key, value in paths_in(loaded.tree).items():
        moved = os.path.relpath(source.parent / value, target.parent)
        if not Path(value).is_absolute() and not value.startswith("~"):
            fitting[key] = moved if moved.startswith(".") else f"./{moved}"
    return fitting


def _with_value(text: str, loaded: Source, key: KeyPath, value: str) -> str:
    """The YAML text with one value replaced; comments and all else stay. Raises ``RecipeError`` for a folded value."""
    place, old = loaded.values[key], functools.reduce(operator.getitem, key, cast(Any, loaded.tree))
    lines = text.splitlines(keepends=True)
    row, column = (place.line or 1) - 1, place.column - 1
    rest = lines[row][column:]
    written = next((raw for raw in (f"'{old}'", f'"{old}"', str(old)) if rest.startswith(raw)), None)
    if written is None:
        raise loaded.error(key, "can't be rewritten for the copy", hint="write it on one line and without escapes")
    new = value if re.fullmatch(r"[A-Za-z./][\w./-]*", value) else json.dumps(value)
    lines[row] = f"{lines[row][:column]}{new}{rest.removeprefix(written)}"
    return "".join(lines)


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
    rows.append(_row("device", _device(), ok=True, required=False))
    for name, (_, _, pin) in model_stage.EMBEDDED.items():
        try:
            detail, ok = f"in {model_stage.embedded_folder(name).name}/, from {pin}", True
        except MissingError as e:
            detail, ok = e.hint or e.message, False
        rows.append(_row(f"model {name}", detail, ok=ok, required=False))
    for source in describe_sources():
        detail = source["summary"] if source["available"] else source["how_to_get"]
        rows.append(_row(f"data {source['kind']}", detail, ok=bool(source["available"]), required=False))
    for attack in _attack_rows():
        runs = f"{attack['stand_in']} runs in its place; " if attack["stand_in"] else ""
        detail = attack["description"] if attack["available"] else runs + "; ".join(attack["missing"])
        rows.append(_row(f"attack {attack['name']}", detail, ok=bool(attack["available"]), required=False))
    reachable = hub_reachable()
    hub = "reachable" if reachable else "can't be reached: recipes use their declared stand-ins, with a notice"
    rows.append(_row("model hub", hub, ok=reachable, required=False))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    rows.append(_row("disk", f"{free:.0f} GiB free here", ok=free > 1, required=True))
    rows.append(_row("cpus", str(os.cpu_count()), ok=True, required=True))
    return rows


def _device() -> str:
    """The accelerator, as the driver's own tool names it; PyTorch is not loaded for it."""
    if shutil.which("nvidia-smi") is None:
        return "cpu (no nvidia-smi found)"
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    return done.stdout.strip().replace("\n", "; ") or "cpu (nvidia-smi names no device)"


def _row(name: str, detail: str, *, ok: bool, required: bool) -> dict[str, Any]:
    return {"name": name, "ok": ok, "required": required, "detail": detail}
