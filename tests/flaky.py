"""A store that goes away: local files under ``flaky://`` that fail while the file named by ``FLAKY_AWAY`` is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

AWAY = "FLAKY_AWAY"


class Flaky(LocalFileSystem):
    protocol = "flaky"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("flaky://")))

    def __getattribute__(self, name: str) -> Any:
        if name in ("open", "ls", "info", "put_file", "get_file", "mv") and Path(os.environ[AWAY]).exists():
            raise ConnectionError("no route to host")
        return super().__getattribute__(name)


fsspec.register_implementation("flaky", Flaky, clobber=True)
