"""An attack that sees predicted labels only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import TAGGER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class HardLabelWordNet(Attack):
    """Random substitution, then reversal, from predicted labels alone (after Maheshwary et al., AAAI 2021).

    As in their first two steps: words are replaced at random until the label changes, then each replacement that is not
    needed is taken back. Scores are never looked at, so a model that hides them gains nothing: where this attack breaks
    more texts than those that use scores, the scores mislead.
    """

    kind: Literal["hard_label_wordnet"] = "hard_label_wordnet"
    restarts: int = Field(10, ge=1)  # random texts to start from
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    label_only: ClassVar[bool] = True
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors",
        "no genetic search for a more similar text behind the first one that succeeds",
        "part-of-speech tagger of textblob-aptagger instead of the authors'",
        "robusweep's stop words instead of the authors'",
    )
    own_resources = (WORDNET, TAGGER)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts
        from robusweep.attacks.random_search import RandomThenRevert

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                parts.SamePartOfSpeech(nouns_for_verbs=not protocol.same_part_of_speech),
                *parts.meaning_constraints(protocol, wrapper),
            ],
            parts.synonym_swap(protocol, 50),
            RandomThenRevert(self.restarts),
        )
