"""HotFlip: the synonyms that the gradient at the word embeddings points to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import Never, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import TAGGER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class HotFlipWordNet(Attack):
    """HotFlip (Ebrahimi et al., ACL 2018, arXiv:1712.06751) for models of word pieces, over synonyms.

    As in TextAttack's ``HotFlipEbrahimi2017``: the first-order gain in the loss chooses flips, a beam of ten texts is
    kept, two words of the same part of speech may change. Where a flip is a synonym, the estimate is of the sum of its
    pieces.
    """

    kind: Literal["hotflip_wordnet"] = "hotflip_wordnet"
    beam: int = Field(10, ge=1)  # texts kept after each round
    flips: int = Field(10, ge=1)  # of a text that are tried in a round, the largest estimated gains first
    max_words: int = Field(2, ge=1)  # flipped in a text
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    needs_gradients: ClassVar[bool] = True
    substitutions: ClassVar[tuple[str, ...]] = (
        "TextAttack's HotFlip knows its own LSTM and CNN only: this one works on word pieces",
        "flips to WordNet synonyms instead of any word whose vector is near",
        "several flips of a text are tried instead of the best alone, since constraints refuse many",
        "part-of-speech tagger of textblob-aptagger instead of nltk's",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET, TAGGER)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                parts.textattack.constraints.overlap.MaxWordsPerturbed(max_num_words=self.max_words),
                parts.SamePartOfSpeech(),
                *parts.meaning_constraints(protocol, wrapper),
            ],
            parts.GradientSwap(wrapper, protocol.max_candidates, self.flips),
            parts.textattack.search_methods.BeamSearch(beam_width=self.beam),
        )


class HotFlip(OriginalRecipe):
    """HotFlip (Ebrahimi et al., ACL 2018, arXiv:1712.06751) as TextAttack has it, which no transformer can be given
    to."""

    kind: Literal["hotflip"] = "hotflip"
    stand_in: Literal["hotflip_wordnet"] | None = "hotflip_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    needs_gradients: ClassVar[bool] = True
    recipe: ClassVar[str] = "HotFlipEbrahimi2017"
    own_resources = (Never("TextAttack's HotFlip", "it knows its own LSTM and CNN only, no transformer"),)
