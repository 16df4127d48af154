"""A CSV file of one's own, with a header line. A file named ``*.tsv`` is separated by tabs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from robusweep.data.labelled_files import LabelledFile, Record, check_columns
from robusweep.data.text_files import csv_records
from robusweep.errors import MissingError


class CsvFile(LabelledFile):
    """UTF-8, quoted as in RFC 4180. A record with more or fewer fields than the header is an error."""

    summary: ClassVar[str] = "a CSV or TSV file of your own, with a header line"
    how_to_get: ClassVar[str] = "data: {kind: csv, path: reviews.csv, text: text, label: label}"

    kind: Literal["csv"] = "csv"

    def records(self, path: Path) -> Iterator[Record]:
        lines = csv_records(path, "\t" if path.suffix.lower() == ".tsv" else ",")
        header = lines[0][1]
        check_columns(path, [self.text, self.label], header)
        text, label = header.index(self.text), header.index(self.label)
        for line, fields in lines[1:]:
            if len(fields) != len(header):
                raise MissingError(
                    f"{path}:{line}: {len(fields)} fields, but the header names {len(header)}",
                    hint='a text that holds a comma is quoted: "good, but long",1',
                )
            yield Record(f"{path}:{line}", fields[text], fields[label])
