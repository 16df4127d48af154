"""The page to browse adversarial examples: one HTML file that needs nothing else, readable without its script too."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from typing import Literal

from robusweep.report.page import CSS
from robusweep.report.sentences import DEFINITIONS, counted, percent
from robusweep.scores import Rate

CJK = "\u2e80-\u2fff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
SIGN = "!-/:-@\\[-`{-~¡-©«-±´¶-¸»¿×÷\u2010-\u2027\u2030-\u205e\u3001-\u3004\u3008-\u303f\uff01-\uff0f\uff1a-\uff20"
WORD = re.compile(f"([{CJK}{SIGN}]|[^\\s{CJK}{SIGN}]+)")  # Chinese and Japanese set no blanks: each character is a word
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
N_WORDS_EXACT = 2000  # beyond this, difflib may pass over frequent words: comparing each with each is quadratic
N_CHARACTERS_COMPARED = 300  # of a changed word; longer ones are marked as a whole
N_CHARACTERS_AT_A_GLANCE = 600  # changes of longer texts are listed above them
N_CHANGES_LISTED = 20
TYPO = 0.5  # least difflib ratio at which two words are one word with a typo

Piece = tuple[str, str]  # HTML of the old and of the new text from the same place: the same, or marked on either side
Kind = Literal["success", "kept", "failed", "skipped"]
RESULTS: Mapping[Kind, tuple[str, str, str]] = {  # sign, word, meaning
    "success": ("✗", "broken", "the attack found a text that the model gets wrong"),
    "kept": (
        "↔",
        "same answer",
        "an attack that keeps the answer, as input reduction does, reached its goal: no answer was turned wrong",
    ),
    "failed": ("✓", "survived", "the attack found no such text before it had nothing left to try, or no queries left"),
    "skipped": (
        "–",
        "wrong before the attack",
        "the model gets the original text wrong, so no attack was run; it counts as wrong under attack",
    ),
}


@dataclass(frozen=True)
class Attacked:
    """One example under one attack. ``predicted``: the model's answer to the adversarial text, or to the original one
    when that was wrong before any attack (``skipped``). ``replayed``: the text was found against a part of the model,
    and ``n_queries`` counts how many such texts were tried."""

    attack: str
    text: str
    label: str
    result: Literal["failed", "success", "skipped"]
    n_queries: int
    adversarial_text: str | None
    predicted: str | None
    words_changed: int | None
    similarity: float | None
    replayed: bool = False

    @property
    def kind(self) -> Kind:
        """The result, with attacks that keep the label (input reduction) apart from those that break it."""
        return "kept" if self.result == "success" and self.predicted == self.label else self.result


@dataclass(frozen=True)
class Heading:
    """What stands above the examples. ``flags``: name and meaning of each reason to doubt the numbers."""

    title: str
    facts: Sequence[tuple[str, str]]
    flags: Sequence[tuple[str, str]]
    notices: Sequence[str]
    rates: Sequence[tuple[str, Rate]]


def browser_page(heading: Heading, rows: Sequence[Attacked]) -> str:
    """The whole page.

    For each attack, ``rows`` follow the file. The page puts the attacks on one example next to each other.
    """
    title = escape(heading.title)
    parts = [
        f"<h1>{title}</h1>",
        _flags(heading.flags),
        _notices(heading.notices),
        _facts(heading.facts),
        _rates(heading.rates),
        "<h2>Examples</h2>",
        _examples(rows) if rows else "<p>No example was attacked.</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · robusweep</title><style>{CSS}{BROWSER_CSS}</style></head>\n"
        f"<body>{''.join(parts)}\n<script>{BROWSER_JS}</script></body></html>\n"
    )


def _flags(flags: Sequence[tuple[str, str]]) -> str:
    if not flags:
        words = "No flag raised: no check found a reason to doubt the numbers."
        return f'<p class="unflagged"><span aria-hidden="true">✓ </span>{words}</p>'
    items = "".join(f"<li><b>{escape(name.replace('_', ' '))}</b>: {escape(meaning)}</li>" for name, meaning in flags)
    many = f"{counted(len(flags), 'flag')} raised: {'reasons' if len(flags) > 1 else 'a reason'} to doubt the numbers"
    return f'<div class="notices" role="note"><p><span aria-hidden="true">⚑ </span>{many}</p><ul>{items}</ul></div>'


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    return f'<div class="notices" role="note"><p>Read this first</p><ul>{items}</ul></div>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd><bdi>{escape(value)}</bdi></dd></div>" for name, value in facts)
    return f'<dl class="about">{items}</dl>' if facts else ""


def _rates(rates: Sequence[tuple[str, Rate]]) -> str:
    if not rates:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{percent(rate)}, n = {rate.n}</td>'
        f'<td class="bar" aria-hidden="true">{_bar(rate)}</td></tr>'
        for name, rate in rates
    )
    return (
        f'<h2>Rates</h2><div class="scroll"><table class="rates"><tbody>{rows}</tbody></table></div>'
        f'<p class="soft">In brackets and in the bars: {DEFINITIONS["interval"]}. An example that is wrong before the '
        "attack counts as wrong under attack.</p>"
    )


def _bar(rate: Rate) -> str:
    if rate.n == 0:
        return ""
    width = 100 * (rate.high - rate.low)
    return f'<i style="left:{100 * rate.low:.1f}%;width:{width:.1f}%"></i><b style="left:{100 * rate.value:.1f}%"></b>'


def _examples(rows: Sequence[Attacked]) -> str:
    seen: Counter[str] = Counter()
    numbered = []
    for row in rows:
        seen[row.attack] += 1
        numbered.append((seen[row.attack], row))
    numbered.sort(key=lambda pair: pair[0])
    places = {
        "attacks": _places([row.attack for row in rows]),
        "labels": _places(sorted(row.label for row in rows)),
        "answers": _places(sorted(row.predicted for row in rows if row.predicted is not None)),
    }
    cards = "".join(_card(number, row, **places) for number, row in numbered)
    return f'{_legend(rows)}{_filters(rows, **places)}<div id="cards">{cards}</div>'


def _places(names: Sequence[str]) -> dict[str, str]:
    """Each name once with its place, by which filters and cards refer to it."""
    return {name: str(i) for i, name in enumerate(dict.fromkeys(names))}


def _legend(rows: Sequence[Attacked]) -> str:
    kinds = {row.kind for row in rows}
    lines = [(f"<dt>{_badge(kind)}</dt>", RESULTS[kind][2]) for kind in RESULTS if kind in kinds]
    lines += [
        (
            '<dt class="before"><mark>old w<b>or</b>d</mark></dt>',
            "changed or left out; of a typo, the characters that differ are set off",
        ),
        ('<dt class="after"><mark>new w<b>ro</b>d</mark></dt>', "changed or added"),
        (
            '<dt class="after"><mark><i data-code="U+200B"></i></mark></dt>',
            "code of the character behind it, which can't be seen or may pass for a plain letter",
        ),
    ]
    items = "".join(f"<div>{term} <dd>{meaning}</dd></div>" for term, meaning in lines)
    return f'<details class="key" open><summary>How to read the cards</summary><dl>{items}</dl></details>'


def _filters(
    rows: Sequence[Attacked], *, attacks: Mapping[str, str], labels: Mapping[str, str], answers: Mapping[str, str]
) -> str:
    kinds = Counter(row.kind for row in rows)
    results = {f"{RESULTS[kind][1]} ({kinds[kind]})": kind for kind in RESULTS if kinds[kind]}
    orders = {"file order": "", "fewest queries": "queries", "most queries": "-queries"}
    if any(row.words_changed is not None for row in rows):
        orders |= {"fewest words changed": "words", "most words changed": "-words"}
    if any(row.similarity is not None for row in rows):
        orders |= {"most similar": "-similarity", "least similar": "similarity"}
    goals: tuple[Kind, ...] = ("success", "kept")
    first = next((kind for kind in goals if kinds[kind]), None)
    hint = f"At first only the cards “{RESULTS[first][1]}” are shown." if first and len(kinds) > 1 else ""
    return (
        f'<form id="filters" role="search" aria-label="filters" autocomplete="off" data-first="{first or ""}" hidden>'
        f"{_select('attack', 'attack', attacks)}{_select('result', 'result', results)}"
        f"{_select('label', 'label', labels)}{_select('predicted', 'predicted', answers)}"
        '<label class="wide">search the texts <input type="search" id="words" dir="auto"></label>'
        f"{_select('sort', 'sort by', orders, every=None)}"
        '<p class="state"><output id="count" aria-live="polite"></output> '
        f'<button type="reset">show all {len(rows):,}</button> <span class="soft" id="hint">{hint}</span></p>'
        '<p id="chosen"></p></form>'
    )


def _select(name: str, words: str, choices: Mapping[str, str], *, every: str | None = "all") -> str:
    items = [("", every)] if every else []
    items += [(value, text) for text, value in choices.items()]
    options = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in items)
    return f'<label>{words} <select id="{name}">{options}</select></label>'


def _card(
    number: int, row: Attacked, *, attacks: Mapping[str, str], labels: Mapping[str, str], answers: Mapping[str, str]
) -> str:
    values = {
        "attack": attacks[row.attack],
        "result": row.kind,
        "label": labels[row.label],
        "predicted": None if row.predicted is None else answers[row.predicted],
        "queries": None if row.result == "skipped" else row.n_queries,
        "words": row.words_changed,
        "similarity": row.similarity,
    }
    data = "".join(f' data-{key}="{value}"' for key, value in values.items() if value is not None)
    return (
        f"<article{data}><h3><bdi>{escape(row.attack)}</bdi> <small>example {number}</small></h3>{_badge(row.kind)}"
        f'<p class="facts">{" ".join(f"<span>{fact}</span>" for fact in _card_facts(row))}</p>{_texts(row)}</article>\n'
    )


def _badge(kind: Kind) -> str:
    sign, word, _ = RESULTS[kind]
    return f'<p class="badge {kind}"><span aria-hidden="true">{sign} </span>{word}</p>'


def _card_facts(row: Attacked) -> list[str]:
    label, answer = (f"<b><bdi>{escape(name or '')}</bdi></b>" for name in (row.label, row.predicted))
    says = {
        "success": f"label {label} → predicted {answer}",
        "kept": f"label {label}, still predicted",
        "failed": f"label {label}, predicted all along",
        "skipped": f"label {label}, predicted {answer} from the start",
    }
    facts = [says[row.kind]]
    if row.replayed:
        facts.append("found against single adapters")
    if row.result != "skipped":
        facts.append(f"{row.n_queries:,} {'query' if row.n_queries == 1 else 'queries'}")
    if row.words_changed is not None:
        facts.append(f"{row.words_changed:,} {'word' if row.words_changed == 1 else 'words'} changed")
    if row.similarity is not None:
        facts.append(f"similarity {row.similarity:.2f}")
    return facts


def _texts(row: Attacked) -> str:
    if row.adversarial_text is None:
        return _text("text", escape(row.text))
    pieces = _pieces(row.text, row.adversarial_text)
    old, new = _joined(pieces)
    longer = max(len(row.text), len(row.adversarial_text))
    return (_changes(pieces) if longer > N_CHARACTERS_AT_A_GLANCE else "") + _text("before", old) + _text("after", new)


def _text(tag: str, html: str) -> str:
    return f'<p class="tag">{tag}</p><p class="text {tag}" dir="auto" lang="">{html}</p>'


def _changes(pieces: Sequence[Piece]) -> str:
    """The changes of a long text in a line of their own."""
    pairs = [(f'<bdi class="before">{a}</bdi>', f'<bdi class="after">{b}</bdi>', a, b) for a, b in pieces if a != b]
    words = [f"{old} → {new}" if a and b else f"left out {old}" if a else f"added {new}" for old, new, a, b in pairs]
    listed = [each for each in words if len(each) < N_CHARACTERS_AT_A_GLANCE][:N_CHANGES_LISTED]
    if listed and len(listed) < len(words):
        listed.append(f"and {len(words) - len(listed)} more")
    items = " ".join(f"<span>{each}</span>" for each in listed)
    return f'<p class="tag">changes</p><p class="changes" lang="">{items}</p>' if listed else ""


def marked(old: str, new: str) -> tuple[str, str]:
    """Both texts as HTML: words that differ in ``<mark>``, in them the characters that differ in ``<b>``.

    Without its tags and unescaped, each is the given text again.
    """
    return _joined(_pieces(old, new))


def _joined(pieces: Sequence[Piece]) -> tuple[str, str]:
    return "".join(a for a, _ in pieces), "".join(b for _, b in pieces)


def _pieces(old: str, new: str) -> list[Piece]:
    before, after = WORD.split(old), WORD.split(new)  # blank, word, blank, word, ..., blank
    same = [(2 * i + 1, 2 * j + 1) for i, j in _same_words(before[1::2], after[1::2])]
    pieces: list[Piece] = []
    i = j = kept = 0  # the first part not compared yet, on either side; the first not in the pieces yet
    for to_i, to_j in [*same, (len(before), len(after))]:
        if before[i:to_i] != after[j:to_j]:
            plain = escape("".join(before[kept:i]))
            pieces += [(plain, plain), *_stretch(before[i:to_i], after[j:to_j])]
            kept = to_i
        i, j = to_i + 1, to_j + 1
    plain = escape("".join(before[kept:]))
    return [*pieces, (plain, plain)]


def _same_words(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Places of words that are the same, in rising order on both sides."""
    if len(old) == len(new):  # as after word swaps: most words stand where they stood
        pairs = [(i, i) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a == b]
        if 2 * len(pairs) >= len(old):
            return pairs
    most = min(len(old), len(new))
    head = next((i for i in range(most) if old[i] != new[i]), most)
    tail = next((i for i in range(most - head) if old[-1 - i] != new[-1 - i]), most - head)
    middle = old[head : len(old) - tail], new[head : len(new) - tail]
    matcher = SequenceMatcher(None, *middle, autojunk=max(map(len, middle)) > N_WORDS_EXACT)
    blocks = [(head + i, head + j, n) for i, j, n in matcher.get_matching_blocks()]
    blocks = [(0, 0, head), *blocks, (len(old) - tail, len(new) - tail, tail)]
    return [(i + k, j + k) for i, j, n in blocks for k in range(n)]


