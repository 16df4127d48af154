"""The converted WordNet and the tagger, held against nltk and against their sources."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robusweep.attacks import resources
from robusweep.attacks.resources import TAGGER, WORDNET, Resource, synonyms, tagger_weights
from robusweep.attacks.stop_words import CLOSED_CLASSES, STOP_WORDS
from robusweep.attacks.tagger import tagger
from robusweep.errors import MissingError

pytestmark = pytest.mark.skipif(
    bool(WORDNET.missing() or TAGGER.missing()), reason=f"{WORDNET.install} and {TAGGER.install}"
)

ENDINGS = ("", "s", "es", "ed", "ing", "er", "est")


def nltk_wordnet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """nltk's own reader over the same files, laid out as it wants them."""
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    root = folder / "corpora" / "wordnet"
    root.mkdir(parents=True)
    source = WORDNET.path(WORDNET.files[0]).parent
    for path in source.iterdir():
        shutil.copyfile(path, root / path.name)
    halves = [(root / name).read_text(encoding="utf-8").rstrip("\n") for name in ("data.noun1", "data.noun2")]
    (root / "data.noun").write_text("\n".join(halves) + "\n", encoding="utf-8")
    for part in ("noun", "verb", "adj", "adv"):
        (root / f"{part}.exc").write_text("")
    for path in [folder, root.parent, root, *root.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.setattr("nltk.data.path", [str(folder)])
    with pytest.warns(UserWarning, match="multilingual"):
        return WordNetCorpusReader(str(root), None)


def test_synonyms_are_those_that_textattack_would_get_from_nltk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordnet = nltk_wordnet(tmp_path, monkeypatch)
    lemmas = sorted(name for name in wordnet.all_lemma_names() if "_" not in name)[::100]
    words = [lemma + ending for lemma, ending in zip(lemmas, itertools.cycle(ENDINGS), strict=False)]
    words += [
        "profit",
        "prices",
        "Oil",
        "good",
        "better",
        "women",
        "churches",
        "studies",
        "U.S.",
        "co-op",
        "New_York",
        "a",
        "",
    ]
    assert len(words) > 400
    n_found = 0
    for word in words:
        names = {name for synset in wordnet.synsets(word) for name in synset.lemma_names()}
        expected = {name for name in names if name != word and "_" not in name}
        assert set(synonyms().of(word)) == expected, word
        n_found += bool(expected)
    assert n_found > 200


def test_the_first_senses_come_first_and_nothing_twice() -> None:
    found = synonyms().of("profits")
    assert found.index("profit") < found.index("benefit")
    assert len(found) == len(set(found))
    assert "profits" not in found


def test_stop_words_are_function_words_in_lower_case_each_listed_once() -> None:
    assert {"the", "and", "of", "was", "don't"} <= STOP_WORDS
    assert not {"profit", "movie", "good", "great", "bad"} & STOP_WORDS
    assert all(word == word.lower() for word in STOP_WORDS)
    assert len(STOP_WORDS) == sum(len(words.split()) for words in CLOSED_CLASSES.values())


def test_the_tagger_tells_nouns_from_verbs_by_their_context() -> None:
    words = ["We", "will", "attack", "the", "castle", "after", "the", "attack", "on", "the", "village"]
    assert [tagger().tag_at(words, i) for i in (1, 2, 4, 7, 8)] == ["VERB", "VERB", "NOUN", "NOUN", "ADP"]


def test_a_tag_does_not_depend_on_words_far_to_the_right() -> None:
    words = ["The", "quick", "company", "raised", "prices", "again", "and", "again", "in", "spring"]
    assert tagger().tag_at(words, 3) == tagger().tag_at(words[:6], 3)


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ROBUSWEEP_CACHE", str(tmp_path))
    return tmp_path


def test_a_resource_is_converted_once_and_read_afterwards(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tagger_weights()
    assert len(list(empty_cache.glob("lexicon/*/tagger.json"))) == 1
    monkeypatch.setattr(resources, "_tagger_weights", lambda: pytest.fail("converted again"))
    assert tagger_weights() == first


def test_a_cache_that_cannot_be_written_is_a_missing_resource(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROBUSWEEP_CACHE", str(tmp_path / "file"))
    with pytest.raises(MissingError, match="cannot be written"):
        tagger_weights()


class Dangerous:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return print, ("executed",)


@pytest.mark.parametrize("known", [False, True])
def test_a_foreign_pickle_is_never_executed(
    known: bool, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_cache / TAGGER.files[0]).write_bytes(pickle.dumps(Dangerous()))
    monkeypatch.setattr(Resource, "folder", lambda _self: empty_cache)
    if known:
        monkeypatch.setattr(resources, "TAGGER_SHA256", resources.sha256_of(empty_cache / TAGGER.files[0]))
    with pytest.raises(pickle.UnpicklingError if known else MissingError):
        tagger_weights()
    assert capsys.readouterr().out == ""
