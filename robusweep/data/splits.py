"""Four disjoint splits, stratified by label, drawn from a seed.

Test is drawn first, then validation, calibration and train, each by a generator of its own from what the splits
before left over. So ``n_train`` moves nothing out of another split. A split has the label shares of what it is drawn
from, to within one example per label, and at least one example of every label. Rows of one group (a film) stay in one
split; those that would overshoot a label's share are then in none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from robusweep.data.base import Corpus, Row
from robusweep.errors import MissingError
from robusweep.examples import Dataset, Example
from robusweep.seeds import generator


def split(corpus: Corpus, sizes: Mapping[str, int], seed: int, *, key: str = "data") -> Dataset:
    """Draw the splits of a cleaned corpus, in the order of ``sizes``; an official test part gives the test split.

    ``key`` is the dotted recipe key of the sizes, for messages. Raises MissingError when the corpus cannot give them,
    has one class only, or lacks a class in a split.
    """
    check_classes(corpus)
    check_sizes(corpus, sizes, key)
    pool: Sequence[Row] = corpus.rows
    drawn: dict[str, tuple[Example, ...]] = {}
    for name, n in sizes.items():
        official = corpus.test if name == "test" else None
        source = pool if official is None else official
        quotas = label_quotas(source, n, corpus.label_names, split_name=name, corpus_name=corpus.name, key=key)
        rng = generator(seed, "data", "split", name)
        rows, rest = draw(source, quotas, rng)
        if len(rows) < n:
            raise MissingError(
                f"{corpus.name}: {len(rows):,} texts can be had for the {name} split, {key}.n_{name} is {n:,}: "
                "rows of one group stay in one split, and label shares are kept",
                hint=f"lower {key}.n_{name} to at most {len(rows)}, or the sizes of the other splits",
            )
        if official is None:
            pool = rest
        drawn[name] = tuple(Example(row.text, corpus.label_names.index(row.label)) for row in rows)
    return Dataset(
        name=corpus.name,
        label_names=corpus.label_names,
        train=drawn["train"],
        validation=drawn["validation"],
        calibration=drawn["calibration"],
        test=drawn["test"],
        notes=corpus.notes,
    )


def check_classes(corpus: Corpus) -> None:
    """Raises MissingError when there is nothing to tell apart."""
    if len(corpus.label_names) < 2:
        only = f"one class only, {corpus.label_names[0]!r}" if corpus.label_names else "no class"
        raise MissingError(f"{corpus.name} has {only}", hint="a classifier needs rows of two classes or more")


def check_sizes(corpus: Corpus, sizes: Mapping[str, int], key: str) -> None:
    """Raises MissingError that says how many texts there are, what is asked, and which key to lower."""
    parts = [(corpus.rows, list(sizes), "")]
    if corpus.test is not None:
        parts = [
            (corpus.test, ["test"], " in its official test part"),
            (corpus.rows, [name for name in sizes if name != "test"], " in its train part"),
        ]
    for rows, names, where in parts:
        n_asked = sum(sizes[name] for name in names)
        if n_asked > len(rows):
            asked = " + ".join(f"n_{name} {sizes[name]:,}" for name in names)
            total = f" = {n_asked:,}" if len(names) > 1 else ""
            raise MissingError(
                f"{corpus.name} has {len(rows):,} different texts{where}, but {key} asks for {asked}{total}",
                hint=room_hint(len(rows), sizes, names, key),
            )


def room_hint(n_rows: int, sizes: Mapping[str, int], names: Sequence[str], key: str) -> str:
    """Lower the split that is drawn last when that is enough, else all of them."""
    *others, last = names
    room = n_rows - sum(sizes[name] for name in others)
    if room >= 1:
        return f"lower {key}.n_{last} to at most {room}"
    keys = ", ".join(f"{key}.n_{name}" for name in names)
    return f"lower {keys}: together at most {n_rows}"


def label_quotas(
    rows: Iterable[Row], n: int, label_names: Sequence[str], *, split_name: str, corpus_name: str, key: str
) -> dict[str, int]:
    """How many of ``n`` examples carry each label: its share of ``rows`` rounded down or up, at least one.

    Raises MissingError when a label has no row left, or ``n`` is too small to hold every label.
    """
    counts = Counter(row.label for row in rows)
    n_rows = counts.total()
    for label in label_names:
        if not counts[label]:
            raise MissingError(
                f"{corpus_name}: class {label!r} has no text left for the {split_name} split",
                hint="every class needs a text in each of the four splits: add texts of it, or remove the class",
            )
    quotas = {label: n * counts[label] // n_rows for label in label_names}
    # What rounding down left over goes to labels without an example first, then by the size of the remainder.
    by_need = sorted(label_names, key=lambda label: (quotas[label] > 0, -(n * counts[label] % n_rows)))
    for label in by_need[: n - sum(quotas.values())]:
        quotas[label] += 1
    for label, quota in quotas.items():
        if not quota:
            raise MissingError(
                f"{corpus_name}: {key}.n_{split_name} is {n}, too few to hold class {label!r}, which is "
                f"{counts[label]:,} of {n_rows:,} texts",
                hint=f"raise {key}.n_{split_name} to {-(-n_rows // counts[label]):,}",
            )
    return quotas


def draw(rows: Sequence[Row], quotas: Mapping[str, int], rng: np.random.Generator) -> tuple[list[Row], list[Row]]:
    """Rows that fill the quotas, in random order, and the rows of the groups that were not touched.

    Groups are met in random order: first all that fit whole, then parts of others. Fewer rows than the quotas ask for
    come back when the groups do not hold them.
    """
    groups: dict[str | int, list[Row]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if row.group is None else row.group, []).append(row)
    names = list(groups)
    order = [names[i] for i in rng.permutation(len(names))]
    missing, chosen, touched = dict(quotas), [], set[str | int]()
    for whole in (True, False):
        for name in order:
            if not any(missing.values()):
                break
            part = fitting(groups[name], missing) if name not in touched else []
            if part and (len(part) == len(groups[name]) or not whole):
                chosen += part
                touched.add(name)
                for row in part:
                    missing[row.label] -= 1
    rest = [row for name in names if name not in touched for row in groups[name]]
    return [chosen[i] for i in rng.permutation(len(chosen))], rest


def fitting(group: Iterable[Row], missing: Mapping[str, int]) -> list[Row]:
    """The first rows of a group that do not overshoot what is missing of their label."""
    left, kept = dict(missing), []
    for row in group:
        if left[row.label]:
            left[row.label] -= 1
            kept.append(row)
    return kept
