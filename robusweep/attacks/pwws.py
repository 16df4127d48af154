"""PWWS: synonyms in the order of word saliency times the damage that they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack
from robusweep.attacks.greedy import Greedy
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class Pwws(Attack):
    """Probability-weighted word saliency (Ren et al., ACL 2019, P19-1103).

    As in TextAttack's ``PWWSRen2019``: each word's saliency (the loss of the label's probability when the word is
    unknown), after a softmax, is multiplied by what its best synonym achieves; words are swapped greedily in that
    order.
    """

    kind: Literal["pwws"] = "pwws"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "no named-entity swaps (as in TextAttack)",
        "WordNet 3.0 without its lists of irregular forms: went, mice have no synonyms",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET,)

    def greedy(self, protocol: Protocol) -> Greedy | None:
        if protocol.library_constraints:
            return None
        return Greedy(
            ranking="weighted-saliency",
            same_part_of_speech=protocol.same_part_of_speech,
            max_candidates=protocol.max_candidates,
        )

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [*parts.common_constraints(protocol), *parts.meaning_constraints(protocol, wrapper)],
            parts.synonym_swap(protocol),
            parts.textattack.search_methods.GreedyWordSwapWIR("weighted-saliency"),
        )
