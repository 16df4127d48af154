"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import Progress, TaskID

    from robusweep.attacks import Attack
    from robusweep.attacks.evaluation import Evaluation
    from robusweep.predict import Prediction, TextFile
    from robusweep.record import AttackOutcome

POLL_SECONDS = 2.0
LINE_SECONDS = 10.0  # between two lines about predictions


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
        volume = "" if status.hypervolume is None else f", hypervolume {status.hypervolume:.4f}"
        table = Table(
            title=f"{status.name}: {done}{of} trials, {status.n_points} points, {status.n_front} on the front{volume}",
            title_justify="left",
            min_width=72,
        )
        for heading in ("trial", "state", "doing", "last"):
            table.add_column(heading, no_wrap=heading != "last")
        for row in status.trials[-12:]:
            table.add_row(row.id, row.standing, row.doing, row.last)
        return Group(*map(Text, self._lines[-8:]), table)


class AttackDisplay:
    """Progress of ``robusweep attack`` on stderr: a bar for each attack on a terminal, a line at times elsewhere."""

    def __init__(self, n_lines: int = 10) -> None:
        self._terminal, self._n_lines = sys.stderr.isatty(), n_lines
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, list[int]] = {}  # attack -> [examples done, of them attacked, of them broken]
        self._evaluation: Evaluation | None = None
        self._began = time.monotonic()
        self._n_examples, self._part = 0, ""

    def __enter__(self) -> AttackDisplay:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """One line."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, evaluation: Evaluation, n_examples: int, part: str = "") -> None:
        """Attacks are about to begin, on the whole model or on a part of it."""
        self._evaluation, self._n_examples, self._began = evaluation, n_examples, time.monotonic()
        self._part = part
        self._counts.clear()
        self._tasks.clear()
        if self._terminal and self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = [TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
            columns += [TextColumn("{task.fields[standing]}"), TextColumn("{task.fields[speed]}")]
            self._bars = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bars.start()

    def outcome(self, attack: Attack, outcome: AttackOutcome) -> None:
        """One more example is done."""
        counted = self._counts.setdefault(attack.kind, [0, 0, 0])
        counted[0] += 1
        counted[1] += outcome.status != "misclassified"
        counted[2] += outcome.status == "broken"
        standing = f"{counted[2]} of {counted[1]} attacked are broken"
        name = f"{self._part}, {attack.kind}" if self._part else attack.kind
        if self._bars is not None:
            if attack.kind not in self._tasks:
                self._tasks[attack.kind] = self._bars.add_task(name, total=self._n_examples, standing="", speed="")
            self._bars.update(self._tasks[attack.kind], advance=1, standing=standing, speed=self._speed())
        elif counted[0] % max(1, self._n_examples // self._n_lines) == 0 or counted[0] == self._n_examples:
            self.say(f"{name}: {counted[0]}/{self._n_examples}, {standing}, {self._speed()}{self._left(counted[0])}")

    def _speed(self) -> str:
        n_computed = self._evaluation.n_computed if self._evaluation else 0  # what is remembered costs nothing
        return f"{n_computed / max(1e-3, time.monotonic() - self._began):.0f} queries/s"

    def _left(self, done: int) -> str:
        left = (time.monotonic() - self._began) / done * (self._n_examples - done)
        return f", {left:.0f} s left" if len(self._counts) == 1 and left >= 1 else ""


class PredictDisplay:
    """Progress of ``robusweep predict`` on stderr: a bar on a terminal, a line at times elsewhere; and the counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._bars: Progress | None = None

    def __enter__(self) -> PredictDisplay:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def n(self) -> int:
        """How many texts are done."""
        return self.counts.total()

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def following(
        self, chunks: Iterable[list[Prediction]], source: TextFile | None, *, prints: bool
    ) -> Iterator[list[Prediction]]:
        """The same chunks; what is done of a file is shown on the way. ``prints``: each chunk goes to stdout."""
        bar = source is not None and sys.stderr.isatty() and not (prints and sys.stdout.isatty())
        task = self._begun() if bar else None
        began = said = time.monotonic()
        for chunk in chunks:
            self.counts.update(prediction.label for prediction in chunk)
            yield chunk
            if source is None:
                continue
            now = time.monotonic()
            doing = f"{self.n} texts, {self.n / max(1e-3, now - began):.0f} texts/s"
            if self._bars is not None and task is not None:
                self._bars.update(task, completed=source.share, doing=doing)
            elif now - said >= LINE_SECONDS:
                said = now
                self.say(f"{source.share:.0%}, {doing}")
        if source is not None:
            counted = ", ".join(f"{label} {n}" for label, n in self.counts.most_common(12))
            if self._bars is not None:
                self._bars.stop()
            self.say(f"{self.n} texts in {time.monotonic() - began:.1f} s: {counted}")

    def _begun(self) -> TaskID:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [BarColumn(), TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.fields[doing]}")]
        self._bars = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._bars.start()
        return self._bars.add_task("predict", total=1.0, doing="")
