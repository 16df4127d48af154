"""Whether a sweep has ended before its budget is spent, written down so that a resume does not take it up again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from robusweep.hypervolume import Saturation
from robusweep.record import write_text
from robusweep.spec import Spec


class _Written(Spec):
    """``ended.json``: the rule and the budget under which a sweep ended, and how many trials were complete."""

    rule: Saturation
    n_trials: int
    n_complete: int
    reason: str


class Ending:
    """The rule at work. ``reason``: why no more trials are handed out; None while they are.

    What was decided holds until the rule or the budget is another; the rule then waits for as many trials as it looks
    back on, completed since.
    """

    def __init__(self, run_dir: Path, rule: Saturation | None, n_trials: int) -> None:
        self._file, self._rule, self._n_trials = run_dir / "ended.json", rule, n_trials
        self.reason: str | None = None
        self._since = 0
        if (written := self._read()) is not None:
            self._since = written.n_complete
            if (written.rule, written.n_trials) == (rule, n_trials):
                self.reason = written.reason

    def look(self, volumes: Sequence[float]) -> None:
        """Decide anew. ``volumes``: the hypervolume after each completed trial."""
        if self._rule is None or self.reason is not None:
            return
        self.reason = self._rule.reason(volumes, since=self._since)
        if self.reason is not None:
            written = _Written(rule=self._rule, n_trials=self._n_trials, n_complete=len(volumes), reason=self.reason)
            write_text(self._file, written.model_dump_json() + "\n")

    def _read(self) -> _Written | None:
        try:
            return _Written.model_validate_json(self._file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
