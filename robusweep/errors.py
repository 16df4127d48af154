"""Errors that a person reads. Each class carries the exit code that the command line ends with."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RobusweepError(Exception):
    """Base of every error that robusweep raises on purpose: one line of what, and a hint of what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only `hint` must survive pickling between processes
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[RobusweepError], message: str, hint: str | None) -> RobusweepError:
    return kind(message, hint=hint)


class RecipeError(RobusweepError):
    """A recipe, search space or override is wrong. The message names file:line, dotted key, given and allowed."""

    exit_code = 2


class UsageError(RobusweepError):
    """The command line asks for something that does not exist or contradicts what is on disk."""

    exit_code = 2


class MissingError(RobusweepError):
    """Data, a model, a lexical resource or part of the environment is missing or unreadable."""

    exit_code = 3


class StageError(RobusweepError):
    """A stage of a trial failed; the message names the stage."""

    exit_code = 1


class EmptyFrontError(RobusweepError):
    """There is no completed point, so there is no Pareto front."""

    exit_code = 5


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is most like ``given``, or None when none is close."""
    matches = get_close_matches(given, [str(name) for name in allowed], n=1, cutoff=0.6)
    return matches[0] if matches else None
