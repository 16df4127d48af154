"""YAML with line numbers: a tree of plain values, and where in which file each of them stands.

The loader refuses repeated keys and knows the scalars that a recipe needs: ``2e-4`` is a number, ``no`` and ``on``
are
text, ``012`` and ``1:30`` are text (PyYAML alone reads a string, False, True, 10 and 90).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from robusweep.errors import RecipeError, nearest

KeyPath = tuple[str | int, ...]
MAX_BYTES = 1_000_000  # a recipe is a page of text; anything larger is the wrong file


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?$", list("-+0123456789")),
    ("float", r"^[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
for _tag in ("int", "float"):  # a number with a leading zero (012) is text, not octal
    _Loader.yaml_implicit_resolvers["0"] = [
        (tag, re.compile(r"^0(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?$") if tag.endswith("float") else pattern)
        for tag, pattern in _Loader.yaml_implicit_resolvers["0"]
    ]


@dataclass(frozen=True)
class Place:
    """Where a value or key stands. ``line`` and ``column`` count from 1; an override has a name instead."""

    file: str
    line: int | None = None
    column: int = 1
    text: str = ""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def excerpt(self) -> str:
        """The line and a caret below the place, or nothing for an override."""
        return f"\n    {self.text}\n    {' ' * (self.column - 1)}^" if self.line is not None else ""


@dataclass
class Source:
    """A parsed YAML file: the tree, and the places of its keys and values by path."""

    file: str
    tree: dict[str, Any]
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)

    def place(self, path: KeyPath, *, of_key: bool = False) -> Place:
        """The place of ``path``, or of its nearest parent that the document has."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            first, second = (self.keys, self.values) if of_key or length < len(path) else (self.values, self.keys)
            found = first.get(part) or second.get(part)
            if found is not None:
                return found
        return Place(self.file)

    def error(self, path: KeyPath, message: str, *, of_key: bool = False, hint: str | None = None) -> RecipeError:
        """``file:line: dotted.key: message`` with the line and a caret."""
        place = self.place(path, of_key=of_key)
        dotted = ".".join(map(str, path))
        return RecipeError(f"{place}: {dotted + ': ' if dotted else ''}{message}{place.excerpt()}", hint=hint)


def load_yaml(path: str | Path) -> Source:
    """Parse one YAML mapping. Raises ``RecipeError`` with file and line for anything that is wrong with the
    text."""
    file, name = Path(path), str(path)
    if not file.is_file():
        raise RecipeError(f"{name}: no such file", hint=_similar_files(file))
    if file.stat().st_size > MAX_BYTES:
        raise RecipeError(f"{name}: {file.stat().st_size} bytes is too long for a recipe (at most {MAX_BYTES})")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise RecipeError(f"{name}: not UTF-8 text (byte {e.start})", hint="save the file as UTF-8") from None
    lines = text.splitlines()
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = _place(name, lines, mark) if mark else Place(name)
        raise RecipeError(f"{place}: not valid YAML: {e.problem}{place.excerpt()}") from None
    except yaml.YAMLError as e:
        raise RecipeError(f"{name}: not valid YAML: {e}") from None
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{name}: expected a mapping of keys to values, found {_kind(node)}")
    source = Source(name, {})
    source.tree = _build(node, (), source, lines)
    return source


def _kind(node: yaml.Node | None) -> str:
    if node is None:
        return "an empty file"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _similar_files(file: Path) -> str | None:
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    near = nearest(file.name, (p.name for p in file.parent.glob("*.y*ml")))
    return f"did you mean {file.parent / near}?" if near else None


def _place(name: str, lines: list[str], mark: Any) -> Place:
    text = lines[mark.line] if mark.line < len(lines) else ""
    return Place(name, mark.line + 1, mark.column + 1, text)


def _build(node: yaml.Node, path: KeyPath, source: Source, lines: list[str]) -> Any:
    source.values[path] = _place(source.file, lines, node.start_mark)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(source.file, lines, key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{place}: a key must be plain text{place.excerpt()}")
            key = key_node.value
            if key in mapping:
                first = source.keys[(*path, key)].line
                dotted = ".".join(map(str, (*path, key)))
                raise RecipeError(
                    f"{place}: {dotted}: the key is repeated (first on line {first}){place.excerpt()}",
                    hint="keep one of the two",
                )
            source.keys[(*path, key)] = place
            mapping[key] = _build(value_node, (*path, key), source, lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, i), source, lines) for i, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        kind = node.tag.rsplit(":", 1)[-1]
        if kind not in {"null", "bool", "int", "float", "str"}:
            return node.value
        return loader.construct_object(node)
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """One YAML value from the command line: ``0.3``, ``[1, 2]``, ``{kind: pgd}``, ``null``, or text."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    return None if node is None else _build(node, (), Source("", {}), text.splitlines() or [""])


def split_key(dotted: str) -> KeyPath:
    """``adversarial.0.radius`` as a path: parts that are digits index lists."""
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))


def assign(tree: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of the tree with the value at ``path`` replaced; missing mappings on the way are made.

    Raises ``KeyError`` with the part of the path that cannot be entered.
    """
    copy: Any = dict(tree)
    inner: Any = copy
    for i, part in enumerate(path):
        last = i == len(path) - 1
        if isinstance(inner, list):
            if not isinstance(part, int) or not 0 <= part < len(inner):
                raise KeyError(".".join(map(str, path[: i + 1])))
        elif isinstance(part, int):
            raise KeyError(".".join(map(str, path[: i + 1])))
        if last:
            inner[part] = value
            break
        child = inner[part] if isinstance(inner, list) else inner.get(part, {})
        if not isinstance(child, dict | list):
            raise KeyError(".".join(map(str, path[: i + 2])))
        inner[part] = dict(child) if isinstance(child, dict) else list(child)
        inner = inner[part]
    result: dict[str, Any] = copy
    return result


