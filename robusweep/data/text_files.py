"""Reading UTF-8 text and CSV so that a broken file is reported by name and line."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from robusweep.errors import MissingError


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises MissingError when there is no such file, or nothing in it."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        hint = f"paths are taken from the working folder, {Path.cwd()}" if not path.is_absolute() else None
        raise MissingError(f"there is no file {path}", hint=hint) from error
    except IsADirectoryError as error:
        raise MissingError(f"{path} is a folder, not a file", hint="name the file inside it") from error
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}") from error
    if not raw.strip():
        raise MissingError(f"{path} is empty")
    return raw


def read_utf8(path: Path) -> str:
    """The file's text; a byte-order mark is skipped. Raises MissingError with the first byte that is not UTF-8."""
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise MissingError(
            f"{path}:{line}: not UTF-8 at byte {error.start} (0x{raw[error.start]:02x})",
            hint=f"convert it, for example: iconv -f latin1 -t utf-8 {path} > converted{path.suffix}",
        ) from error


def csv_records(path: Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """The line on which each record ends, and its fields; blank lines are skipped.

    The csv module's bound on the length of a field is lifted while the file is read, and then restored.
    """
    reader = csv.reader(io.StringIO(read_utf8(path), newline=""), delimiter=delimiter, strict=True)
    bound = csv.field_size_limit(sys.maxsize)
    try:
        return [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise MissingError(
            f"{path}:{reader.line_num}: not valid CSV: {error}",
            hint='a field with a quote or a line break is quoted, each quote inside doubled: "say ""so"""',
        ) from error
    finally:
        csv.field_size_limit(bound)