def _stretch(old: Sequence[str], new: Sequence[str]) -> list[Piece]:
    """What stands between two words that stayed, as blank, word, ..., blank: with as many words, word by word."""
    if len(old) == len(new):
        return [(escape(a), escape(a)) if a == b else _pair(a, b) for a, b in zip(old, new, strict=True)]
    head = old[0] if old[0] == new[0] else ""
    a, b = "".join(old).removeprefix(head), "".join(new).removeprefix(head)
    tail = old[-1] if a.endswith(old[-1]) and b.endswith(old[-1]) else ""
    return [(head, head), _pair(a.removesuffix(tail), b.removesuffix(tail)), (tail, tail)]


def _pair(old: str, new: str) -> Piece:
    """Two words that differ, each in its mark; of a typo, the characters that differ stand out."""
    runs = [("whole", 0, len(old), 0, len(new))]
    if max(len(old), len(new)) <= N_CHARACTERS_COMPARED:
        matcher = SequenceMatcher(None, old, new, autojunk=False)
        if matcher.ratio() >= TYPO:
            runs = [*matcher.get_opcodes()]
    before = "".join(_run(old[a:b], tag, other=new) for tag, a, b, _, _ in runs)
    after = "".join(_run(new[a:b], tag, other=old) for tag, _, _, a, b in runs)
    return f"<mark>{before}</mark>" if old else "", f"<mark>{after}</mark>" if new else ""


