"""Label texts with a trained classifier: what ``robusweep predict`` does. A file is read and written in chunks."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from robusweep import defended
from robusweep import model as model_stage
from robusweep.data.jsonl_file import parsed
from robusweep.data.labelled_files import check_encodable, shown
from robusweep.errors import MissingError, UsageError, nearest
from robusweep.examples import Row
from robusweep.mixing import PerText
from robusweep.model import Precision, TextModel
from robusweep.queries import QueryMemory
from robusweep.shipped import SHIPPED
from robusweep.shipping import opened

if TYPE_CHECKING:
    from robusweep.model import ModelVictim

CHUNK = 4096  # texts in memory at a time
# Kernels that oneDNN and PyTorch's binding of it keep for matrix products in bfloat16: one of each for every number of
# tokens that a batch may hold, 0.28 MB each, 1024 of each by default. A batch needs about a dozen.


@dataclass(frozen=True, slots=True)
class Prediction:
    """A text with its label, and the probability of every class in the order of the model's label names.

    ``weights``: how much of each adapter answered, where that depends on the text, in the order of ``member_names``.
    """

    text: str
    label: str
    probabilities: tuple[float, ...]
    weights: tuple[float, ...] | None = None


# ------------------------------------------------------------------------------------------------------- texts
class TextFile:
    """The texts of a file, in its order, read while they are asked for; ``share`` says how much has been read.

    ``.csv`` and ``.tsv`` have a header line, ``.jsonl`` an object on each line, ``.txt`` a text on each line. A text
    may be empty. Raises ``UsageError`` for another kind of file, and ``MissingError`` for one that can't be read, lacks
    the column or holds no text, with the line.
    """

    def __init__(self, path: Path, column: str = "text") -> None:
        readers = {".csv": _csv_texts, ".tsv": _csv_texts, ".jsonl": _jsonl_texts, ".txt": _plain_texts}
        suffix = path.suffix.lower()
        if suffix not in readers:
            raise UsageError(f"--file {path}: unknown kind of file {suffix!r} (allowed: {', '.join(readers)})")
        try:
            self._binary = path.open("rb")
        except OSError as e:
            raise MissingError(f"--file {path} can't be read: {e.strerror}") from None
        self._n_bytes = max(1, os.fstat(self._binary.fileno()).st_size)
        file = io.TextIOWrapper(self._binary, encoding="utf-8-sig", newline="" if suffix in {".csv", ".tsv"} else "\n")
        texts = _decoded(path, file, readers[suffix](path, file, column))
        first = next(texts, None)
        if first is None:
            raise MissingError(f"--file {path} holds no text")
        self._texts = chain([first], texts)

    def __iter__(self) -> Iterator[str]:
        return self._texts

    @property
    def share(self) -> float:
        """In [0, 1]; a little ahead of the texts, by what is buffered."""
        return 1.0 if self._binary.closed else min(1.0, self._binary.tell() / self._n_bytes)


def _decoded(path: Path, file: TextIO, texts: Iterator[str]) -> Iterator[str]:
    """The same texts; what is wrong with the bytes or the quotes is said of the file, which is closed at the end."""
    n = 0
    try:
        with file:
            for text in texts:
                check_encodable(text, f"{path}: text {n + 1}")
                yield text
                n += 1
    except UnicodeDecodeError as e:
        raise MissingError(
            f"{path}: not UTF-8 behind text {n} (byte 0x{e.object[e.start]:02x})",
            hint=f"convert it, for example: iconv -f latin1 -t utf-8 {path} > converted{path.suffix}",
        ) from None
    except csv.Error as e:
        raise MissingError(f"{path}: not valid CSV behind text {n}: {e}") from None


def _csv_texts(path: Path, file: TextIO, column: str) -> Iterator[str]:
    bound = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header = next((fields for fields in reader if fields), None)
        if header is None:
            return
        at = _column(str(path), column, header)
        for fields in reader:
            if fields and len(fields) != len(header):
                raise MissingError(
                    f"{path}:{reader.line_num}: {len(fields)} fields, but the header names {len(header)}",
                    hint='a text that holds a comma is quoted: "good, but long"',
                )
            if fields:
                yield fields[at]
    finally:
        csv.field_size_limit(bound)


def _jsonl_texts(path: Path, file: TextIO, column: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            value = parsed(path, number, line)
            _column(f"{path}:{number}", column, list(value))
            text = value[column]
            if text is not None and not isinstance(text, str):
                raise MissingError(f"{path}:{number}: the text is {shown(text)}, which is not text")
            yield text or ""


def _plain_texts(path: Path, file: TextIO, column: str) -> Iterator[str]:  # noqa: ARG001 - read like the others
    for line in file:
        yield line.rstrip("\r\n")


def _column(place: str, column: str, names: Sequence[str]) -> int:
    if names.count(column) != 1:
        near = nearest(column, names)
        listed = ", ".join(map(repr, names[:20]))
        says = f"{place} has {names.count(column) or 'no'} column{'s' * (column in names)} {column!r}; it has {listed}"
        raise MissingError(says, hint=f"did you mean {near!r}?" if near else "--text-column names the column")
    return names.index(column)


# --------------------------------------------------------------------------------------------------- classifier
class Classifier:
    """A model that labels texts. ``temperature``: what its logits are divided by, None for nothing.

    ``member_names``: the adapters that are weighted for each text; none where all texts have the same weights.
    """

    def __init__(
        self,
        model: TextModel,
        victim: ModelVictim,
        *,
        temperature: float | None,
        n_tokens: int | None,
        precision: str,
        member_names: Sequence[str] = (),
    ) -> None:
        self.label_names, self.temperature, self.precision = model.label_names, temperature, precision
        self.member_names = tuple(member_names)
        self._victim, self._n_tokens = victim.tempered(temperature), n_tokens

    def __call__(self, texts: Iterable[str]) -> Iterator[list[Prediction]]:
        """Predictions in the order of the texts, at most ``CHUNK`` at a time; no more texts are read than that."""
        rest = iter(texts)
        while chunk := list(islice(rest, CHUNK)):
            found = self._predicted(chunk)
            _give_memory_back()
            yield found

    def _predicted(self, texts: Sequence[str]) -> list[Prediction]:
        victim = self._victim.forgetful()  # what is remembered goes with the chunk
        rows = victim.rows(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        logits = np.empty((len(rows), len(self.label_names)))
        for places in _batches(rows, order, self._n_tokens):
            logits[places] = victim.logits([rows[i] for i in places])
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = (powers / powers.sum(axis=1, keepdims=True)).tolist()
        labels = [self.label_names[i] for i in logits.argmax(axis=1)]
        found = victim.weights(texts) if self.member_names else None
        weights = [None] * len(texts) if found is None else found.tolist()
        return [
            Prediction(text, label, tuple(p), None if w is None else tuple(w))
            for text, label, p, w in zip(texts, labels, shares, weights, strict=True)
        ]


def _give_memory_back() -> None:
    """Hand freed memory to the system: batches of ever new sizes leave holes in glibc's heap, more with each chunk."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _batches(rows: Sequence[Row], order: Sequence[int], n_tokens: int | None) -> Iterator[list[int]]:
    """Places in groups whose rows, padded to the longest, hold at most ``n_tokens``, or one row; None: all at once."""
    if n_tokens is None:
        yield list(order)
        return
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i]) > n_tokens:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def load_classifier(
    model: str,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    max_tokens: int = 512,
    temperature: bool = True,
    n_tokens: int | None = None,
) -> Classifier:
    """The classifier in a folder or behind a hub name, with the temperature of its ``robusweep.json`` if there is one.

    ``n_tokens``: at most so many go through the network at once; the default is also the most. Raises ``UsageError``
    for an unknown device or precision, ``MissingError`` for a model that can't be read.
    """
    for option, value, allowed in (
        ("device", device, ("auto", "cpu", "cuda")),
        ("precision", precision, ("auto", "fp32", "bf16")),
    ):
        if value not in allowed:
            raise UsageError(f"--{option} {value!r} (allowed: {', '.join(allowed)})")
    used = temperature_of(model) if temperature else None
    where = model_stage.device_of(device)
    loaded, system, identity = opened(model, device=where, max_tokens=max_tokens)
    bf16 = model_stage.uses_bf16(precision, where)
    fast, _ = defended.victims(
        system, loaded, identity, bf16=bf16, memory=lambda _digest, _precision: QueryMemory(capacity=CHUNK)
    )
    return Classifier(
        loaded,
        fast,
        temperature=used,
        n_tokens=n_tokens,
        precision="bf16" if bf16 else "fp32",
        member_names=system.adapters.names if isinstance(system, PerText) else (),
    )


