"""Where labelled texts come from, and how they become four disjoint splits.

Adding a source: one file with a ``DataSource``, one name in ``AnyData``.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from robusweep.data.ag_news import AgNews
from robusweep.data.base import DataSource, SourceInfo
from robusweep.data.bbc_news import BbcNews
from robusweep.data.cleaning import cleaned
from robusweep.data.csv_file import CsvFile
from robusweep.data.jsonl_file import JsonlFile
from robusweep.data.parquet_file import ParquetFile
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.data.splits import split
from robusweep.data.trec import Trec
from robusweep.errors import MissingError
from robusweep.examples import Dataset
from robusweep.record import StandIn

AnyData = Annotated[
    AgNews | BbcNews | RottenTomatoes | Trec | CsvFile | JsonlFile | ParquetFile, Field(discriminator="kind")
]


def resolve(data: DataSource) -> tuple[DataSource, StandIn | None]:
    """What is really read here, and the notice when it is not what the recipe names. Reads and downloads nothing.

    Raises MissingError when the source cannot be had and no stand-in is allowed.
    """
    return data.resolve()


def load(data: DataSource, seed: int) -> Dataset:
    """Read, clean and split what ``resolve`` decides on. Same block, files and seed: same splits."""
    source, stand_in = resolve(data)
    if stand_in is None:
        return split(cleaned(source.read(), source.max_words), source.sizes(), seed)
    try:
        return split(cleaned(source.read(), source.max_words), source.sizes(), seed, key="data.stand_in")
    except MissingError as error:
        own = f"as a block, stand_in takes sizes of its own: stand_in: {{kind: {source.kind}, n_train: ...}}"
        hint = own if error.hint is None else f"{error.hint}; {own}"
        raise MissingError(f"{stand_in.notice()}; {error.message}", hint=hint) from error


def describe_sources() -> list[SourceInfo]:
    """Every kind of source, in the order of ``AnyData``, with whether it can be read here. Reads no corpus."""
    sources: tuple[type[DataSource], ...] = get_args(get_args(AnyData)[0])
    return [source.describe() for source in sources]
