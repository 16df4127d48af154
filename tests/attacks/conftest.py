"""Quick victims, real texts, and examples that are broken, or not, by construction."""

from __future__ import annotations

from typing import Any

import pytest
from victims import BagOfWords, HashedWords, WordPieces

from robusweep.attacks.resources import ENCODER
from robusweep.examples import Example


@pytest.fixture
def victim() -> BagOfWords:
    return BagOfWords()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """MiniLM's tokenizer."""
    if ENCODER.missing():
        pytest.skip(ENCODER.install)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ENCODER.path("model/config.json").parent)


@pytest.fixture
def word_pieces(tokenizer: Any) -> WordPieces:
    return WordPieces(tokenizer)


@pytest.fixture
def hashed_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarity from hashed words instead of MiniLM: the same rules, a thousandth of the time."""
    encoder = HashedWords()
    for module in ("similarity", "parts", "encoder"):
        monkeypatch.setattr(f"robusweep.attacks.{module}.sentence_encoder", lambda *_: encoder)


@pytest.fixture(scope="session")
def reviews() -> list[str]:
    """Real one-sentence film reviews, with all their quotes, dashes, names and accents."""
    from robusweep.data.rotten_tomatoes import RottenTomatoes
    from robusweep.errors import MissingError

    try:
        rows = RottenTomatoes().read().rows
    except MissingError as e:
        pytest.skip(str(e))
    return [row.text for row in rows[::60] if 5 <= len(row.text.split()) <= 40][:200]


@pytest.fixture
def review_examples(reviews: list[str], word_pieces: WordPieces) -> list[Example]:
    """Reviews with the label that ``word_pieces`` gives them, but every twentieth with another one."""
    labels = word_pieces(reviews).argmax(axis=1).tolist()
    return [
        Example(text, (label + (i % 20 == 19)) % 3) for i, (text, label) in enumerate(zip(reviews, labels, strict=True))
    ]


@pytest.fixture
def examples() -> list[Example]:
    """Five that can be broken, one (the fifth) of stop words only, one (the sixth) that ``BagOfWords`` gets wrong."""
    return [
        Example("The weather was good and everybody at the old harbour watched the boats leave.", 1),
        Example("A happy child ran through the garden while several dogs chased the red ball.", 1),
        Example("Great news: the company raised its prices and sold more cars than last year!", 1),
        Example("This good film has great actors, a happy ending and wonderful music throughout the story.", 1),
        Example("It was what it was, and we were there before they were.", 0),
        Example("An awful evening of noise, rain and long speeches about nothing in particular.", 1),
        Example("Good morning to the patient readers of this column about trains and stations.", 1),
    ]
