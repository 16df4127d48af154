"""The front, and a model under attack, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from robusweep.front import UNDER_ATTACK, Point, short_name
from robusweep.record import FLAGS
from robusweep.report.readings import Axis, attack_names, counted_costs, held_out_names, measured, under_attack
from robusweep.report.sentences import BEST, FLAG, FRONT, INFEASIBLE, KNEE, count_text, n_text
from robusweep.scores import Rate

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

APART = {  # title, and what is said where no point has such rates
    "static": (
        "On texts with which an attack broke the clean adapter. Not to be compared with an attack on the point itself.",
        "No point has been given texts made against the clean adapter: attacks.static is off.",
    ),
    "unaided": (
        "Under each attack by itself, and what texts that break single adapters took from that, in points.",
        "The weights of no point depend on the text, or attacks.adaptive is off: nothing but the attacks was tried.",
    ),
}
PARAMS, LEAST_PARAMS = "params", 16  # the one column that is folded, and to what at most
BY_ITSELF = "by itself: without the texts that break single adapters or their even mean, which count above"


def front_table(
    points: Sequence[Point],
    *,
    with_dominated: bool = False,
    probabilities: Mapping[str, float] | None = None,
    width: int | None = None,
) -> Table:
    """The front by falling clean accuracy, then the dominated points by rank when they are asked for.

    ``probabilities``: how often each point is on the front when the examples are drawn again. ``width``: columns that
    the terminal has; where the table needs more, intervals stand below their rates, and then costs are left out.
    """
    from rich.table import Table
    from rich.text import Text

    shown = _in_order([point for point in points if point.pareto or with_dominated])
    first, rates, costs = _first_columns(shown), _rate_columns(shown, attack_names(points)), _cost_columns(shown)
    stacked, chances = [_stacked(column) for column in rates], _chances(shown, probabilities)
    choices = [
        [*first, *rates, *costs, *chances],
        [*first, *stacked, *costs, *chances],
        [*first, *stacked, *chances],
    ]
    columns = next((c for c in choices if width is None or _least_width(c) <= width), choices[-1])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, *_ in columns:
        side: Literal["left", "right"] = "left" if head in ("", "id", PARAMS) else "right"
        table.add_column(Text(head), justify=side, no_wrap=head != PARAMS, overflow="fold")
    for point, *cells in zip(shown, *(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, cells), style="red" if point.pareto else "dim")
    if costs and columns is choices[-1]:
        table.caption, table.caption_justify = Text("costs: in a wider terminal, or with --json"), "left"
    return table


Column = list[str]  # the head, then a cell for each point


def _first_columns(shown: Sequence[Point]) -> list[Column]:
    named = [f"{p.id} {FLAG}" if p.flags else f"{p.id} stopped" if p.stopped else p.id for p in shown]
    params = ["\n".join([short_name("", p.params).strip(), *p.violated]) for p in shown]
    return [["", *map(_mark, shown)], ["id", *named], [PARAMS, *params]]


def _rate_columns(shown: Sequence[Point], attacks: Sequence[str]) -> list[Column]:
    metrics = {"clean": "clean_accuracy", "robust": "robust_accuracy"} | {a: UNDER_ATTACK + a for a in attacks}
    found = []
    for head, metric in metrics.items():
        rates = [measured(point, metric) for point in shown]
        counts = n_text([rate for rate in rates if isinstance(rate, Rate)])
        found.append([f"{head} %\n{counts}", *map(_numbers, rates)])
    return found


def _cost_columns(shown: Sequence[Point]) -> list[Column]:
    """Costs that differ between the points."""
    costs = [cost for cost in counted_costs(shown) if len({getattr(point, cost) for point in shown}) > 1]
    return [
        [cost.replace("_", "\n", 1), *("" if (c := getattr(p, cost)) is None else count_text(c) for p in shown)]
        for cost in costs
    ]


def _chances(shown: Sequence[Point], probabilities: Mapping[str, float] | None) -> list[Column]:
    if probabilities is None:
        return []
    shares = [f"{100 * probabilities[p.id]:.0f}" if p.id in probabilities else "" for p in shown]
    return [["on the front\n% of draws", *shares]]


def _stacked(column: Column) -> Column:
    """A column of rates made narrow: intervals below the rates, and the head cut at its underscores."""
    head, *cells = column
    return [head.replace("_", "_\n"), *(cell.replace(" [", "\n[") for cell in cells)]


def _least_width(columns: Sequence[Column]) -> int:
    """Columns of a terminal that a table needs when nothing but the parameters is folded."""
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    widths = [min(w, LEAST_PARAMS) if column[0] == PARAMS else w for w, column in zip(widths, columns, strict=True)]
    return sum(widths) + 2 * len(columns)


def apart_table(points: Sequence[Point], which: Literal["static", "unaided"]) -> Group:
    """Rates that are kept apart from those of the front's table: a row for each point that has any.

    ``static``: on texts made against the clean adapter. ``unaided``: of each attack by itself, where texts that break
    single adapters were tried, too, with what these have taken from it, in points.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title, none = APART[which]
    shown = _in_order([point for point in points if getattr(point, which)])
    if not shown:
        return Group(Text(none, style="dim"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True)
    known, held_out = attack_names(shown), held_out_names(shown)
    attacks = [a for a in [*known, *held_out] if any(a in getattr(point, which) for point in shown)]
    for attack in attacks:
        rates = [rate for point in shown if (rate := getattr(point, which).get(attack))]
        name = attack if attack in known else f"{attack}, held out"
        table.add_column(Text(f"{name} %\n{n_text(rates)}"), justify="right")
    for point in shown:
        cells = [point.id]
        for attack in attacks:
            rate = getattr(point, which).get(attack)
            lower = under_attack(point, attack) if which == "unaided" else None
            less = f" {100 * (lower.value - rate.value):+.1f}" if rate and lower else ""
            cells.append("" if rate is None else f"{_numbers(rate)}{less}")
        table.add_row(*map(Text, cells), style="red" if point.pareto else "dim")
    return Group(Text(f"\n{title}"), table)


def _in_order(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (p.pareto_rank, -p.clean_accuracy.value, p.id))


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
        if name in summary["unaided"]:
            table.add_row("  by itself", _numbers(Rate.model_validate(summary["unaided"][name])), *[""] * 5)
    protocol = summary["protocol"]
    temperature = summary["temperature"]
    said = "no temperature" if temperature is None else f"temperature {temperature:.3g}"
    under = f"{summary['n']} texts, {protocol['name']}, protocol hash {protocol['hash']}, {said}"
    lines = [Text(under, style="dim")]
    lines += [Text(BY_ITSELF, style="dim")] if summary["unaided"] else []
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