def _run(text: str, tag: str, *, other: str) -> str:
    plain = bool(other) and other.isascii()
    html = "".join(_character(c, odd=plain and not c.isascii()) for c in text)
    return html if tag in ("whole", "equal") or not html else f"<b>{html}</b>"


def _character(c: str, *, odd: bool) -> str:
    """One character; with its code point when it can't be seen, or is ``odd``."""
    if c in "\n\t":
        return f'<i data-code="{"↵" if c == chr(10) else "⇥"}">{c}</i>'
    unseen = c != " " and (unicodedata.category(c)[0] in "CZ" or c in BLANKS)
    if not (odd or unseen):
        return escape(c)
    code = f"U+{ord(c):04X}"
    return f'<i data-code="{code}" title="{code} {escape(unicodedata.name(c, ""))}">{escape(c)}</i>'


BROWSER_CSS = """
:root { --was: #c5162e1f; --was-b: #c5162e47; --now: #0067b31f; --now-b: #0067b34d; }
@media (prefers-color-scheme: dark) {
  :root { --was: #ff7b7f2e; --was-b: #ff7b7f66; --now: #5db4ff2e; --now-b: #5db4ff66; } }
[hidden] { display: none !important; }
.unflagged { border-left: 5px solid var(--a2); background: var(--card); padding: .5rem 1rem; }
.about { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .3rem 1.5rem; }
.about dt { color: var(--soft); font-weight: 400; font-size: .85rem; } .about dd { margin: 0; }
.rates th { font-weight: 600; overflow-wrap: anywhere; } .rates tr:first-child > * { border-top: 0; }
.rates th, .rates td { border-top: 1px solid var(--grid); vertical-align: middle; }
.bar { position: relative; min-width: 11rem;
  background: linear-gradient(var(--grid), var(--grid)) center / 100% 2px no-repeat; }
.bar i, .bar b { position: absolute; top: 50%; height: 10px; margin-top: -5px; background: var(--clean); opacity: .35; }
.bar b { width: 3px; height: 16px; margin: -8px 0 0 -1.5px; opacity: 1; }
.key { margin: .6rem 0 1rem; font-size: .9rem; } .key summary { width: fit-content; }
.key dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 31rem), 1fr)); gap: .35rem 1.5rem; }
.key dt, .key dd, .key .badge { display: inline; margin: 0; } .key dt { font-weight: 400; margin-right: .4rem; }
#filters { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: end;
  background: var(--bg); border-bottom: 1px solid var(--rule); padding: .6rem 0; margin: 1rem 0; }
#filters label { display: grid; gap: .1rem; font-size: .82rem; color: var(--soft); flex: 0 1 auto; min-width: 0; }
#filters label.wide { flex: 1 1 11rem; }
select, input, button { font: inherit; font-size: .92rem; color: var(--ink); background: var(--card); min-width: 0;
  border: 1px solid var(--dominated); border-radius: 5px; padding: .25rem .5rem; max-width: 100%; min-height: 2.1rem; }
select { max-width: 14rem; } button { cursor: pointer; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.state { flex: 1 0 100%; margin: 0; max-width: none; display: flex; flex-wrap: wrap;
  gap: .3rem .8rem; align-items: center; }
#count { font-weight: 600; } #chosen { display: none; }
#cards { scroll-margin-top: 10rem; }
article { display: grid; grid-template-columns: 4rem 1fr auto; gap: .15rem .6rem; align-items: baseline;
  margin: 0 0 .9rem;  border: 1px solid var(--rule); border-radius: 7px; padding: .7rem .9rem; content-visibility: auto;
  contain-intrinsic-size: auto 13rem; }
h3 { grid-column: 1 / 3; font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: var(--soft); margin-left: .2rem; white-space: nowrap; }
.badge { margin: 0; width: fit-content; border: 1.5px solid var(--c); border-radius: 1rem;
  padding: 0 .6rem; font-size: .85rem;  font-weight: 600; color: var(--c); white-space: nowrap; }
.badge.success { --c: var(--front); } .badge.kept { --c: var(--a0); } .badge.failed { --c: var(--a2); }
.badge.skipped { --c: var(--a4); border-style: dashed; }
.facts { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; margin: 0 0 .35rem; font-size: .9rem;
  color: var(--soft); max-width: none; } .facts b { color: var(--ink); }
.tag { grid-column: 1; margin: 0; color: var(--soft); font-size: .85rem; }
.text, .changes { grid-column: 2 / -1; margin: 0 0 .3rem; white-space: pre-wrap; overflow-wrap: anywhere;
  min-width: 0; max-width: none; }
.changes { display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
mark { color: inherit; border-radius: 2px; padding: 0 1px; background: var(--m); print-color-adjust: exact;
  text-decoration: underline 2px var(--u); text-underline-offset: 3px; text-decoration-skip-ink: none; }
mark b { background: var(--b); border-radius: 2px; } mark i { font-style: normal; }
.before { --m: var(--was); --b: var(--was-b); --u: var(--front); }
.after { --m: var(--now); --b: var(--now-b); --u: var(--clean); }
.before mark { text-decoration-style: dotted; }
[data-code]::before { content: attr(data-code); font: 600 .68em ui-monospace, monospace; border: 1px solid currentcolor;
  border-radius: 3px; padding: 0 .2em; margin: 0 .15em; vertical-align: .15em;
  white-space: nowrap; display: inline-block; }
@media (max-width: 620px), (max-height: 560px) { #filters { position: static; } #cards { scroll-margin-top: 0; } }
@media (max-width: 620px) { article { grid-template-columns: 1fr auto; padding: .6rem .7rem; }
  h3 { grid-column: 1; } .tag, .text, .changes { grid-column: 1 / -1; }
  .tag { margin-top: .3rem; } .bar { min-width: 6rem; }
  #filters label { flex: 1 1 9rem; } select { max-width: none; width: 100%; } }
@media print { #filters { position: static; border: 0; padding: 0; } #filters label, button, #hint { display: none; }
  #chosen { display: block; margin: 0; } article { content-visibility: visible; break-inside: avoid; }
  .key { break-inside: avoid; } .bar { print-color-adjust: exact; } }
"""