def temperature_of(model: str) -> float | None:
    """The temperature that was shipped with a model folder. Raises ``MissingError`` when its file is damaged."""
    path = Path(model) / SHIPPED
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["temperature"]
        if value is None or (isinstance(value, float) and 0 < value < float("inf")):
            return value
        says = f"the temperature is {shown(value)}"
    except (OSError, ValueError, KeyError, TypeError) as e:
        says = f"{type(e).__name__}: {e}"
    raise MissingError(f"{path} can't be used: {says}", hint="--no-temperature does without it")


# ------------------------------------------------------------------------------------------------------ results
def as_json(prediction: Prediction, label_names: Sequence[str], member_names: Sequence[str] = ()) -> dict[str, Any]:
    probabilities = dict(zip(label_names, prediction.probabilities, strict=True))
    row = {"text": prediction.text, "label": prediction.label, "probabilities": probabilities}
    return row | ({"weights": dict(zip(member_names, prediction.weights or (), strict=True))} if member_names else {})


def check_out(out: Path, source: Path | None) -> None:
    """Raises ``UsageError`` for a file that can't be written, before anything is computed."""
    if out.suffix.lower() not in {".csv", ".jsonl"}:
        raise UsageError(f"--out {out}: unknown kind of file {out.suffix!r} (allowed: .csv, .jsonl)")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UsageError(f"--out {out} can't be written", hint="name a file in a folder that is there")
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"--out {out} is the file that is read", hint="name another file")


@contextmanager
def written(
    out: Path, label_names: Sequence[str], member_names: Sequence[str] = ()
) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """A function that writes more predictions. The file has its name when all are there, and not before."""
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            writer = _csv_writer if out.suffix.lower() == ".csv" else _jsonl_writer
            yield writer(file, label_names, member_names)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(out)
    except OSError as e:
        raise UsageError(f"--out {out} can't be written: {e.strerror}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def _csv_writer(
    file: TextIO, label_names: Sequence[str], member_names: Sequence[str]
) -> Callable[[Sequence[Prediction]], None]:
    writer = csv.writer(file, lineterminator="\n")
    shares = [*(f"probability_{name}" for name in label_names), *(f"weight_{name}" for name in member_names)]
    writer.writerow(["text", "label", *shares])
    return lambda more: writer.writerows([p.text, p.label, *p.probabilities, *(p.weights or ())] for p in more)


def _jsonl_writer(
    file: TextIO, label_names: Sequence[str], member_names: Sequence[str]
) -> Callable[[Sequence[Prediction]], None]:
    def write(more: Sequence[Prediction]) -> None:
        rows = (as_json(p, label_names, member_names) for p in more)
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    return write
