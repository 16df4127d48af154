"""The front, and a model under attack, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robusweep.front import UNDER_ATTACK, Point, short_name
from robusweep.record import FLAGS
from robusweep.report.readings import Axis, attack_names, counted_costs, measured
from robusweep.report.sentences import BEST, FLAG, FRONT, INFEASIBLE, KNEE, count_text, n_text
from robusweep.scores import Rate

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def front_table(
    points: Sequence[Point], *, with_dominated: bool = False, probabilities: Mapping[str, float] | None = None
) -> Table:
    """The front by falling clean accuracy, then the dominated points by rank when they are asked for.

    ``probabilities``: how often each point is on the front when the examples are drawn again.
    """
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
    costs = [cost for cost in counted_costs(shown) if len({getattr(point, cost) for point in shown}) > 1]
    for cost in costs:
        table.add_column(cost.replace("_", "\n", 1), justify="right", no_wrap=True)
    if probabilities is not None:
        table.add_column("on the front\n% of draws", justify="right", no_wrap=True)
    for point in shown:
        named = f"{point.id} {FLAG}" if point.flags else f"{point.id} stopped" if point.stopped else point.id
        cells = [_mark(point), named, "\n".join([short_name("", point.params).strip(), *point.violated])]
        cells += [_numbers(measured(point, metric)) for metric in metrics.values()]
        cells += ["" if (c := getattr(point, cost)) is None else count_text(c) for cost in costs]
        if probabilities is not None:
            cells.append(f"{100 * probabilities[point.id]:.0f}" if point.id in probabilities else "")
        table.add_row(*map(Text, cells), style="red" if point.pareto else "dim")
    return table


def attack_table(summary: Mapping[str, Any]) -> Group:
    """What ``robusweep attack --json`` prints, for people: one row for each attack, then what makes it doubtful."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for head in ("accuracy %", "attack success %", "queries median", "p90", "words changed", "similarity"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, key in (("clean", "clean_accuracy"), ("robust, under all", "robust_accuracy")):
        if summary[key] is not None:
            table.add_row(name, _numbers(Rate.model_validate(summary[key])), *[""] * 5)
    for name, score in summary["attacks"].items():
        rates = [_numbers(Rate.model_validate(score[key])) for key in ("accuracy_under_attack", "success_rate")]
        keys = ("n_queries_median", "n_queries_p90", "words_changed_mean", "similarity_mean")
        words = "under" if score["goal"] == "change_label" else "not broken by"
        table.add_row(f"{words} {name}", *rates, *(_short(score[key]) for key in keys))
    protocol = summary["protocol"]
    temperature = summary["temperature"]
    said = "no temperature" if temperature is None else f"temperature {temperature:.3g}"
    under = f"{summary['n']} texts, {protocol['name']}, protocol hash {protocol['hash']}, {said}"
    lines = [Text(under, style="dim")]
    lines += [Text(f"{FLAG} {f['name']}: {FLAGS[f['name']]} ({f['detail']})", style="bold") for f in summary["flags"]]
    return Group(table, *lines)


def comparison_table(found: Mapping[str, Any]) -> Group:
    """What ``robusweep compare --json`` prints, for people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for head in ("first %", "second %", "difference\nin points", "only\nfirst", "only\nsecond", "p\n(McNemar)"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in found["comparisons"].items():
        n = "" if row["first"]["n"] == found["n"] else f" (n = {row['first']['n']})"
        rates = [_numbers(Rate.model_validate(row[side])) for side in ("first", "second")]
        difference = f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        counts = [str(row["n_only_first"]), str(row["n_only_second"])]
        table.add_row(Text(Axis(name).label + n), *rates, difference, *counts, f"{row['p_value']:.3g}")
    said = f"first: {found['first']}, second: {found['second']}, on the same {found['n']} examples, protocol hash"
    return Group(table, Text(f"{said} {found['protocol_hash']}", style="dim"))


def confirmation_table(found: Sequence[Mapping[str, Any]]) -> Group:
    """What ``robusweep confirm --json`` prints, for people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("point", no_wrap=True)
    table.add_column("", overflow="fold")
    for head in ("validation %", "test %", "shrinkage\nin points", "trained again %"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in found:
        for i, (metric, gap) in enumerate(one["shrinkage"].items()):
            rates = [_numbers(Rate.model_validate(gap[side])) for side in ("first", "second")]
            shrinkage = f"{100 * gap['difference']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
            again = ", ".join(f"{100 * rates_again[metric]:.1f}" for rates_again in one["again"])
            table.add_row(Text(one["point"] if i == 0 else ""), Text(Axis(metric).label), *rates, shrinkage, again)
    said = [
        f"{one['point']}: chosen among {one['n_points']} points; {_flags(one['test'])}; protocol hash "
        f"{one['protocol_hash']}"
        for one in found
    ]
    return Group(table, *(Text(line, style="dim") for line in said))


def _flags(point: Mapping[str, Any]) -> str:
    return ", ".join(flag["name"] for flag in point["flags"]) or "no flags"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _mark(point: Point) -> str:
    if point.violated:
        return INFEASIBLE
    plain = KNEE if point.knee else FRONT if point.pareto else ""
    return f"{plain}{BEST}" if point.best and not point.knee else plain


def _numbers(rate: Rate | float) -> str:
    """``93.5 [91.0, 95.4]``: the percent sign stands in the head of the column."""
    if not isinstance(rate, Rate) or rate.n == 0:
        return "no data"
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
