"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

POLL_SECONDS = 2.0


class Display:
    """Says lines, and follows the logs of running trials."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._lines: list[str] = []

    def say(self, text: str) -> None:
        """One line with the minutes since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        line = f"[{minutes:02d}:{seconds:02d}] {text}"
        self._lines.append(line)
        if not self._terminal:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def following(self, run_dir: Path) -> Iterator[None]:
        """While open: the live table, or every new line of a trial's log."""
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            with Live(
                get_renderable=lambda: self._table(run_dir), console=console, refresh_per_second=1 / POLL_SECONDS
            ):
                yield
            return
        stop = threading.Event()
        follower = threading.Thread(target=self._follow, args=(run_dir, stop), daemon=True)
        follower.start()
        try:
            yield
        finally:
            stop.set()
            follower.join()

    def _follow(self, run_dir: Path, stop: threading.Event) -> None:
        read = {log: log.stat().st_size for log in run_dir.glob("trials/*/log.txt")}
        while True:
            ended = stop.wait(POLL_SECONDS)
            for log in sorted(run_dir.glob("trials/*/log.txt")):
                with log.open("rb") as file:
                    file.seek(read.get(log, 0))
                    new = file.read()
                read[log] = read.get(log, 0) + len(new)
                for line in new.decode("utf-8", "replace").splitlines():
                    self.say(f"{log.parent.name}  {line.partition(' ')[2]}")
            if ended:
                return

    def _table(self, run_dir: Path) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        from robusweep.sweep.status import read_status

        status = read_status(run_dir)
        of = f"/{status.n_trials}" if status.n_trials else ""
        done = sum(t.state in {"complete", "failed"} for t in status.trials)
        table = Table(
            title=f"{status.name}: {done}{of} trials, {status.n_points} points, {status.n_front} on the front",
            title_justify="left",
            min_width=72,
        )
        for heading in ("trial", "state", "last"):
            table.add_column(heading, no_wrap=heading != "last")
        for row in status.trials[-12:]:
            table.add_row(row.id, row.state, row.last)
        return Group(*map(Text, self._lines[-8:]), table)
