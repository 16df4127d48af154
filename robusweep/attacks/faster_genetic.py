"""The genetic algorithm with substitutions fixed in advance, over synonyms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import LEARNING_TO_WRITE, NLTK_STOP_WORDS, VECTORS, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class FasterGeneticWordNet(Attack):
    """Faster genetic algorithm (Jia et al., EMNLP 2019, arXiv:1909.00986) where its vectors and language model cannot
    be had.

    As in TextAttack's ``FasterGeneticAlgorithmJia2019``: the genetic algorithm for twice as many generations, with
    substitutions judged against the original text.
    """

    kind: Literal["faster_genetic_wordnet"] = "faster_genetic_wordnet"
    population: int = Field(60, ge=2)  # texts
    max_iterations: int = Field(40, ge=1)  # generations
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors, so no maximum of word distance",
        "no language model refuses candidates",
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


class FasterGenetic(OriginalRecipe):
    """Faster genetic algorithm (Jia et al., EMNLP 2019, arXiv:1909.00986), with TextAttack's own resources."""

    kind: Literal["faster_genetic"] = "faster_genetic"
    stand_in: Literal["faster_genetic_wordnet"] | None = "faster_genetic_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "FasterGeneticAlgorithmJia2019"
    own_resources = (VECTORS, LEARNING_TO_WRITE, NLTK_STOP_WORDS)
