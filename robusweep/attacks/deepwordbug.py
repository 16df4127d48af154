"""DeepWordBug: typing errors in the words that matter most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class DeepWordBug(Attack):
    """Typing errors in the most important words (Gao et al. 2018, arXiv:1801.04354).

    As in TextAttack's ``DeepWordBugGao2018``: words are ranked by the loss of the label's probability when they are
    unknown. Each is tried with one random swap of neighbours, substitution, deletion and insertion: at most four
    candidates, whatever the protocol allows.
    """

    kind: Literal["deepwordbug"] = "deepwordbug"
    max_edit_distance: int = Field(30, ge=1)  # Levenshtein, characters, over the whole text
    level: ClassVar[Literal["word", "char", "mixed"]] = "char"
    substitutions: ClassVar[tuple[str, ...]] = ("robusweep's stop words instead of nltk's",)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        edits = parts.textattack.transformations
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                parts.textattack.constraints.overlap.LevenshteinEditDistance(self.max_edit_distance),
            ],
            edits.CompositeTransformation(
                [
                    edits.WordSwapNeighboringCharacterSwap(),
                    edits.WordSwapRandomCharacterSubstitution(),
                    edits.WordSwapRandomCharacterDeletion(),
                    edits.WordSwapRandomCharacterInsertion(),
                ]
            ),
            parts.textattack.search_methods.GreedyWordSwapWIR(),
        )
