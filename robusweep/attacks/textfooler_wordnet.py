"""TextFooler's search and constraints over WordNet synonyms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import ENCODER, TAGGER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class TextFoolerWordNet(Attack):
    """TextFooler (Jin et al., AAAI 2020, arXiv:1907.11932) where its word vectors and encoder cannot be had.

    Search and constraints are those of TextAttack's ``TextFoolerJin2019``: words ranked by deletion, the same part of
    speech (a noun may become a verb), sentence similarity, and of several successes the most similar one. Its numbers
    are not TextFooler's, hence the name.
    """

    kind: Literal["textfooler_wordnet"] = "textfooler_wordnet"
    level: ClassVar[Literal["word", "char"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors, so no minimum of word similarity",
        "MiniLM-L6 instead of the Universal Sentence Encoder; thresholds of the two are not comparable",
        "part-of-speech tagger of textblob-aptagger instead of nltk's",
        "robusweep's stop words instead of TextFooler's list",
    )
    own_resources = (WORDNET, TAGGER, ENCODER)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        similar = parts.similarity_constraints(protocol, wrapper)
        if protocol.library_constraints:
            similar = [parts.WindowSimilarity()]
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [*parts.common_constraints(protocol), parts.SamePartOfSpeech(), *similar],
            parts.SynonymSwap(protocol.max_candidates or 50),
            parts.textattack.search_methods.GreedyWordSwapWIR(wir_method="delete"),
        )
