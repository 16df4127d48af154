"""The front as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robusweep.front import Point, short_name
from robusweep.report.readings import UNDER_ATTACK, attack_names, measured
from robusweep.report.sentences import FRONT, KNEE, n_text
from robusweep.scores import Rate

if TYPE_CHECKING:
    from rich.table import Table


def front_table(points: Sequence[Point], *, with_dominated: bool = False) -> Table:
    """The front by falling clean accuracy, then the dominated points by rank when they are asked for."""
    from rich.table import Table
    from rich.text import Text

    shown = [point for point in points if point.pareto or with_dominated]
    shown.sort(key=lambda p: (p.pareto_rank, -p.clean_accuracy.value, p.id))
    metrics = {"clean": "clean_accuracy", "robust": "robust_accuracy"}
    metrics |= {attack: UNDER_ATTACK + attack for attack in attack_names(points)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "id", "params"):
        table.add_column(head, overflow="fold")
    for head, metric in metrics.items():
        rates = [rate for rate in (measured(p, metric) for p in shown) if isinstance(rate, Rate)]
        table.add_column(Text(f"{head} %\n{n_text(rates)}"), justify="right", no_wrap=True)
    for point in shown:
        cells = [_mark(point), point.id, short_name("", point.params).strip()]
        cells += [_numbers(measured(point, metric)) for metric in metrics.values()]
        table.add_row(*map(Text, cells), style="red" if point.pareto else "dim")
    return table


def _mark(point: Point) -> str:
    return KNEE if point.knee else FRONT if point.pareto else ""


def _numbers(rate: Rate | float) -> str:
    """``93.5 [91.0, 95.4]``: the percent sign stands in the head of the column."""
    if not isinstance(rate, Rate) or rate.n == 0:
        return "no data"
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
