"""YAML with line numbers: a tree of plain values, and where in which file each of them stands.

The loader refuses repeated keys, aliases and tags, and knows the scalars that a recipe needs: ``2e-4`` is a number,
``no`` and ``on`` are text, ``012`` and ``1:30`` are text (PyYAML alone reads a string, False, True, 10 and 90).
"""

from __future__ import annotations

import json
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

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses aliases: they can hold themselves, or unfold without end."""
        if self.check_event(yaml.AliasEvent):
            alias: Any = self.get_event()  # type: ignore[no-untyped-call]
            says = "aliases are not read here; write the value out"
            raise yaml.composer.ComposerError(None, None, says, alias.start_mark)
        return super().compose_node(parent, index)


_WHOLE, _POWER = r"(?:0|[1-9][0-9_]*)", r"(?:[eE][-+]?[0-9]+)?"  # a leading zero makes text: 012 is no number
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", rf"^[-+]?{_WHOLE}$", list("-+0123456789")),
    ("float", rf"^[-+]?{_WHOLE}(?:\.[0-9_]*)?{_POWER}$", list("-+0123456789")),
    ("float", rf"^[-+]?\.[0-9][0-9_]*{_POWER}$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


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
        return RecipeError(f"{place}: {dotted(path) + ': ' if path else ''}{message}{place.excerpt()}", hint=hint)


def load_yaml(path: str | Path) -> Source:
    """Parse one YAML mapping. Raises ``RecipeError`` with file and line for anything that is wrong with the text."""
    name, text = str(path), _read(Path(path))
    lines = text.splitlines()
    try:
        node = yaml.compose(text, Loader=_Loader)
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{name}: expected a mapping of keys to values, found {_kind(node)}")
        source = Source(name, {})
        source.tree = _build(node, (), source, lines)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = _place(name, lines, mark) if mark else Place(name)
        says = ", ".join(part for part in (e.context, e.problem) if part)
        raise RecipeError(f"{place}: not valid YAML: {says}{place.excerpt()}") from None
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise RecipeError(f"{name}:{line}: not valid YAML: a control character ({text[e.position]!r})") from None
    except RecursionError:
        raise RecipeError(f"{name}: not a recipe: values are nested too deeply") from None
    return source


def _read(file: Path) -> str:
    try:
        if file.is_dir():
            raise RecipeError(f"{file}: a folder, not a file", hint="name the YAML file inside it")
        if not file.is_file():
            raise RecipeError(f"{file}: no such file", hint=similar_files(file))
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{file}: {file.stat().st_size} bytes is too long for a recipe (at most {MAX_BYTES})")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise RecipeError(f"{file}: not UTF-8 text (byte {e.start})", hint="save the file as UTF-8") from None
    except OSError as e:
        raise RecipeError(f"{file}: can't be read: {e.strerror}") from None


def _kind(node: yaml.Node | None) -> str:
    if node is None:
        return "an empty file"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def similar_files(file: Path) -> str | None:
    """A hint for a YAML file that is not there: the one most like it, or that its folder is missing."""
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    near = nearest(file.name, (p.name for p in file.parent.glob("*.y*ml")))
    return f"did you mean {file.parent / near}?" if near else None


def _place(name: str, lines: list[str], mark: Any) -> Place:
    text = lines[mark.line] if mark.line < len(lines) else ""
    return Place(name, mark.line + 1, mark.column + 1, text)


def _build(node: yaml.Node, path: KeyPath, source: Source, lines: list[str]) -> Any:
    place = _place(source.file, lines, node.start_mark)
    if path:
        source.values[path] = place
    if node.tag.removeprefix("tag:yaml.org,2002:") not in {"map", "seq", "null", "bool", "int", "float", "str"}:
        raise RecipeError(f"{place}: tags are not read here, given {node.tag}{place.excerpt()}")
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, source, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, i), source, lines) for i, item in enumerate(node.value)]
    if "\0" in node.value:
        raise RecipeError(f"{place}: a text can't hold the character \\0{place.excerpt()}")
    loader = _Loader("")
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError):
        kind = node.tag.rpartition(":")[2]
        raise RecipeError(f"{place}: {node.value[:40]!r} can't be read as {kind}{place.excerpt()}") from None
    finally:
        loader.dispose()


def _build_mapping(node: yaml.MappingNode, path: KeyPath, source: Source, lines: list[str]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _place(source.file, lines, key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{place}: a key must be plain text{place.excerpt()}")
        key = key_node.value
        if key in mapping:
            first = source.keys[(*path, key)].line
            raise RecipeError(
                f"{place}: {dotted((*path, key))}: the key is repeated (first on line {first}){place.excerpt()}",
                hint="keep one of the two",
            )
        source.keys[(*path, key)] = place
        mapping[key] = _build(value_node, (*path, key), source, lines)
    return mapping


def parse_value(text: str) -> Any:
    """One YAML value from the command line: ``0.3``, ``[1, 2]``, ``{kind: pgd}``, ``null``, or text."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        return text
    return None if node is None else _build(node, (), Source("", {}), text.splitlines() or [""])


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def split_key(key: str) -> KeyPath:
    """``adversarial.0.radius`` as a path: parts that are digits index lists."""
    return tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in key.split("."))


