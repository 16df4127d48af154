"""A Parquet file of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from robusweep.data.labelled_files import LabelledFile, Record, check_columns
from robusweep.data.text_files import read_bytes
from robusweep.errors import MissingError


class ParquetFile(LabelledFile):
    """Only the two columns are decoded. Places in messages count rows from 1."""

    summary: ClassVar[str] = "a Parquet file of your own"
    how_to_get: ClassVar[str] = "data: {kind: parquet, path: reviews.parquet, text: text, label: label}"

    kind: Literal["parquet"] = "parquet"

    def records(self, path: Path) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(pa.BufferReader(read_bytes(path)))
            check_columns(path, [self.text, self.label], file.schema_arrow.names)
            table = file.read(columns=[self.text, self.label])
        except (pa.ArrowException, OSError) as error:
            raise MissingError(f"{path} is not a readable Parquet file: {error}") from error
        columns = zip(table[self.text].to_pylist(), table[self.label].to_pylist(), strict=True)
        for number, (text, label) in enumerate(columns, start=1):
            yield Record(f"{path}, row {number}", text, label)