def override(source: Source, assignments: list[str]) -> Source:
    """The source with ``key=value`` assignments of the command line applied; errors then name the assignment."""
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{text!r}: expected key=value", hint="for example train.n_epochs=2")
        path = split_key(key.strip())
        try:
            tree = assign(source.tree, path, parse_value(value))
        except KeyError as e:
            raise RecipeError(f"{text}: {e.args[0]}: there is nothing to set below this key") from None
        place = Place(f"override {text!r}")
        places = {path: place}
        source = Source(source.file, tree, {**source.keys, **places}, {**source.values, **places})
    return source


def recipe_error(source: Source, model: type[BaseModel], error: ValidationError) -> RecipeError:
    """All mistakes of a document as one error: file:line, dotted key, what was given, what is allowed."""
    rows = [_describe(source, model, detail) for detail in error.errors(include_url=False)]
    return RecipeError("\n".join(dict.fromkeys(rows)))


def _describe(source: Source, model: type[BaseModel], detail: ErrorDetails) -> str:
    path = _document_path(source, detail["loc"])
    kind, given = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        allowed = sorted(_fields_at(model, detail["loc"][:-1]))
        near = nearest(str(path[-1]), allowed)
        says = f"unknown key{f'; did you mean {near!r}?' if near else ''} (allowed: {', '.join(allowed)})"
        place = source.place(path, of_key=True)
    elif kind == "missing":
        says, place = "this key is required and missing", source.place(path[:-1], of_key=True)
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        tags = str(detail.get("ctx", {}).get("expected_tags") or "")
        allowed = (
            [tag.strip().strip("'") for tag in tags.split(",")] if tags else sorted(_tags_at(model, detail["loc"]))
        )
        tag = given.get("kind") if isinstance(given, Mapping) else None
        near = nearest(str(tag), allowed) if tag is not None else None
        what = f"unknown kind {tag!r}" if tag is not None else "the key 'kind' is missing"
        says = f"{what}{f'; did you mean {near!r}?' if near else ''} (allowed: {', '.join(allowed)})"
        path = (*path, "kind") if tag is not None else path
        place = source.place(path)
    else:
        message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if kind == "literal_error" and isinstance(given, str):
            near = nearest(given, re.findall(r"'([^']*)'", message))
            message += f"; did you mean {near!r}?" if near else ""
        says = message if isinstance(given, Mapping | list | BaseModel) else f"{message}, given {given!r}"
        place = source.place(path)
    dotted = ".".join(map(str, path))
    return f"{place}: {dotted + ': ' if dotted else ''}{says}{place.excerpt()}"


def _document_path(source: Source, loc: tuple[str | int, ...]) -> KeyPath:
    """The error's location without the union tags that pydantic puts into it."""
    path: KeyPath = ()
    for i, part in enumerate(loc):
        known = (*path, part) in source.keys or (*path, part) in source.values
        if known or (i == len(loc) - 1 and not str(part).startswith("function-")):
            path = (*path, part)
    return path


def _members(annotation: Any) -> Iterator[Any]:
    """The plain types inside an annotation: unions, Annotated, list and Optional are opened."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType, list):
        for part in get_args(annotation):
            yield from _members(part)
    else:
        yield annotation


def _models_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[type[BaseModel]]:
    current: list[type[BaseModel]] = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged = [m for m in current if part in _kinds(m)]
        if tagged:
            current = tagged
            continue
        fields = [m.model_fields[part] for m in current if part in m.model_fields]
        if fields:
            found = [t for f in fields for t in _members(f.annotation)]
            current = [t for t in found if isinstance(t, type) and issubclass(t, BaseModel)]
    return current


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    annotation = model.model_fields["kind"].annotation if "kind" in model.model_fields else None
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    return {name for m in _models_at(model, loc) for name in m.model_fields}


def _tags_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    return {str(tag) for m in _models_at(model, loc) for tag in _kinds(m)}
