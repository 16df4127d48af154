from __future__ import annotations

import random
import re
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from typing import Any, Literal

import pytest

from robusweep.report.browser import RESULTS, Attacked, Heading, browser_page, marked
from robusweep.report.page import CSS
from robusweep.report.sentences import percent
from robusweep.scores import Rate

HOSTILE = (
    "</script><script>alert('x')</script> <img src=x onerror=\"alert(1)\"> &amp; &lt; </p></article> \"' ]]>--> great"
)
VOID = {"meta", "input", "br", "img", "link"}
PAIRS = [
    ("a great movie", "a gerat movie"),
    ("a great movie", "a gr eat movie"),
    ("the very good film", "the good film"),
    ("very good", "very"),
    ("good film", "a good old film"),
    ("", "a b"),
    ("a b", ""),
    ("", ""),
    ("two\n\nlines  and\tblanks ", "two lines and blanks"),
    ("great", "gre\u200bat"),
    ("great cat", "grеat cаt"),  # Cyrillic е and а
    ("这部电影很好看", "这部电影很难看"),
    ("هذا الفيلم رائع جدا", "هذا الفيلم سيئ جدا"),
    ("It's good, truly.", "It’s goood truly!"),
    (HOSTILE, HOSTILE.replace("great", "<b>gerat</b>")),
    ("&lt;b&gt;", "<b>"),
]


