"""TextFooler's search and constraints over WordNet synonyms, and over lists of counter-fitted neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack, Need
from robusweep.attacks.greedy import Greedy
from robusweep.attacks.neighbours import NeighbourFile
from robusweep.attacks.originals import POS_TAGGING, UNIVERSAL_ENCODER, VECTORS, OriginalRecipe
from robusweep.attacks.protocol import STANDARD_V1, Protocol
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
    lazy: bool = False
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors, so no minimum of word similarity",
        "MiniLM-L6 instead of the Universal Sentence Encoder; thresholds of the two are not comparable",
        "part-of-speech tagger of textblob-aptagger instead of nltk's",
        "robusweep's stop words instead of TextFooler's list",
    )
    own_resources = (WORDNET, TAGGER, ENCODER)

    def greedy(self, protocol: Protocol) -> Greedy | None:
        return _greedy(protocol, lazy=self.lazy)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        return _built(protocol, wrapper)


class TextFoolerNeighbours(Attack):
    """TextFooler (Jin et al., AAAI 2020, arXiv:1907.11932) over a file that lists each word's nearest neighbours.

    As ``textfooler_wordnet``, but for the candidates: a list made of counter-fitted vectors comes close to TextFooler's
    own, without the vectors. How many neighbours a word has, and how near they are, is the file's affair.
    """

    kind: Literal["textfooler_neighbours"] = "textfooler_neighbours"
    neighbours: str | None = None  # JSON file; None: lexicon/counterfitted_neighbors.json below $ROBUSWEEP_DATA
    lazy: bool = False
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from a list of neighbours instead of counter-fitted word vectors, so its own number and nearness",
        "MiniLM-L6 instead of the Universal Sentence Encoder; thresholds of the two are not comparable",
        "part-of-speech tagger of textblob-aptagger instead of nltk's",
        "robusweep's stop words instead of TextFooler's list",
    )
    own_resources = (TAGGER, ENCODER)

    def needs(self) -> list[Need]:
        return [*self.own_resources, NeighbourFile(self.neighbours)]

    def identity(self, protocol: Protocol = STANDARD_V1) -> dict[str, Any]:
        found = super().identity(protocol)
        return found | {"fields": found["fields"] | {"neighbours": None}}  # the file counts, wherever it lies

    def greedy(self, protocol: Protocol) -> Greedy | None:
        return _greedy(protocol, lazy=self.lazy, neighbours=self._file())

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        return _built(protocol, wrapper, neighbours=self._file())

    def _file(self) -> str:
        return str(NeighbourFile(self.neighbours).path())


def _greedy(protocol: Protocol, *, lazy: bool, neighbours: str | None = None) -> Greedy | None:
    if protocol.library_constraints:
        return None
    return Greedy(
        ranking="delete",
        same_part_of_speech=True,
        nouns_for_verbs=not protocol.same_part_of_speech,
        max_candidates=protocol.max_candidates or 50,
        neighbours=neighbours,
        lazy=lazy,
    )


def _built(protocol: Protocol, wrapper: VictimWrapper, *, neighbours: str | None = None) -> Any:
    from robusweep.attacks import parts

    window = parts.WindowSimilarity(
        threshold=0.840845057,  # 1 - 0.5 / pi, see TextAttack's recipe
        metric="angular",
        compare_against_original=False,
        window_size=15,
        skip_text_shorter_than_window=True,
    )
    return parts.textattack.Attack(
        parts.untargeted(wrapper),
        [
            *parts.common_constraints(protocol),
            parts.SamePartOfSpeech(nouns_for_verbs=not protocol.same_part_of_speech),
            *parts.meaning_constraints(protocol, wrapper, library=[window]),
        ],
        parts.SynonymSwap(protocol.max_candidates or 50, neighbours),
        parts.textattack.search_methods.GreedyWordSwapWIR(wir_method="delete"),
    )


class TextFooler(OriginalRecipe):
    """TextFooler (Jin et al., AAAI 2020, arXiv:1907.11932), with TextAttack's own resources."""

    kind: Literal["textfooler"] = "textfooler"
    stand_in: Literal["textfooler_wordnet"] | None = "textfooler_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "TextFoolerJin2019"
    own_resources = (VECTORS, *POS_TAGGING)
    encoder = UNIVERSAL_ENCODER
