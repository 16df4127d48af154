"""Where MLflow's data is, and a client for it that leaves the process as it found it."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from robusweep.errors import MissingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK_SECONDS = 60.0  # how long one sync waits for another of the same database
SQLITE_SECONDS = 5.0  # how long to wait for a database that something else is writing
# Set for the time of a call, where the user has not set them. MLflow's own defaults (7 retries of 120 s) would
# hold a sweep up for many minutes when its server is down, and its RestStore prints run addresses.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def store_uri(root: Path, tracking_uri: str | None = None) -> str:
    """The argument, else ``MLFLOW_TRACKING_URI``, else what a bare ``mlflow ui`` in ``root`` opens."""
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def is_server(uri: str) -> bool:
    """Whether a tracking server, not this process, decides where artifacts go."""
    return uri.startswith(("http://", "https://", "databricks"))


def database_file(uri: str) -> Path | None:
    """The file of an SQLite URI, None for any other store."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(path)


@contextmanager
def opened(uri: str) -> Iterator[MlflowClient]:
    """A client for ``uri``, while no other sync writes to the same SQLite file.

    An empty database gets its tables here: MLflow's migrations crash when two processes start them at once. MLflow's
    and Alembic's INFO lines and third-party warnings are silent inside. The global tracking URI, logging levels,
    warning filters and the environment are as before afterwards.

    Raises ``MissingError`` when the store can't be reached, read or written, also from the body.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_quiet())
        stack.enter_context(_as_missing(uri))
        file = database_file(uri)
        if file is not None:
            stack.enter_context(_locked(file))
            _check_writable(file)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _environment() -> Iterator[None]:
    added = {key: value for key, value in ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextmanager
def _quiet() -> Iterator[None]:
    import mlflow  # noqa: F401  # importing it sets its loggers' levels: they are to be ours only until the end

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _as_missing(uri: str) -> Iterator[None]:
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise MissingError(
            f"MLflow at {uri} can't be read or written: {cause[0]}",
            hint="the sweep's records are complete without it; mend the cause and the next sync writes everything",
        ) from error


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = file.with_name(f"{file.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        _acquire(handle, lock)
        yield  # closing the file gives the lock back, also when the process is killed


def _acquire(handle: TextIO, lock: Path) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"another process has held {lock} for {LOCK_SECONDS:.0f} s") from None
            time.sleep(0.1)


def _check_writable(file: Path) -> None:
    """Fail in seconds on a file that is locked, read-only or no database; MLflow itself retries for 100 s."""
    with closing(sqlite3.connect(file, timeout=SQLITE_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