class Page(HTMLParser):
    """Fails on a tag that is closed out of order; keeps tags with attributes, and the text outside script and style."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.parts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def cards(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "article"]


def row(result: Literal["failed", "success", "skipped"] = "success", **changes: Any) -> Attacked:
    broken = result == "success"
    values: dict[str, Any] = {
        "attack": "deepwordbug",
        "text": "a great movie",
        "label": "positive",
        "result": result,
        "n_queries": 0 if result == "skipped" else 34,
        "adversarial_text": "a gerat movie" if broken else None,
        "predicted": None if result == "failed" else "negative",
        "words_changed": 1 if broken else None,
        "similarity": 0.934 if broken else None,
    }
    return Attacked(**values | changes)


def heading(**changes: Any) -> Heading:
    values: dict[str, Any] = {
        "title": "deepwordbug against runs/model",
        "facts": [("model", "runs/model"), ("protocol", "standard_v1 (hash 91be2f)"), ("seed", "0")],
        "flags": [],
        "notices": [],
        "rates": [("clean accuracy", Rate.of(55, 60)), ("accuracy under deepwordbug", Rate.of(24, 60))],
    }
    return Heading(**values | changes)


def page(rows: Sequence[Attacked], **changes: Any) -> Page:
    return Page(browser_page(heading(**changes), rows))


def stripped(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def in_marks(html: str) -> list[str]:
    return [stripped(each) for each in re.findall(r"<mark>(.*?)</mark>", html, re.DOTALL)]


def set_off(html: str) -> list[str]:
    return [stripped(each) for each in re.findall(r"<b>(.*?)</b>", html, re.DOTALL)]


def edited(text: str, alphabet: str, rng: random.Random) -> str:
    characters = list(text)
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(characters) + 1)
        characters[at : at + rng.randrange(3)] = rng.choices(alphabet, k=rng.randrange(3))
    return "".join(characters)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_stripping_the_marks_gives_the_text_back(old: str, new: str) -> None:
    assert tuple(map(stripped, marked(old, new))) == (old, new)
    assert tuple(map(stripped, marked(new, old))) == (new, old)


def test_stripping_the_marks_gives_random_texts_back_and_a_text_has_no_mark_against_itself() -> None:
    rng, alphabet = random.Random(7), "aab  <>&\"';#x27\n\t\r\x00é\u200b\u0301а中電。,\u2028\U0001f600"
    for _ in range(2000):
        old = "".join(rng.choices(alphabet, k=rng.randrange(40)))
        new = edited(old, alphabet, rng)
        assert tuple(map(stripped, marked(old, new))) == (old, new)
        assert ("<mark>" in "".join(marked(old, new))) == (old != new)


@pytest.mark.parametrize(
    ("old", "new", "old_marks", "new_marks"),
    [
        ("a great movie", "a fine movie", ["great"], ["fine"]),
        ("a great, great movie", "a great, gerat movie", ["great"], ["gerat"]),
        ("one two three", "uno two tre", ["one", "three"], ["uno", "tre"]),
        ("the very good film", "the good film", ["very "], []),
        ("very good", "very", [" good"], []),
        ("good film", "good old film", [], ["old "]),
        ("这部电影很好看", "这部电影很难看", ["好"], ["难"]),
        ("a\nb", "a b", ["\n"], [" "]),
        ("", "new", [], ["new"]),
    ],
)
def test_only_what_differs_is_marked(old: str, new: str, old_marks: list[str], new_marks: list[str]) -> None:
    before, after = marked(old, new)
    assert (in_marks(before), in_marks(after)) == (old_marks, new_marks)


@pytest.mark.parametrize(
    ("old", "new", "off_old", "off_new"),
    [
        ("great", "gerat", ["e"], ["e"]),
        ("great", "grat", ["e"], []),
        ("great", "gr eat", [], [" "]),
        ("great", "gre@t", ["a"], ["@"]),
        ("film", "movie", [], []),
    ],
)
def test_of_a_typo_the_characters_that_differ_are_set_off_and_of_another_word_none(
    old: str, new: str, off_old: list[str], off_new: list[str]
) -> None:
    before, after = marked(old, new)
    assert (set_off(before), set_off(after)) == (off_old, off_new)


@pytest.mark.parametrize(
    ("new", "code", "name"),
    [
        ("gre\u200bat", "U+200B", "ZERO WIDTH SPACE"),
        ("grеat", "U+0435", "CYRILLIC SMALL LETTER IE"),
        ("great\u00a0", "U+00A0", "NO-BREAK SPACE"),
        ("great\ufe0f", "U+FE0F", "VARIATION SELECTOR-16"),
        ("\u202egreat", "U+202E", "RIGHT-TO-LEFT OVERRIDE"),
        ("great\n", "↵", ""),
    ],
)
def test_a_character_that_is_unseen_or_passes_for_another_shows_its_code(new: str, code: str, name: str) -> None:
    assert f'data-code="{code}"' in marked("great", new)[1]
    assert name in marked("great", new)[1]
    assert "data-code" not in "".join(marked("great", "gerat"))
    assert "data-code" not in marked("хорошо", "хорошa")[0], "letters among their like need none"


@pytest.mark.parametrize("n_words", [1, 3, 40, 4000])
def test_long_texts_of_few_or_many_different_words_are_marked_like_short_ones(n_words: int) -> None:
    rng = random.Random(1)
    words = [f"word{rng.randrange(n_words)}" for _ in range(4000)]
    swapped = ["other" if rng.random() < 0.1 else word for word in words]
    for new in (swapped, swapped[1:], [*reversed(words), "end"]):
        assert stripped(marked(" ".join(words), " ".join(new))[1]) == " ".join(new)
    changed = sum(a != b for a, b in zip(words, swapped, strict=True))
    assert in_marks(marked(" ".join(words), " ".join(swapped))[1]) == ["other"] * changed


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    html = browser_page(heading(), [row(), row("failed"), row("skipped")])
    tags = Page(html).tags
    assert len(tags) > 50
    assert not [a for _, a in tags if {"src", "href", "srcset", "action", "onclick", "onerror"} & set(a)]
    for word in ("http:", "https:", "@import", "url("):
        assert word not in html
    assert CSS in html, "it looks as the report of a sweep does"


def test_text_from_data_models_and_flags_is_text_and_nothing_else() -> None:
    rows = [
        row(attack=HOSTILE, text=HOSTILE, label=HOSTILE, predicted="no" + HOSTILE, adversarial_text=HOSTILE + " ok"),
        row("failed", text=HOSTILE, label=HOSTILE),
        row("skipped", text=HOSTILE, predicted=HOSTILE),
    ]
    told = {"title": HOSTILE, "facts": [(HOSTILE, HOSTILE)], "flags": [(HOSTILE, HOSTILE)], "notices": [HOSTILE]}
    hostile, harmless = page(rows, **told, rates=[(HOSTILE, Rate.of(1, 2))]), page([row(), row("failed")])
    tags = [tag for tag, _ in hostile.tags]
    assert tags.count("script") == [tag for tag, _ in harmless.tags].count("script") == 1
    assert "img" not in tags
    assert not [a for _, a in hostile.tags if any(key.startswith("on") for key in a)]
    assert hostile.text.count(HOSTILE.replace("great", "")) > 12, "what is escaped is still shown"


def test_rates_are_shown_with_interval_and_denominator() -> None:
    rates = [("clean accuracy", Rate.of(55, 60)), ("accuracy under pwws", Rate.of(24, 60)), ("none", Rate.of(0, 0))]
    text = page([row()], rates=rates).text
    assert "40.0 % [28.6, 52.6], n = 60" in text
    assert f"{percent(rates[0][1])}, n = 60" in text
    assert "no data, n = 0" in text
    assert "Wilson score interval at 95 %" in text


def test_flags_and_notices_stand_above_the_numbers_in_plain_words() -> None:
    flags = [("zero_gradient", "attacks that follow the gradient go nowhere"), ("flat", "scores say little")]
    text = page([row()], flags=flags, notices=["the model is a stand-in"]).text
    for words in ("2 flags raised", "zero gradient: attacks that follow the gradient", "the model is a stand-in"):
        assert (
            text.index(words) < text.index("runs/model", text.index("scores say little")) < text.index("clean accuracy")
        )
    assert "No flag raised" not in text


def test_without_a_flag_the_page_says_so() -> None:
    assert "No flag raised" in page([row()]).text


def test_the_facts_are_shown() -> None:
    text = page([row()]).text
    for name, value in heading().facts:
        assert name in text
        assert value in text


def test_each_result_has_a_card_in_words_and_its_word_is_explained() -> None:
    parsed = page([row(), row("failed"), row("skipped"), row(predicted="positive")])
    assert {card["data-result"] for card in parsed.cards()} == set(RESULTS)
    for _, word, meaning in RESULTS.values():
        assert parsed.text.count(word) >= 3, "in the legend, the filter and the card"
        assert meaning in parsed.text
    for words in (
        "label positive → predicted negative",
        "label positive, still predicted",
        "label positive, predicted all along",
        "label positive, predicted negative from the start",
        "34 queries 1 word changed similarity 0.93",
    ):
        assert words in parsed.text


def test_a_text_that_was_not_changed_stands_alone_and_has_no_mark() -> None:
    html = browser_page(heading(), [row("failed"), row("skipped")])
    cards = html[html.index('<div id="cards">') :]
    assert cards.count("a great movie") == 2
    assert "<mark>" not in cards[: cards.index("<script>")]
    assert "None" not in Page(html).text
    assert "0 queries" not in Page(html).text
    assert "words changed" not in Page(html).text
    assert "similar" not in Page(html).text
    assert "data-queries" not in next(re.finditer(r'<article[^>]*"skipped"[^>]*>', html)).group()


def test_the_attacks_on_one_example_stand_together_in_the_order_of_the_file() -> None:
    rows = [row(attack=attack, text=f"text {i}") for attack in ("pwws", "bae") for i in range(3)]
    html = browser_page(heading(), rows)
    found = re.findall(r"<h3><bdi>(\w+)</bdi> <small>example (\d)</small>.*?text (\d)", html)
    assert found == [(attack, str(i + 1), str(i)) for i in range(3) for attack in ("pwws", "bae")]


def test_filters_offer_what_the_cards_hold() -> None:
    rows = [row(), row("failed", attack="pwws", label="neutral"), row("skipped", predicted="odd")]
    html = browser_page(heading(), rows)
    for name, choices in {
        "attack": ["deepwordbug", "pwws"],
        "result": ["broken (1)", "survived (1)", "wrong before the attack (1)"],
        "label": ["neutral", "positive"],
        "predicted": ["negative", "odd"],
    }.items():
        options = re.search(rf'<select id="{name}">(.*?)</select>', html)
        assert options
        offered = re.findall(r'value="(\w*)">([^<]*)<', options[1])
        assert [text for _, text in offered] == ["all", *choices]
        used = {card[f"data-{name}"] for card in Page(html).cards() if f"data-{name}" in card}
        assert used == {value for value, _ in offered} - {""}


def test_filters_wait_for_the_script_and_cards_do_not() -> None:
    parsed = page([row(), row("failed")])
    (form,) = [attributes for tag, attributes in parsed.tags if tag == "form"]
    assert "hidden" in form
    assert not [card for card in parsed.cards() if "hidden" in card or "style" in card]
    controls = [(tag, attributes) for tag, attributes in parsed.tags if tag in {"select", "input"}]
    assert len(controls) == 6
    labels = re.findall(r"<label[^>]*>[\w ]+ <(?:select|input)[^>]* id=", browser_page(heading(), [row()]))
    assert len(labels) == 6, "each control is inside its label"
    assert [a for tag, a in parsed.tags if tag == "output"] == [{"id": "count", "aria-live": "polite"}]


@pytest.mark.parametrize(
    ("rows", "first", "said"),
    [
        ([row(), row("failed"), row(predicted="positive")], "success", "At first only the cards “broken”"),
        ([row(predicted="positive"), row("failed")], "kept", "At first only the cards “same answer”"),
        ([row("failed"), row("skipped")], "", ""),
        ([row()], "success", ""),
    ],
)
def test_successes_are_shown_first_where_there_are_any(rows: list[Attacked], first: str, said: str) -> None:
    html = browser_page(heading(), rows)
    assert f'data-first="{first}"' in html
    assert said in html
    assert ("At first only" in html) == bool(said)
    assert f"show all {len(rows)}" in html


def test_without_rows_the_page_says_that_nothing_was_attacked() -> None:
    parsed = page([], rates=[], facts=[])
    assert "No example was attacked." in parsed.text
    assert not [tag for tag, _ in parsed.tags if tag in {"form", "article", "table"}]


def test_texts_find_their_own_direction() -> None:
    html = browser_page(heading(), [row(text="فيلم رائع", adversarial_text="فيلم سيئ"), row("failed")])
    assert len(re.findall(r'<p class="text \w+" dir="auto" lang="">', html)) == 3


def test_changes_of_a_long_text_are_listed_above_it() -> None:
    text = "some plain words " * 60 + "a great film"
    html = browser_page(heading(), [row(text=text, adversarial_text=text.replace("a great film", "an odd film"))])
    changes = re.search(r'<p class="changes" lang="">(.*?)</p>', html)
    assert changes
    assert stripped(changes[1]) == "a → an great → odd"
    assert 'class="changes"' not in browser_page(heading(), [row()])


def test_a_long_text_with_most_words_left_out_lists_no_long_changes() -> None:
    text = " ".join(f"word{i}" for i in range(500))
    html = browser_page(heading(), [row(text=text, adversarial_text="word7 word300", predicted="positive")])
    assert html.count("word200") == 1
    short = " ".join(text.split()[::2])
    assert "and 230 more" in Page(browser_page(heading(), [row(text=text, adversarial_text=short)])).text


def test_a_thousand_examples_under_five_attacks_make_a_page_of_a_few_megabytes() -> None:
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("etaoinshrdlu", k=rng.randrange(2, 9))) for _ in range(3000)]
    rows = []
    for attack in ("pwws", "bae", "deepwordbug", "textbugger", "genetic"):
        for _ in range(1000):
            words = rng.choices(vocabulary, k=60)
            new = [word[::-1] if rng.random() < 0.1 else word for word in words]
            rows.append(row(attack=attack, text=" ".join(words), adversarial_text=" ".join(new)))
    html = browser_page(heading(), rows)
    assert len(html.encode()) < 15e6
    assert html.count("<article") == 5000
    assert "content-visibility: auto" in html
    assert "showing" not in html[: html.index("<script>")], "without the script all cards are shown"
