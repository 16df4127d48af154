"""What a data source is: a YAML block that can read labelled rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypedDict

from pydantic import Field

from robusweep.record import StandIn
from robusweep.spec import Spec


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text as it was read. Rows of one ``group`` never end up in two splits; None: in no group."""

    text: str
    label: str
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """All rows of a source. ``test`` is the official test part; None: every split is drawn from ``rows``."""

    name: str
    label_names: tuple[str, ...]
    rows: tuple[Row, ...]
    test: tuple[Row, ...] | None = None
    notes: tuple[str, ...] = ()  # what reading dropped or changed, in words, with counts


class SourceInfo(TypedDict):
    """What ``ls data`` and ``doctor`` say about one kind of source."""

    kind: str
    summary: str
    classes: list[str]  # empty: whatever the file holds
    licence: str
    available: bool
    how_to_get: str


class DataSource(Spec, ABC):
    """A labelled corpus and the sizes of the splits that are drawn from it.

    ``max_words`` keeps the first so many white-space words of each text; None keeps all, up to the bounds of
    ``robusweep.data.cleaning``.
    """

    summary: ClassVar[str]
    classes: ClassVar[tuple[str, ...]] = ()
    licence: ClassVar[str]
    how_to_get: ClassVar[str]

    kind: str
    n_train: int = Field(1000, ge=1)
    n_validation: int = Field(400, ge=1)
    n_calibration: int = Field(200, ge=1)
    n_test: int = Field(400, ge=1)
    max_words: int | None = Field(None, ge=1)

    @abstractmethod
    def read(self) -> Corpus:
        """All rows, in an order that does not depend on the machine. Raises MissingError."""

    @classmethod
    @abstractmethod
    def available(cls) -> bool:
        """Whether it can be read here, as far as can be told without reading it."""

    def resolve(self) -> tuple[DataSource, StandIn | None]:
        """What is really read, and the notice when that is not what the recipe names."""
        return self, None

    def sizes(self) -> dict[str, int]:
        """How many examples each split gets, in the order in which the splits are drawn: train last, so that a larger
        ``n_train`` moves no example out of another split."""
        return {
            "test": self.n_test,
            "validation": self.n_validation,
            "calibration": self.n_calibration,
            "train": self.n_train,
        }

    @classmethod
    def describe(cls) -> SourceInfo:
        return SourceInfo(
            kind=cls.model_fields["kind"].default,
            summary=cls.summary,
            classes=list(cls.classes),
            licence=cls.licence,
            available=cls.available(),
            how_to_get=cls.how_to_get,
        )
