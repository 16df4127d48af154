"""The Ray cluster that a sweep joins, and what Ray prepares for its workers there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robusweep.errors import UsageError, nearest
from robusweep.yaml_source import load_yaml

FIELDS = (  # of Ray's runtime environments
    "working_dir",
    "py_modules",
    "py_executable",
    "excludes",
    "pip",
    "uv",
    "conda",
    "env_vars",
    "image_uri",
    "container",
    "worker_process_setup_hook",
    "config",
)


@dataclass(frozen=True)
class Cluster:
    """Where trials run on Ray. ``address``: a running cluster, ``auto`` or ``host:port``; None starts Ray here.

    ``runtime_env`` is Ray's, of the workers; empty: they are started as the cluster was.
    """

    address: str | None = None
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"Ray at {self.address}" if self.address else "Ray"


def cluster_at(address: str | None, runtime_env: Path | None, executor: str) -> Cluster:
    """The cluster of a command line. ``runtime_env``: a YAML or JSON file.

    Raises ``UsageError`` for an executor that is not Ray, and ``RecipeError`` with file, line and key for a file that
    is no runtime environment.
    """
    given = [name for name, value in (("--address", address), ("--runtime-env", runtime_env)) if value is not None]
    if given and executor != "ray":
        raise UsageError(f"{given[0]} is of Ray, and the executor is {executor!r}", hint="add resources.executor=ray")
    if runtime_env is None:
        return Cluster(address)
    source = load_yaml(runtime_env)
    for key, value in source.tree.items():
        if key not in FIELDS:
            close = nearest(key, FIELDS)
            hint = f"did you mean {close!r}?" if close else None
            raise source.error((key,), f"unknown key (allowed: {', '.join(FIELDS)})", of_key=True, hint=hint)
        if key == "env_vars" and not _of_texts(value):
            raise source.error((key,), f"{value!r}: expected names with texts (quote numbers)")
    return Cluster(address, source.tree)


def _of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
