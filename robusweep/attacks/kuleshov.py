"""Kuleshov: synonyms that a language model finds likely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack, Need
from robusweep.attacks.originals import NLTK_STOP_WORDS, VECTORS, LanguageModel, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import ENCODER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class KuleshovWordNet(Attack):
    """Greedy substitution under a language model (Kuleshov et al. 2018) where its word vectors cannot be had.

    As in TextAttack's ``Kuleshov2017``: the swap that does most damage at each step, 15 candidates a word, at most half
    of the words, none whose log-probability falls by more than 2. ``language_model``: a folder, or a name that the
    hub's cache holds, of GPT-2's make.
    """

    kind: Literal["kuleshov_wordnet"] = "kuleshov_wordnet"
    language_model: str = Field("gpt2", min_length=1)  # folder or hub name
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors",
        "MiniLM-L6 instead of the mean of word vectors for the distance of texts",
        "succeeds when the label changes, not when its probability falls below 0.7",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET, ENCODER)

    def needs(self) -> list[Need]:
        return [*self.own_resources, self._model()]

    def _model(self) -> LanguageModel:
        return LanguageModel("language model", self.language_model)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        rules = parts.textattack.constraints
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                rules.overlap.MaxWordsPerturbed(max_percent=0.5),
                *parts.meaning_constraints(
                    protocol, wrapper, library=[parts.WindowSimilarity(threshold=0.2, metric="max_euclidean")]
                ),
                rules.grammaticality.language_models.GPT2(
                    model_name=str(self._model().folder()), max_log_prob_diff=2.0
                ),
            ],
            parts.synonym_swap(protocol, 15),
            parts.textattack.search_methods.GreedySearch(),
        )


class Kuleshov(OriginalRecipe):
    """Greedy substitution under a language model (Kuleshov et al. 2018), with TextAttack's own resources."""

    kind: Literal["kuleshov"] = "kuleshov"
    stand_in: Literal["kuleshov_wordnet"] | None = "kuleshov_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "Kuleshov2017"
    own_resources = (VECTORS, LanguageModel("language model", "gpt2"), NLTK_STOP_WORDS)
