"""``import textattack`` without a network, and without what it does to the process around it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from robusweep.attacks.resources import INSTALLED, TEXTATTACK, textattack_cache
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.errors import MissingError


class _LeftOut:
    """Stands for a class of a library that robusweep imports TextAttack without."""

    def __init__(self, *_args: object, **_named: object) -> None:
        raise MissingError(
            "robusweep imports TextAttack without bert_score and language_tool_python",
            hint="import textattack before robusweep's attacks to have TextAttack's own parts that need them",
        )


# Names that TextAttack's modules look up while they are imported.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "bert_score": (),
    "language_tool_python": (),
}


def import_textattack() -> ModuleType:
    """The ``textattack`` module. Its first import costs seconds; nothing is downloaded.

    TextAttack's import would download corpora, redirect the model hub's cache folder, switch off the loggers of other
    libraries. All of it is prevented or undone here.
    """
    if "textattack" not in sys.modules:
        if TEXTATTACK.folder() is None:
            raise MissingError("TextAttack is not installed", hint=TEXTATTACK.install)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # These read the cache folder of the model hub from the environment once: before it is redirected.
            for name in ("transformers.utils.hub", "datasets", "flair"):
                import_module(name)
            with _environment_restored(), _loggers_restored(), _stand_ins(), _stop_words_at_hand():
                import_module("textattack")
    return sys.modules["textattack"]


@contextmanager
def quiet() -> Iterator[None]:
    """No notes from TextAttack about a victim of a class that it does not know."""
    logger = logging.getLogger("textattack.shared.utils.install")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def remembering_words() -> Iterator[None]:
    """TextAttack splits every word of a text into words twice for each new text: two thirds of its own time.

    Within this context it looks the answer up.
    """
    module: Any = import_module("textattack.shared.attacked_text")
    split = module.words_from_text
    module.words_from_text = words_from_text
    try:
        yield
    finally:
        module.words_from_text = split


def words_from_text(text: str) -> list[str]:
    """TextAttack's words of a text, looked up where they were asked for before."""
    return list(_words(text))


@lru_cache(2**15)
def _words(text: str) -> tuple[str, ...]:
    return tuple(import_textattack().shared.utils.words_from_text(text))


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Lead TextAttack's cache to a folder where its downloads at first import are marked as done."""
    folder = textattack_cache()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / INSTALLED).exists():
        (folder / INSTALLED).touch()
    before = dict(os.environ)
    os.environ["TA_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _loggers_restored() -> Iterator[None]:
    """TextAttack configures logging in the way that switches off every logger there is: switch them on again."""
    known = [it for it in logging.Logger.manager.loggerDict.values() if isinstance(it, logging.Logger)]
    enabled = [logger for logger in known if not logger.disabled]
    try:
        yield
    finally:
        for logger in enabled:
            logger.disabled = False


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Light modules in place of the heavy ones that are not loaded already."""
    added = [name for name in LEFT_OUT if name not in sys.modules]
    for name in added:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        for attribute in LEFT_OUT[name]:
            setattr(module, attribute, type(attribute, (_LeftOut,), {}))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in added:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class _OurStopWords:
    """Answers as ``nltk.corpus.stopwords`` does, for English."""

    def words(self, _language: str) -> list[str]:
        return sorted(STOP_WORDS)


@contextmanager
def _stop_words_at_hand() -> Iterator[None]:
    """TextAttack asks nltk for its stop words while it is imported, and dies where nltk has none."""
    corpus: Any = import_module("nltk.corpus")
    before = corpus.stopwords
    corpus.stopwords = _OurStopWords()
    try:
        yield
    finally:
        corpus.stopwords = before
