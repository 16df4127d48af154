"""A JSON Lines file of one's own: one object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from robusweep.data.labelled_files import LabelledFile, Record, check_columns
from robusweep.data.text_files import read_utf8
from robusweep.errors import MissingError


class JsonlFile(LabelledFile):
    """UTF-8. Each object has both keys; blank lines are skipped. A text of ``null`` counts as empty."""

    summary: ClassVar[str] = "a JSON Lines file of your own, one object on each line"
    how_to_get: ClassVar[str] = "data: {kind: jsonl, path: reviews.jsonl, text: text, label: label}"

    kind: Literal["jsonl"] = "jsonl"

    def records(self, path: Path) -> Iterator[Record]:
        for number, line in enumerate(read_utf8(path).split("\n"), start=1):
            if line.strip():
                value = parsed(path, number, line)
                check_columns(Path(f"{path}:{number}"), [self.text, self.label], value)
                yield Record(f"{path}:{number}", value[self.text], value[self.label])


def parsed(path: Path, number: int, line: str) -> dict[str, object]:
    """The object on one line. Raises MissingError with the line's number."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MissingError(f"{path}:{number}: not valid JSON: {error}", hint="one object on each line") from error
    if not isinstance(value, dict):
        raise MissingError(f"{path}:{number}: a {type(value).__name__}, not an object", hint="one object on each line")
    return value
