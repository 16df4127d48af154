"""Lists of neighbours in a space of word vectors: what is left of the vectors once the neighbours are known."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from robusweep.attacks.resources import sha256_of
from robusweep.errors import MissingError

IN_DATA = "lexicon/counterfitted_neighbors.json"  # below $ROBUSWEEP_DATA


@dataclass(frozen=True)
class NeighbourFile:
    """A JSON object: word in lower case -> list of its neighbours, nearest first."""

    given: str | None  # None: the one below $ROBUSWEEP_DATA
    name: str = "lists of counter-fitted neighbours"

    def path(self) -> Path | None:
        """Where it should lie; None when nothing says where."""
        if self.given is not None:
            return Path(self.given).expanduser()
        folder = os.environ.get("ROBUSWEEP_DATA")
        return Path(folder).expanduser() / IN_DATA if folder else None

    def missing(self) -> str | None:
        path = self.path()
        if path is None:
            return f"{self.name}: name a JSON file of word -> neighbours with the attack's key neighbours"
        return None if path.is_file() else f"{self.name}: there is no file {path}"

    def identity(self) -> dict[str, str]:
        path = self.path()
        if path is None or not path.is_file():
            raise MissingError(str(self.missing()))
        return {"name": self.name, "sha256": sha256_of(path)}


def neighbours_of(word: str, file: str) -> list[str]:
    """The neighbours that a file lists for a word, in the word's own case. Raises ``MissingError`` for another file."""
    return [in_case_of(word, other) for other in _table(file).get(word.lower(), [])]


def in_case_of(word: str, other: str) -> str:
    """``other`` in lower case, upper case or capitalised as ``word`` is; as it is where ``word`` is none of these."""
    if word.islower():
        return other.lower()
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other.capitalize() if word[:1].isupper() and word[1:].islower() else other


@lru_cache(4)
def _table(file: str) -> dict[str, list[str]]:
    try:
        table = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingError(f"{file} can't be read as JSON: {error}") from None
    if not isinstance(table, dict) or not all(
        isinstance(row, list) and all(isinstance(other, str) for other in row) for row in table.values()
    ):
        raise MissingError(f"{file} does not map words to lists of words")
    return table