BROWSER_JS = """
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const cards = [...document.querySelectorAll("article")], list = document.getElementById("cards");
  const keys = ["attack", "result", "label", "predicted"], texts = new Map();
  const field = name => document.getElementById(name);
  const textOf = card => {
    if (!texts.has(card)) {
      const parts = [...card.querySelectorAll(".text")].map(part => part.textContent);
      texts.set(card, parts.join("\\n").toLowerCase());
    }
    return texts.get(card);
  };
  const sorted = () => {
    const by = field("sort").value, key = by.replace("-", ""), sign = by.startsWith("-") ? -1 : 1;
    if (!by) return cards;
    const value = card => key in card.dataset ? sign * card.dataset[key] : Infinity;  // what has none comes last
    return [...cards].sort((a, b) => value(a) - value(b) || 0);
  };
  const said = control => control.options ? control.selectedOptions[0].text : control.value;
  let order = "";
  const show = () => {
    const wanted = keys.filter(key => field(key).value), words = field("words").value.trim().toLowerCase();
    let n = 0;
    for (const card of cards) {
      const fits = wanted.every(key => card.dataset[key] === field(key).value)
        && (!words || textOf(card).includes(words));
      card.hidden = !fits;
      n += fits;
    }
    if (order !== field("sort").value) {
      order = field("sort").value;
      list.append(...sorted());
    }
    field("count").textContent = `showing ${n.toLocaleString("en")} of ${cards.length.toLocaleString("en")}`;
    const chosen = [...form.querySelectorAll("label")].filter(label => label.querySelector("select, input").value);
    const told = label => `${label.firstChild.data.trim()}: ${said(label.lastElementChild)}`;
    field("chosen").textContent = chosen.map(told).join("; ");
  };
  const change = () => {
    show();
    field("hint").hidden = true;
    if (list.getBoundingClientRect().top < 0) list.scrollIntoView();
  };
  let waiting = 0;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(change, 150); };
  form.hidden = false;
  field("result").value = form.dataset.first;
  form.addEventListener("change", change);
  field("words").addEventListener("input", later);
  form.addEventListener("reset", () => setTimeout(change));
  form.addEventListener("submit", event => event.preventDefault());
  show();
})();
"""
