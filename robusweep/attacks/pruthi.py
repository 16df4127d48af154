"""Pruthi: the typing error that does most damage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class Pruthi(Attack):
    """Typing errors inside words (Pruthi et al., ACL 2019, arXiv:1905.11268).

    As in TextAttack's ``Pruthi2019``: every swap, deletion, insertion and neighbouring key inside words of four letters
    and more is tried; the worst one is kept. ``max_words`` words may change: the paper looks at one and two.
    """

    kind: Literal["pruthi"] = "pruthi"
    max_words: int = Field(1, ge=1)  # with typing errors in a text
    level: ClassVar[Literal["word", "char", "mixed"]] = "char"
    substitutions: ClassVar[tuple[str, ...]] = ("robusweep's stop words instead of nltk's",)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        edits, rules = parts.textattack.transformations, parts.textattack.constraints
        inside: dict[str, bool] = {"random_one": False, "skip_first_char": True, "skip_last_char": True}
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                rules.pre_transformation.MinWordLength(min_length=4),
                rules.overlap.MaxWordsPerturbed(max_num_words=self.max_words),
                *parts.common_constraints(protocol),
            ],
            edits.CompositeTransformation(
                [
                    edits.WordSwapNeighboringCharacterSwap(**inside),
                    edits.WordSwapRandomCharacterDeletion(**inside),
                    edits.WordSwapRandomCharacterInsertion(**inside),
                    edits.WordSwapQWERTY(**inside),
                ]
            ),
            parts.textattack.search_methods.GreedySearch(),
        )
