"""Part-of-speech tags from the averaged perceptron of textblob-aptagger, as universal tags."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

from robusweep.attacks.resources import tagger_weights

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
        self._weights, self._tags, self._classes = weights, tags, classes

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
        scores: dict[str, float] = defaultdict(float)
        for feature in features:
            for tag, weight in self._weights.get(feature, {}).items():
                scores[tag] += weight
        best, found = max(zip(scores.values(), scores, strict=True), default=(0.0, ""))
        return found if best > 0 else max(self._classes, key=lambda tag: (scores.get(tag, 0.0), tag))


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
