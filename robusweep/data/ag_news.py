"""AG News: four topics, short items. Not shipped by any registry package, so it may be replaced by a stand-in.

What is read is decided in this order: ``path``; ``$ROBUSWEEP_DATA/ag_news``; the model hub, when it can be reached;
the declared stand-in. A folder that is named but lacks a file is an error, not a reason to look further.

A folder holds ``test.csv`` and ``train.csv`` (or a part of it, ``train_5k.csv``), in either of two formats, without a
header: class 1-4, title, description (as published), or text, label 0-3 (as on the model hub).
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from robusweep import hub
from robusweep.data.base import Corpus, DataSource, Row
from robusweep.data.bbc_news import BbcNews
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.data.text_files import csv_records
from robusweep.data.trec import Trec
from robusweep.errors import MissingError
from robusweep.record import StandIn
from robusweep.spec import Spec

TRAIN_FILES = ("train.csv", "train_5k.csv")
HUB_NAME = "fancyzhx/ag_news"
STAND_INS: dict[str, type[DataSource]] = {
    "bbc_news": BbcNews,
    "rotten_tomatoes": RottenTomatoes,
    "trec": Trec,
}


class StandInBlock(Spec):
    """An embedded corpus to read instead. A size or ``max_words`` that is left out is the one asked of AG News."""

    kind: Literal["bbc_news", "rotten_tomatoes", "trec"]
    n_train: int | None = Field(None, ge=1)
    n_validation: int | None = Field(None, ge=1)
    n_calibration: int | None = Field(None, ge=1)
    n_test: int | None = Field(None, ge=1)
    max_words: int | None = Field(None, ge=1)


def block_of(value: object) -> object:
    """``stand_in: bbc_news`` is short for ``stand_in: {kind: bbc_news}``."""
    return {"kind": value} if isinstance(value, str) else value


StandInChoice = Annotated[
    StandInBlock | None, BeforeValidator(block_of, json_schema_input_type=str | StandInBlock | None)
]


class AgNews(DataSource):
    """News items, title and description in one text (Zhang, Zhao and LeCun, NIPS 2015).

    ``path``: a folder with the files. ``stand_in``: the corpus to read when AG News cannot be had; None refuses.
    """

    summary: ClassVar[str] = "short news items in four topics, with an official test part of 7,600"
    classes: ClassVar[tuple[str, ...]] = ("World", "Sports", "Business", "Sci/Tech")
    licence: ClassVar[str] = "research and other non-commercial use; not shipped with robusweep"
    how_to_get: ClassVar[str] = (
        "put train.csv (or train_5k.csv) and test.csv into $ROBUSWEEP_DATA/ag_news, name their folder with "
        "data.path, or let this machine reach the model hub"
    )

    kind: Literal["ag_news"] = "ag_news"
    path: str | None = None
    stand_in: StandInChoice = Field(default_factory=lambda: StandInBlock(kind="bbc_news"))

    @classmethod
    def available(cls) -> bool:
        folder = environment_folder()
        return absent_file(folder) is None if folder is not None else hub.hub_reachable()

    def folder(self) -> Path | None:
        """The folder to read; None: no folder is named. Raises MissingError when a file is not in it."""
        folder = Path(self.path).expanduser() if self.path is not None else environment_folder()
        if folder is None:
            return None
        absent = absent_file(folder)
        if absent is not None:
            named_by = "data.path" if self.path is not None else "ROBUSWEEP_DATA"
            raise MissingError(
                f"AG News: there is no {absent} in {folder}, the folder that {named_by} leads to",
                hint=f"put it there, or unset {named_by} to look elsewhere",
            )
        return folder

    def resolve(self) -> tuple[DataSource, StandIn | None]:
        if self.folder() is not None or hub.hub_reachable():
            return self, None
        reason = "data.path and ROBUSWEEP_DATA are not set, and the model hub cannot be reached"
        if self.stand_in is None:
            raise MissingError(
                f"AG News cannot be had: {reason}", hint=f"{self.how_to_get}; or allow a stand-in: bbc_news"
            )
        asked = self.stand_in
        inherited = {name: getattr(self, name) for name in asked.model_dump(exclude={"kind"})}
        source = STAND_INS[asked.kind].model_validate(inherited | asked.model_dump(exclude_none=True))
        return source, StandIn(what="data", asked=self.kind, used=source.kind, reason=reason)

    def read(self) -> Corpus:
        folder = self.folder()
        if folder is None:
            return from_hub()
        train = next(folder / name for name in TRAIN_FILES if (folder / name).is_file())
        rows = rows_of(train)
        note = f"train part: {len(rows):,} rows of {train.name}"
        return Corpus(
            name="ag_news", label_names=self.classes, rows=rows, test=rows_of(folder / "test.csv"), notes=(note,)
        )


def environment_folder() -> Path | None:
    """Where the environment says that AG News is; None: it says nothing."""
    root = os.environ.get("ROBUSWEEP_DATA")
    return Path(root).expanduser() / "ag_news" if root else None


def absent_file(folder: Path) -> str | None:
    """The first file that AG News needs and the folder lacks."""
    if not any((folder / name).is_file() for name in TRAIN_FILES):
        return " or ".join(reversed(TRAIN_FILES))
    return None if (folder / "test.csv").is_file() else "test.csv"


def rows_of(path: Path) -> tuple[Row, ...]:
    """The rows of one file, cleaned. Raises MissingError for a record that is in neither format."""
    rows = []
    for line, fields in csv_records(path):
        match fields:
            case [("1" | "2" | "3" | "4") as number, title, description]:
                rows.append(Row(restored(f"{title} {description}"), AgNews.classes[int(number) - 1]))
            case [text, ("0" | "1" | "2" | "3") as number]:
                rows.append(Row(restored(text), AgNews.classes[int(number)]))
            case ["text", "label"] if line == 1:
                continue
            case _:
                raise MissingError(
                    f"{path}:{line}: neither class 1-4, title, description nor text, label 0-3: {str(fields)[:80]}"
                )
    return tuple(rows)


def from_hub() -> Corpus:
    """AG News from the model hub. Raises MissingError when the download fails."""
    from datasets import load_dataset

    try:
        parts = load_dataset(HUB_NAME)
    except OSError as error:
        raise MissingError(
            f"AG News ({HUB_NAME}) cannot be had from the model hub: {error}",
            hint=f"{AgNews.how_to_get}; HF_HUB_OFFLINE=1 goes to the stand-in",
        ) from error
    train, test = (
        tuple(Row(restored(item["text"]), AgNews.classes[item["label"]]) for item in parts[name])
        for name in ("train", "test")
    )
    return Corpus(name="ag_news", label_names=AgNews.classes, rows=train, test=test)


# The published files lost the ampersand of most entities to a space ("Haiti #39;s", "said  quot;no quot;"), kept it
# in others, and write line breaks as backslashes and some HTML tags as text.
BROKEN_ENTITY = re.compile(r" ?(?<![&\w])(#\d{1,5};|(?:quot|amp|lt|gt|nbsp|hellip|mdash|ndash);)")
HTML_TAG = re.compile(
    r"</?(?:a|b|br|cite|em|font|i|img|li|nobr|p|strong|table|td|tr|u|ul)(?=[\s/>])[^<>]*>", re.IGNORECASE
)


def restored(text: str) -> str:
    """The text with its entities decoded, without tags and backslashes, on one line."""
    decoded = html.unescape(BROKEN_ENTITY.sub(r"&\1", text.replace("\\", " ")))
    return " ".join(HTML_TAG.sub(" ", decoded).split())
