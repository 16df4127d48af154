"""TextBugger: typing errors, look-alike letters and synonyms, whichever does most damage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import HOMOGLYPHS, NLTK_STOP_WORDS, UNIVERSAL_ENCODER, VECTORS, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import ENCODER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class TextBuggerWordNet(Attack):
    """TextBugger (Li et al., NDSS 2019, arXiv:1812.05271) where its word vectors and encoder cannot be had.

    As in TextAttack's ``TextBuggerLi2018``: words ranked by deletion; each is tried with a blank inserted, a letter
    deleted, two letters swapped, each letter replaced by one that looks like it, and five synonyms.
    """

    kind: Literal["textbugger_wordnet"] = "textbugger_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "mixed"
    substitutions: ClassVar[tuple[str, ...]] = (
        "synonyms from WordNet 3.0 instead of counter-fitted word vectors",
        "MiniLM-L6 instead of the Universal Sentence Encoder; thresholds of the two are not comparable",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET, ENCODER)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        edits = parts.textattack.transformations
        inside: dict[str, bool] = {"random_one": True, "skip_first_char": True, "skip_last_char": True}
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                *parts.meaning_constraints(
                    protocol, wrapper, library=[parts.WindowSimilarity(threshold=0.8, metric="angular")]
                ),
            ],
            edits.CompositeTransformation(
                [
                    edits.WordSwapRandomCharacterInsertion(letters_to_insert=" ", **inside),
                    edits.WordSwapRandomCharacterDeletion(**inside),
                    edits.WordSwapNeighboringCharacterSwap(**inside),
                    parts.homoglyph_swap(),
                    parts.synonym_swap(protocol, 5),
                ]
            ),
            parts.textattack.search_methods.GreedyWordSwapWIR(wir_method="delete"),
        )


class TextBugger(OriginalRecipe):
    """TextBugger (Li et al., NDSS 2019, arXiv:1812.05271), with TextAttack's own resources."""

    kind: Literal["textbugger"] = "textbugger"
    stand_in: Literal["textbugger_wordnet"] | None = "textbugger_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "mixed"
    recipe: ClassVar[str] = "TextBuggerLi2018"
    own_resources = (VECTORS, HOMOGLYPHS, NLTK_STOP_WORDS)
    encoder = UNIVERSAL_ENCODER
