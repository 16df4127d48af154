"""What ends a sweep before its budget is spent: signals, or a full disk. The same command goes on afterwards."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from robusweep.errors import MissingError, RobusweepError

FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}


class Stop:
    """How often the sweep was asked to end: once, what runs may end first; twice, it is abandoned.

    Signals only count here. An exception that a handler raises comes up anywhere, also where some library clears up;
    whoever runs the trials looks at the count between two steps instead.
    """

    def __init__(self) -> None:
        self.n_asked = 0
        self._hangs = False

    def listen(self) -> None:
        """Answer SIGTERM, and Ctrl-C unless it is ignored, as in a shell's background, from now on.

        SIGTERM counts as two. The third Ctrl-C raises ``KeyboardInterrupt`` wherever the main thread is.
        """
        if _in_main_thread():
            signal.signal(signal.SIGTERM, self._terminated)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._pressed)

    def interrupt(self) -> None:
        """From another thread: raise ``KeyboardInterrupt`` in the main one, which doesn't look at the count."""
        self._hangs, main = True, threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, signal.SIGTERM)

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        self.n_asked += 2
        if self._hangs:
            raise KeyboardInterrupt

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        self.n_asked += 1
        if self.n_asked > 2:
            signal.default_int_handler(number, frame)


@contextmanager
def stopped_readably(root: Path) -> Iterator[Stop]:
    """Signals ask what is inside to end; it raises ``KeyboardInterrupt`` itself when it does.

    A full disk is a ``MissingError`` that says what to free.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = Stop()
    stop.listen()
    try:
        yield stop
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
            for number, handler in before.items():
                signal.signal(number, handler)


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
