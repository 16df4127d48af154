"""Versions, commit and kind of machine, for the record. Nothing is imported to find them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from robusweep import __version__

PACKAGES = ("torch", "transformers", "peft", "textattack", "optuna", "ray", "mlflow", "numpy")


@cache
def environment() -> dict[str, str]:
    """One line of text for each thing that may explain a difference between two records."""
    found = {"robusweep": __version__, "python": platform.python_version()}
    found |= {"machine": platform.machine(), "platform": sys.platform}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    found["commit"], found["tree"] = _commit()
    return found


def _commit() -> tuple[str, str]:
    """(commit of the package's checkout or "none", "clean" | "changed" | "none")."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", str(here))
    except (OSError, subprocess.SubprocessError):
        return "none", "none"
    return head, "changed" if changed else "clean"


def _git(folder: Path, *arguments: str) -> str:
    """What git says about the folder; it takes no locks and asks nothing."""
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, env=env, timeout=10
    )
    return done.stdout.strip()
