"""A folder of this machine and its copy elsewhere: an object store, or whatever else fsspec reaches.

What lies at ``root/key`` here lies at ``url/key`` there. A folder is pushed data first and its manifest last, and
checked against the manifest when fetched, so nobody takes half of one. Files of lines (``.jsonl``) only grow: a push
and a fetch merge them. While the store is away, work goes on here; what is owed to it is marked on disk, so that this
process, or the next one, pushes it later.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from robusweep.errors import MissingError, UsageError
from robusweep.record import write_text
from robusweep.spec import digest_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
MANIFEST = "manifest.json"
OWED = "cache/unpushed"  # below root: a file for each thing that the store has not got yet
NOT_CARRIED = ("checkpoints", "share.json")  # in a folder: of use on this machine alone
RETRY_SECONDS = (1.0,)  # between attempts at one thing; the libraries of object stores try again by themselves
AWAY_SECONDS, AWAY_MOST = 30.0, 600.0  # after a failure nothing is asked for so long, or longer
ANSWER_SECONDS, FILE_SECONDS = 60.0, 600.0  # until an answer, or a file, is not waited for any more
UPLOAD_RATE = 100_000  # bytes per second: a file that is put may take so long, on top of an answer
PAUSE = 10  # namely so many times as long as the failure took, so that a trial does not wait most of the time


class StoreError(Exception):
    """The store did not answer, or refused. The message names it and says how."""


class Store:
    """What lies below ``root``, and its copy below ``url``. ``notice`` hears what people should know.

    ``pause``: a store that is away is not asked again for so many times as long as it took to find out.

    ``keep``, ``keep_owed`` and ``attempt`` bear a store that is away; the others raise ``StoreError``.
    """

    def __init__(self, url: str, root: Path, *, pause: float = PAUSE) -> None:
        self.url, self.root = url.rstrip("/"), root
        self.notice: Callable[[str], None] = _warn
        self._fs, self._base = _file_system(self.url)
        if Path(self._base) == root.resolve() and "file" in self._fs.protocol:
            raise UsageError(f"resources.storage: {url} is --root itself: leave it out, or name another place")
        self._owed = root / OWED / digest_of(self.url)[:8]
        self._away, self._pause = False, pause
        self._silent_until = 0.0

    # ---------------------------------------------------------------------------------------- tolerant
    def keep(self, key: str) -> bool:
        """Push what is at ``root/key``, now or, when the store is away, later. Whether it is there now."""
        self.owe(key)
        if self.attempt(lambda: self._pushed(key)) is None:
            return False
        self._mark(key).unlink(missing_ok=True)
        return True

    def owe(self, key: str) -> None:
        """Write down that this is to be pushed: a process that is killed now leaves it to the next one."""
        mark = self._mark(key)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def keep_owed(self) -> int:
        """Push what could not be pushed so far, here and by processes that are gone. How much is left."""
        marks = sorted(self._owed.glob("*"))
        for i, mark in enumerate(marks):
            if not self.keep(unquote(mark.name)):
                return len(marks) - i
        return 0

    def attempt(self, ask: Callable[[], T]) -> T | None:
        """What the store answers; None while it is away. That is said once, and not tried again for a while."""
        began = time.monotonic()
        if began < self._silent_until:
            return None
        try:
            found = ask()
        except StoreError as e:
            now = time.monotonic()
            self._silent_until = now + max(AWAY_SECONDS, min(AWAY_MOST, self._pause * (now - began)))
            if not self._away:
                self._away = True
                self.notice(f"NOTICE {e}; work goes on here, and what the store lacks is pushed when it is back")
            return None
        if self._away:
            self._away = False
            self.notice(f"{self.url} can be reached again")
        return found

    def try_again(self) -> None:
        """Ask at the next occasion, however short ago the store was found to be away."""
        self._silent_until = 0.0

    def _mark(self, key: str) -> Path:
        return self._owed / quote(key, safe="")

    def _pushed(self, key: str) -> bool:
        with suppress(FileNotFoundError):  # of this machine: what is being replaced is pushed by who replaces it
            self.push(key)
        return True

    # --------------------------------------------------------------------------------------- both ways
    def push(self, key: str) -> None:
        """Copy what is at ``root/key`` to the store; nothing is done where it is not there, or there already.

        A folder with a manifest of its own (a cache entry) never changes: the first whole copy stays. Of another, what
        differs is replaced.
        """
        path = self.root / key
        if path.is_dir():
            self._push_folder(path, key)
        elif path.suffix == ".jsonl" and path.is_file():
            here, there = path.read_bytes(), self.read(key) or b""
            if more := _lines_beyond(here, there):
                self.write(key, whole_lines(there) + more)
        elif path.is_file():
            self._put(path, key)

    def _push_folder(self, folder: Path, key: str) -> None:
        own = folder / MANIFEST
        there = self.manifest(key)
        if there is not None and own.is_file():
            return
        manifest = _manifest(own.read_bytes()) if own.is_file() else {"files": checksums(folder)}
        if manifest is None or manifest == there:
            return
        known = there["files"] if there else {}
        for name, checksum in manifest["files"].items():
            if known.get(name) != checksum:
                self._put(folder / name, f"{key}/{name}")
        self.write(f"{key}/{MANIFEST}", json.dumps(manifest, indent=2).encode())

    def fetch_folder(self, key: str, into: Path, *, without: str | None = None) -> dict[str, Any] | None:
        """Fill an empty folder with the store's copy, every file checked: its manifest, or None without a whole copy.

        ``without``: a folder in it that is left out. A damaged copy is reported, and marked so that nobody takes it and
        the next push replaces it.
        """
        wrong: list[str] = []
        for _ in range(2):  # another machine may replace it just now
            manifest = self.manifest(key)
            if manifest is None:
                return None
            wanted = {n: c for n, c in manifest["files"].items() if without is None or not n.startswith(f"{without}/")}
            wrong = [name for name, checksum in wanted.items() if not self._got(f"{key}/{name}", into / name, checksum)]
            if not wrong:
                return manifest
        self.write(f"{key}/{MANIFEST}", b"")
        self.notice(f"NOTICE {self.url}/{key} is damaged ({', '.join(wrong)}); it is made again, and replaced there")
        return None

    def manifest(self, key: str) -> dict[str, Any] | None:
        """The manifest of a folder in the store, with the checksum of each file; None when no whole copy is there."""
        return _manifest(self.read(f"{key}/{MANIFEST}") or b"")

    def grow(self, key: str) -> bool:
        """Add to a file of lines here what only the store's copy holds, where that one is longer.

        Whether the store holds as much as there is here now.
        """
        path = self.root / key
        here = path.read_bytes() if path.is_file() else b""
        there = self._size(key) or 0
        if there <= len(here):
            return there == len(here)
        data = self.read(key) or b""
        if more := _lines_beyond(data, here):
            write_text(path, (whole_lines(here) + more).decode("utf-8", "replace"))
        return not _lines_beyond(here, data)

    # ------------------------------------------------------------------------------------------- verbs
    def read(self, key: str) -> bytes | None:
        """A file of the store; None when it is not there."""
        try:
            found: bytes = self._ask(lambda: self._fs.cat_file(self._at(key)), may_lack=True)
        except FileNotFoundError:
            return None
        return found

    def write(self, key: str, data: bytes) -> None:
        """Replace a file of the store, in one step where the store can."""
        self._replace(key, lambda at: self._fs.pipe_file(at, data))

    def names(self, key: str) -> dict[str, int | None]:
        """What lies directly below a key, with sizes in bytes, of folders None; nothing when the key is not there."""
        self._fs.invalidate_cache()  # what another machine has put there since is in no cache of ours
        try:
            rows = self._ask(lambda: self._fs.ls(self._at(key), detail=True), may_lack=True)
        except FileNotFoundError:
            return {}
        named = {PurePosixPath(row["name"]).name: row["size"] if row["type"] == "file" else None for row in rows}
        named.pop(PurePosixPath(key).name, None)  # some stores list the folder itself
        return named

    def _put(self, path: Path, key: str) -> None:
        if path.is_file():  # what has gone meanwhile is no fault of the store
            seconds = ANSWER_SECONDS + path.stat().st_size / UPLOAD_RATE
            self._replace(key, lambda at: self._fs.put_file(str(path), at), seconds)

    def _got(self, key: str, path: Path, checksum: str) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._ask(lambda: self._fs.get_file(self._at(key), str(path)), may_lack=True, seconds=FILE_SECONDS)
        except FileNotFoundError:
            return False
        return checksum_of(path) == checksum

    def _size(self, key: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._ask(lambda: self._fs.info(self._at(key)), may_lack=True)["size"])
        except FileNotFoundError:
            return None

    def _replace(self, key: str, put: Callable[[str], object], seconds: float | None = None) -> None:
        """An object store shows an object when it is whole. In a folder, what is whole is renamed."""
        from fsspec.implementations.local import LocalFileSystem

        at = self._at(key)
        if not isinstance(self._fs, LocalFileSystem):
            self._put_into_folder(at, put, seconds)
            return
        partial = f"{at}.{uuid.uuid4().hex[:8]}.partial"
        self._put_into_folder(partial, put, seconds)
        self._ask(lambda: self._fs.mv(partial, at))

    def _put_into_folder(self, at: str, put: Callable[[str], object], seconds: float | None) -> None:
        try:
            self._ask(lambda: put(at), may_lack=True, seconds=seconds)
        except FileNotFoundError as e:
            if self._fs.async_impl:  # an object store, which has no folders: it is the bucket that is not there
                raise StoreError(f"{self.url} can't be written: {e}") from e
            self._ask(lambda: (self._fs.makedirs(at.rpartition("/")[0], exist_ok=True), put(at)), seconds=seconds)

    def _at(self, key: str) -> str:
        return f"{self._base}/{key}"

    def _ask(self, what: Callable[[], T], *, may_lack: bool = False, seconds: float | None = None) -> T:
        """Ask a few times, or until nothing has come for so many seconds.

        ``may_lack``: raise ``FileNotFoundError`` as it is.
        """
        for pause in (*RETRY_SECONDS, None):
            try:
                return _within(seconds or ANSWER_SECONDS, what)
            except Exception as e:  # the libraries behind fsspec share no class of errors
                if may_lack and isinstance(e, FileNotFoundError):
                    raise
                if pause is None or isinstance(e, PermissionError | TimeoutError):
                    raise StoreError(f"{self.url} can't be reached ({type(e).__name__}: {e})") from e
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


@lru_cache(8)
def opened(url: str | None, root: Path) -> Store | None:
    """The store at a URL, one for each process; None without a URL.

    Raises ``MissingError`` when the protocol's package is not installed, ``UsageError`` when nobody knows the protocol.
    """
    return None if url is None else Store(url, root)


def fetch_trial(
    store: Store, key: str, *, without: str | None = None, accept: Callable[[Path], bool] | None = None
) -> bool:
    """Put the store's copy of a trial's folder at ``root/key``, in place of what is there; whether there was one.

    ``without``: a folder in it that is left out. ``accept``: whether the copy, fetched, is the one that is wanted.
    """
    folder = store.root / key
    temporary = folder.parent.parent / ".fetched" / f"{folder.name}.{uuid.uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        if store.fetch_folder(key, temporary, without=without) is None:
            return False
        if accept is not None and not accept(temporary):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def checksum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder and below, by its path with slashes; what is hidden or passing is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] not in NOT_CARRIED and not any(p.startswith(".") for p in inside.parts):
            found[inside.as_posix()] = checksum_of(path)
    return found


def whole_lines(data: bytes) -> bytes:
    """Without a last line that was cut off."""
    return data[: data.rfind(b"\n") + 1]


def _manifest(data: bytes) -> dict[str, Any] | None:
    """A manifest whose files all lie inside its folder; None for anything else."""
    try:
        found: dict[str, Any] = json.loads(data)
        names = [PurePosixPath(name) for name in found["files"]]
    except (ValueError, KeyError, TypeError):
        return None
    if any(not name.parts or name.is_absolute() or ".." in name.parts for name in names):
        return None
    return found if isinstance(found["files"], dict) else None


def _lines_beyond(lines: bytes, known: bytes) -> bytes:
    """The whole lines of the first file that the second one lacks."""
    there = set(known.split(b"\n"))
    return b"".join(line + b"\n" for line in lines.split(b"\n")[:-1] if line and line not in there)


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """(fsspec's file system, the path in it)."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        fs, path = url_to_fs(url)
    except ImportError as e:
        package = str(known_implementations.get(protocol, {}).get("class", protocol)).partition(".")[0]
        raise MissingError(
            f"resources.storage: {url} needs the package {package!r} ({e})",
            hint=f"pip install {package}, on every machine that runs trials",
        ) from e
    except ValueError as e:
        raise UsageError(
            f"resources.storage: {url}: {e}",
            hint="a URL that fsspec knows: s3://bucket/prefix, gs://..., file:///mnt/x",
        ) from e
    except Exception as e:  # of the protocol's library: no credentials, say
        raise MissingError(f"resources.storage: {url} can't be opened ({type(e).__name__}: {e})") from e
    return fs, path.rstrip("/")


def _within(seconds: float, what: Callable[[], T]) -> T:
    """What comes of it. ``TimeoutError`` after so many seconds: it is left to itself then, and may still be done."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(what())
        except BaseException as e:  # raised where the answer is waited for
            answer.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError as e:
        raise TimeoutError(str(e) or f"no answer in {seconds:.0f} s") from e


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
