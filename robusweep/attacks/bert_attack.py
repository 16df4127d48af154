"""BERT-Attack: replacements from a masked language model that sees the word itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack, Need
from robusweep.attacks.originals import NLTK_STOP_WORDS, UNIVERSAL_ENCODER, LanguageModel, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import ENCODER

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class BertAttackMiniLM(Attack):
    """BERT-Attack (Li et al., EMNLP 2020, arXiv:2004.09984) with MiniLM where it has the Universal Sentence Encoder.

    As in TextAttack's ``BERTAttackLi2020``: words ranked by masking, eight candidates for each piece of a word, at most
    40 % of the words changed. ``language_model``: a folder, or a name that the hub's cache holds.
    """

    kind: Literal["bert_attack_minilm"] = "bert_attack_minilm"
    language_model: str = Field("bert-base-uncased", min_length=1)  # folder or hub name
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "MiniLM-L6 instead of the Universal Sentence Encoder; thresholds of the two are not comparable",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (ENCODER,)

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
                parts.textattack.constraints.overlap.MaxWordsPerturbed(max_percent=0.4),
                *parts.meaning_constraints(
                    protocol, wrapper, library=[parts.WindowSimilarity(threshold=0.2, metric="cosine")]
                ),
            ],
            parts.masked_swap(self._model(), method="bert-attack", most=min(8, protocol.max_candidates or 8)),
            parts.textattack.search_methods.GreedyWordSwapWIR(wir_method="unk"),
        )


class BertAttack(OriginalRecipe):
    """BERT-Attack (Li et al., EMNLP 2020, arXiv:2004.09984), with TextAttack's own resources."""

    kind: Literal["bert_attack"] = "bert_attack"
    stand_in: Literal["bert_attack_minilm"] | None = "bert_attack_minilm"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "BERTAttackLi2020"
    own_resources = (LanguageModel("masked language model", "bert-base-uncased"), NLTK_STOP_WORDS)
    encoder = UNIVERSAL_ENCODER
