"""Part-of-speech tags from the averaged perceptron of textblob-aptagger, as universal tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from robusweep.attacks.resources import tagger_weights

MAX_VECTORS = 2**16  # features kept, of half a kilobyte each

# Penn Treebank tag -> universal tag (Petrov et al. 2012); every other tag is X (or punctuation, which is no word).
UNIVERSAL: Mapping[str, str] = {
    tag: universal
    for universal, tags in {
        "NOUN": "NN NNS NNP NNPS",
        "VERB": "VB VBD VBG VBN VBP VBZ MD",
        "ADJ": "JJ JJR JJS",
        "ADV": "RB RBR RBS WRB",
        "PRON": "PRP PRP$ WP WP$",
        "DET": "DT PDT WDT EX",
        "ADP": "IN",
        "NUM": "CD",
        "PRT": "TO RP POS",
        "CONJ": "CC",
    }.items()
    for tag in tags.split()
}


class Tagger:
    """Tags the words of a sentence from left to right; frequent unambiguous words have a fixed tag."""

    def __init__(
        self,
        weights: Mapping[str, Mapping[str, float]],
        tags: Mapping[str, str],
        classes: Sequence[str],
    ) -> None:
        self._weights, self._tags = weights, tags
        self._classes = sorted(classes, reverse=True)  # of equal scores the last in the alphabet wins
        self._place = {tag: i for i, tag in enumerate(self._classes)}
        self._vectors: dict[str, NDArray[np.float64] | None] = {}  # feature -> weight of each class; None: unknown

    def tag_at(self, words: Sequence[str], position: int) -> str:
        """The universal tag of ``words[position]``. What lies further right than two words does not matter."""
        context = ["-START-", "-START2-", *map(_normalised, words), "-END-", "-END2-"]
        before, before_that = "-START-", "-START2-"
        for i in range(position + 1):
            tag = self._tags.get(words[i]) or self._guess(words[i], context, i + 2, before, before_that)
            before, before_that = tag, before
        return UNIVERSAL.get(before, "X")

    def _guess(self, word: str, context: Sequence[str], i: int, before: str, before_that: str) -> str:
        """The tag with the largest sum of weights. The weights fix how the features are named."""
        features = (
            "bias",
            f"i suffix {word[-3:]}",
            f"i pref1 {word[0]}",
            f"i-1 tag {before}",
            f"i-2 tag {before_that}",
            f"i tag+i-2 tag {before} {before_that}",
            f"i word {context[i]}",
            f"i-1 tag+i word {before} {context[i]}",
            f"i-1 word {context[i - 1]}",
            f"i-1 suffix {context[i - 1][-3:]}",
            f"i-2 word {context[i - 2]}",
            f"i+1 word {context[i + 1]}",
            f"i+1 suffix {context[i + 1][-3:]}",
            f"i+2 word {context[i + 2]}",
        )
        scores, vectors = np.zeros(len(self._classes)), self._vectors
        for feature in features:
            vector = vectors[feature] if feature in vectors else self._vector(feature)
            if vector is not None:
                scores += vector
        return self._classes[int(scores.argmax())]

    def _vector(self, feature: str) -> NDArray[np.float64] | None:
        weights = self._weights.get(feature)
        found = None if weights is None else np.zeros(len(self._classes))
        if weights is not None and found is not None:
            for tag, weight in weights.items():
                found[self._place[tag]] = weight
        if len(self._vectors) > MAX_VECTORS:
            self._vectors.clear()
        self._vectors[feature] = found
        return found


def _normalised(word: str) -> str:
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[0].isdigit() else word.lower()


@cache
def tagger() -> Tagger:
    """The one tagger of this process."""
    found = tagger_weights()
    return Tagger(found["weights"], found["tags"], found["classes"])
