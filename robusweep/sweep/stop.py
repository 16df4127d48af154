"""What ends a sweep before its budget is spent: signals, or a full disk. The same command goes on afterwards."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from robusweep.errors import MissingError, RobusweepError

FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}


@contextmanager
def stopped_readably(root: Path) -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does. A full disk is a ``MissingError`` that says what to free."""
    before = signal.getsignal(signal.SIGTERM)
    stop_at_sigterm()
    try:
        yield
    except RobusweepError:  # it says what is wrong, also where an interrupt is what told us of it
        raise
    except Exception as e:
        if _interrupted(e):
            raise KeyboardInterrupt from e
        if isinstance(e, OSError) and e.errno in FULL:
            raise disk_full(f"{e.filename or root} can't be written ({FULL[e.errno]})", root) from e
        raise
    finally:
        if _in_main_thread():
            signal.signal(signal.SIGTERM, before)


def stop_at_sigterm() -> None:
    """From now on SIGTERM raises ``KeyboardInterrupt`` here. Only the main thread can ask for that."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut off the end of the workers
    raise KeyboardInterrupt


@contextmanager
def asked_first(stop: Callable[[], bool]) -> Iterator[None]:
    """The first Ctrl-C calls ``stop``, once; when that is false, and from the second on, it interrupts as ever.

    Where Ctrl-C is ignored, as in a shell's background, it stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        if not stop():
            signal.default_int_handler(number, frame)

    ours = _in_main_thread() and before is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _interrupted(error: BaseException | None) -> bool:
    """Whether the error came up while some library cleared up after a ``KeyboardInterrupt``."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def says_full(error: str) -> bool:
    """Whether an error's text, from whatever library, tells of a full disk."""
    return any(text in error for text in FULL.values())


def disk_full(what: str, root: Path) -> MissingError:
    return MissingError(
        f"the disk is full: {what}",
        hint=f"free some space where {root.resolve()} lies, then give the same command again: the sweep goes on "
        f"(runs that are not needed any more, and {root / 'cache'} while nothing runs, may be removed)",
    )
