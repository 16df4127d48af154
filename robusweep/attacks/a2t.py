"""A2T: synonyms in the order of the loss gradient, one backward pass for each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import (
    DISTILBERT,
    NLTK_STOP_WORDS,
    POS_TAGGING,
    SENTENCE_TRANSFORMERS,
    VECTORS,
    OriginalRecipe,
)
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import ENCODER, TAGGER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class A2TWordNet(Attack):
    """A2T (Yoo and Qi, Findings of EMNLP 2021, arXiv:2109.00544) where its word vectors and encoder cannot be had.

    As in TextAttack's ``A2TYoo2021``: words ranked by the gradient at their embeddings, up to 20 candidates of the same
    part of speech, at most a tenth of the words (but four) changed. The gradient is taken without dropout.
    """

    kind: Literal["a2t_wordnet"] = "a2t_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    needs_gradients: ClassVar[bool] = True
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors, so no minimum of word similarity",
        "MiniLM-L6 instead of DistilBERT for sentence similarity",
        "part-of-speech tagger of textblob-aptagger instead of nltk's",
        "gradients without dropout: TextAttack takes them in training mode",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET, TAGGER, ENCODER)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        pre = parts.textattack.constraints.pre_transformation
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                pre.MaxModificationRate(max_rate=0.1, min_threshold=4),
                parts.SamePartOfSpeech(),
                *parts.meaning_constraints(
                    protocol, wrapper, library=[parts.WindowSimilarity(threshold=0.9, metric="cosine")]
                ),
            ],
            parts.synonym_swap(protocol, 20),
            parts.textattack.search_methods.GreedyWordSwapWIR(
                wir_method="gradient", truncate_words_to=wrapper.max_length
            ),
        )


class A2T(OriginalRecipe):
    """A2T (Yoo and Qi, Findings of EMNLP 2021, arXiv:2109.00544), with TextAttack's own resources."""

    kind: Literal["a2t"] = "a2t"
    stand_in: Literal["a2t_wordnet"] | None = "a2t_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    needs_gradients: ClassVar[bool] = True
    recipe: ClassVar[str] = "A2TYoo2021"
    own_resources = (VECTORS, *POS_TAGGING, SENTENCE_TRANSFORMERS, DISTILBERT, NLTK_STOP_WORDS)