def assign(tree: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of the tree with the value at ``path`` replaced; missing mappings on the way are made.

    Raises ``KeyError`` with the part of the path that cannot be entered.
    """
    copy: Any = dict(tree)
    inner: Any = copy
    for i, part in enumerate(path):
        is_index = isinstance(part, int) and isinstance(inner, list) and part < len(inner)
        if not is_index and not (isinstance(part, str) and isinstance(inner, dict)):
            raise KeyError(dotted(path[: i + 1]))
        if i == len(path) - 1:
            inner[part] = value
            break
        child = inner.get(part, {}) if isinstance(inner, dict) else inner[part]
        if isinstance(child, dict | list):
            child = child.copy()
        inner[part], inner = child, child
    result: dict[str, Any] = copy
    return result


def override(source: Source, assignments: list[str]) -> Source:
    """The source with ``key=value`` assignments of the command line applied; errors then name the assignment."""
    for text in assignments:
        key, equals, value = text.partition("=")
        path = split_key(key.strip())
        if not equals or "" in path:
            raise RecipeError(f"{text!r}: expected key=value", hint="for example train.n_epochs=2")
        place = Place(f"override {text!r}")
        try:
            tree = assign(source.tree, path, parse_value(value))
        except KeyError as e:
            raise RecipeError(f"{place}: the recipe has no {e.args[0]} that could be set") from None
        except RecipeError as e:
            raise RecipeError(f"{place}: {e.message.split(': ', 1)[1].splitlines()[0]}", hint=e.hint) from None
        keys, values = (_outside(path, places) | {path: place} for places in (source.keys, source.values))
        source = Source(source.file, tree, keys, values)
    return source


def _outside(path: KeyPath, places: dict[KeyPath, Place]) -> dict[KeyPath, Place]:
    """The places that are not at or below ``path``."""
    return {other: place for other, place in places.items() if other[: len(path)] != path}


class BlockError(ValueError):
    """A mistake that a validator of a whole block finds in one key of it, given by its path below the block."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.path = split_key(key)


def recipe_error(source: Source, model: type[BaseModel], error: ValidationError, below: KeyPath = ()) -> RecipeError:
    """All mistakes of the block at ``below`` as one error: file:line, dotted key, what was given, what is allowed."""
    rows = [source.error(path, says, of_key=key).message for path, says, key in mistakes(source, model, error, below)]
    return RecipeError("\n".join(dict.fromkeys(rows)))


def mistakes(
    source: Source, model: type[BaseModel], error: ValidationError, below: KeyPath = ()
) -> list[tuple[KeyPath, str, bool]]:
    """Each mistake of the block at ``below``: where, what is wrong, and whether with the key rather than its value."""
    return [_describe(source, model, detail, below) for detail in _telling(error.errors(include_url=False))]


def _telling(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without what says only that a block is no name, where names are allowed too and the block has mistakes of its
    own."""

    def says_little(detail: ErrorDetails) -> bool:
        place = detail["loc"][:-1]
        others = (other for other in details if other is not detail)
        return (
            detail["type"] == "string_type"
            and isinstance(detail.get("input"), Mapping)
            and any(other["loc"][: len(place)] == place for other in others)
        )

    return [detail for detail in details if not says_little(detail)]


def _describe(
    source: Source, model: type[BaseModel], detail: ErrorDetails, below: KeyPath
) -> tuple[KeyPath, str, bool]:
    kind, given = detail["type"], detail.get("input")
    path = (*below, *_document_path(source, below, detail["loc"]))
    if kind == "extra_forbidden":
        says, of_key = f"unknown key{_choices(str(path[-1]), sorted(_fields_at(model, detail['loc'][:-1])))}", True
    elif kind == "missing":
        says, of_key, path = "this key is required and missing", True, (*path, detail["loc"][-1])
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        path, says = _describe_kind(source, model, detail, path)
        of_key = False
    else:
        cause = detail.get("ctx", {}).get("error")
        path = (*path, *cause.path) if isinstance(cause, BlockError) else path
        of_key = isinstance(given, Mapping | list | BaseModel)
        says = _message(detail) if of_key else f"{_message(detail)}, given {in_yaml(given)}"
    return path, says, of_key


def _describe_kind(source: Source, model: type[BaseModel], detail: ErrorDetails, path: KeyPath) -> tuple[KeyPath, str]:
    """A block whose ``kind`` names no member of its union, or that has none: (path, what is wrong)."""
    tags = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected_tags") or ""))
    allowed = tags or sorted(_tags_at(model, detail["loc"]))
    given = detail.get("input")
    if not isinstance(given, Mapping) or "kind" not in given:
        return path, f"the key 'kind' is missing (allowed: {', '.join(allowed)})"
    return (
        _document_path(source, (), (*path, "kind")),  # an attack may be written as its kind alone
        f"unknown kind {given['kind']!r}{_choices(str(given['kind']), allowed)}",
    )


def _choices(given: str, allowed: list[str]) -> str:
    near = nearest(given, allowed)
    return f"{f'; did you mean {near!r}?' if near else ''} (allowed: {', '.join(allowed)})"


def _message(detail: ErrorDetails) -> str:
    """Pydantic's message in the words of a recipe."""
    kind, given = detail["type"], detail.get("input")
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "must be a block of keys"
    message = re.sub(r"^\w+ should ", "must ", detail["msg"].removeprefix("Value error, "))
    if kind == "literal_error" and isinstance(given, str):
        near = nearest(given, re.findall(r"'([^']*)'", message))
        return message + (f"; did you mean {near!r}?" if near else "")
    return message


def in_yaml(value: Any) -> str:
    """A single value as a recipe would say it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _document_path(source: Source, below: KeyPath, loc: tuple[str | int, ...]) -> KeyPath:
    """The part of an error's location that the document has: without defaults, and without pydantic's union tags."""
    inner: Any = source.tree
    for part in below:
        inner = inner[part]
    path: KeyPath = ()
    for part in loc:
        if part in inner if isinstance(inner, dict) else isinstance(inner, list) and isinstance(part, int):
            inner, path = inner[part], (*path, part)
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
