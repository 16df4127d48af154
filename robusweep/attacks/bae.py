"""BAE: replacements from a masked language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack, Need
from robusweep.attacks.originals import NLTK_STOP_WORDS, POS_TAGGING, UNIVERSAL_ENCODER, LanguageModel, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import ENCODER, TAGGER

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class BaeMiniLM(Attack):
    """BAE-R (Garg and Ramakrishnan, EMNLP 2020, arXiv:2004.01970) with MiniLM where it has the Universal Sentence
    Encoder.

    As in TextAttack's ``BAEGarg2019``: words ranked by deletion; each is masked, and the model's 50 likeliest words of
    the same part of speech are tried. ``language_model``: a folder, or a name that the hub's cache holds.
    """

    kind: Literal["bae_minilm"] = "bae_minilm"
    language_model: str = Field("bert-base-uncased", min_length=1)  # folder or hub name
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "MiniLM-L6 instead of the Universal Sentence Encoder; thresholds of the two are not comparable",
        "part-of-speech tagger of textblob-aptagger instead of nltk's",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (TAGGER, ENCODER)

    def needs(self) -> list[Need]:
        return [*self.own_resources, self._model()]

    def _model(self) -> LanguageModel:
        return LanguageModel("masked language model", self.language_model)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                parts.SamePartOfSpeech(nouns_for_verbs=not protocol.same_part_of_speech),
                *parts.meaning_constraints(
                    protocol,
                    wrapper,
                    library=[
                        parts.WindowSimilarity(
                            threshold=0.936338023,  # TextAttack's value for 0.8, see its recipe
                            metric="cosine",
                            window_size=15,
                            skip_text_shorter_than_window=True,
                        )
                    ],
                ),
            ],
            parts.masked_swap(self._model(), method="bae", most=min(50, protocol.max_candidates or 50)),
            parts.textattack.search_methods.GreedyWordSwapWIR(wir_method="delete"),
        )


class Bae(OriginalRecipe):
    """BAE-R (Garg and Ramakrishnan, EMNLP 2020, arXiv:2004.01970), with TextAttack's own resources."""

    kind: Literal["bae"] = "bae"
    stand_in: Literal["bae_minilm"] | None = "bae_minilm"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "BAEGarg2019"
    own_resources = (
        LanguageModel("masked language model", "bert-base-uncased"),
        *POS_TAGGING,
        NLTK_STOP_WORDS,
    )
    encoder = UNIVERSAL_ENCODER
