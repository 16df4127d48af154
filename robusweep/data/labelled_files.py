"""A file of one's own, with a text column and a label column. What the three formats share.

- A missing or empty label is an error: a label is the truth that is trained on and measured against.
- A label is a text or an integer; its name is ``str(label)``. Names that are all integers are ordered as numbers.
- More than 100 different labels, or a different one in every row, is an error: such a column is hardly a label.
- A relative path is taken from the working folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from robusweep.data.base import Corpus, DataSource, Row
from robusweep.errors import MissingError, nearest

MAX_LABELS = 100


@dataclass(frozen=True, slots=True)
class Record:
    """A text and its label as the file holds them. ``place`` says where, for messages: ``reviews.csv:12``."""

    place: str
    text: object
    label: object


class LabelledFile(DataSource):
    """``text`` and ``label`` name columns. ``test_path`` names a file of official test rows in the same format."""

    licence: ClassVar[str] = "your own"

    path: str
    text: str = "text"
    label: str = "label"
    test_path: str | None = None

    @abstractmethod
    def records(self, path: Path) -> Iterator[Record]:
        """The rows of one file, in order. Raises MissingError naming file and place."""

    @classmethod
    def available(cls) -> bool:
        return True

    def read(self) -> Corpus:
        path = Path(self.path).expanduser()
        rows = list(map(row_of, self.records(path)))
        if not rows:
            raise MissingError(f"{path} holds no rows")
        test = None if self.test_path is None else self._test_rows(path, Path(self.test_path).expanduser())
        names = ordered({row.label for row in [*rows, *(test or [])]})
        check_labels(path, self.label, names, len(rows))
        return Corpus(name=path.stem, label_names=names, rows=tuple(rows), test=None if test is None else tuple(test))

    def _test_rows(self, path: Path, test_path: Path) -> list[Row]:
        if test_path.resolve() == path.resolve():
            raise MissingError(
                f"test_path and path are the same file: {path}",
                hint="leave test_path out: the test split is then drawn from path and kept apart",
            )
        rows = list(map(row_of, self.records(test_path)))
        if not rows:
            raise MissingError(f"{test_path} holds no rows")
        return rows


def row_of(record: Record) -> Row:
    """Raises MissingError when the label is missing or neither text nor integer, or the text is not text."""
    text, label = record.text, record.label
    if text is not None and not isinstance(text, str):
        raise MissingError(f"{record.place}: the text is {shown(text)}, which is not text")
    if label is None or not str(label).strip():
        raise MissingError(f"{record.place}: the label is missing", hint="fill it in, or remove the row")
    if not isinstance(label, str | int):
        raise MissingError(
            f"{record.place}: the label is {shown(label)}, which is neither a text nor an integer",
            hint="write a class as a name or as an integer, 1 rather than 1.0",
        )
    for part in (text or "", str(label)):
        check_encodable(part, record.place)
    return Row(text or "", str(label).strip())


def check_encodable(text: str, place: str) -> None:
    """A JSON escape can write half of a character (a lone surrogate), which no file and no tokeniser can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MissingError(f"{place}: character {error.start} is half of a surrogate pair, not a character") from error


def shown(value: object) -> str:
    """``0.5 (float)``, cut to a length that fits a message."""
    return f"{str(value)[:40]} ({type(value).__name__})"


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """As numbers when all are integers, else by name."""
    by_name = sorted(names)
    try:
        return tuple(sorted(by_name, key=int))
    except ValueError:
        return tuple(by_name)


def check_labels(path: Path, column: str, names: Collection[str], n_rows: int) -> None:
    """Raises MissingError when the column looks like ids, scores or texts rather than classes."""
    if len(names) > MAX_LABELS or (len(names) >= n_rows and n_rows > 1):
        examples = ", ".join(repr(name[:40]) for name in list(names)[:3])
        raise MissingError(
            f"{path}: column {column!r} holds {len(names):,} values in {n_rows:,} rows ({examples}, ...); "
            f"a label has at most {MAX_LABELS} values, and fewer than there are rows",
            hint="name the column of the classes with `label:`",
        )


def check_columns(path: Path, wanted: Collection[str], found: Collection[str]) -> None:
    """Raises MissingError that lists the columns there are, and the one most like the one that is not."""
    names = list(found)
    for column in wanted:
        if names.count(column) > 1:
            raise MissingError(f"{path} has {names.count(column)} columns named {column!r}", hint="rename one of them")
        if column not in names:
            near = nearest(column, names)
            listed = ", ".join(map(repr, names[:20]))
            raise MissingError(
                f"{path} has no column {column!r}; it has {listed}",
                hint=f"did you mean {near!r}?" if near else "name its columns with `text:` and `label:`",
            )
