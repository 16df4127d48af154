"""A genetic algorithm over synonyms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import GOOGLE_LM, NLTK_STOP_WORDS, TENSORFLOW, VECTORS, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class GeneticWordNet(Attack):
    """Genetic algorithm (Alzantot et al., EMNLP 2018, arXiv:1804.07998) where its vectors and language model cannot be
    had.

    As in TextAttack's ``GeneticAlgorithmAlzantot2018``: a population of texts, changed word by word and crossed, at
    most a fifth of the words changed, eight candidates for each.
    """

    kind: Literal["genetic_wordnet"] = "genetic_wordnet"
    population: int = Field(60, ge=2)  # texts
    max_iterations: int = Field(20, ge=1)  # generations
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors, so no maximum of word distance",
        "no language model chooses among candidates",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET,)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                parts.textattack.constraints.overlap.MaxWordsPerturbed(max_percent=0.2),
                *parts.meaning_constraints(protocol, wrapper),
            ],
            parts.synonym_swap(protocol, 8),
            parts.textattack.search_methods.AlzantotGeneticAlgorithm(
                pop_size=self.population,
                max_iters=self.max_iterations,
                # crossed texts, too, must keep a protocol's rules
                post_crossover_check=not protocol.library_constraints,
            ),
        )


class Genetic(OriginalRecipe):
    """Genetic algorithm (Alzantot et al., EMNLP 2018, arXiv:1804.07998), with TextAttack's own resources."""

    kind: Literal["genetic"] = "genetic"
    stand_in: Literal["genetic_wordnet"] | None = "genetic_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "GeneticAlgorithmAlzantot2018"
    own_resources = (VECTORS, GOOGLE_LM, TENSORFLOW, NLTK_STOP_WORDS)
