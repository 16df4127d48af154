"""The improved genetic algorithm over synonyms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import NLTK_STOP_WORDS, VECTORS, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class IgaWordNet(Attack):
    """Improved genetic algorithm (Wang et al. 2019, arXiv:1909.06723) where its word vectors cannot be had.

    As in TextAttack's ``IGAWang2019``: the first generation holds each word's best swap, texts are crossed by cutting
    and joining, and under its own constraints a word may be replaced five times.
    """

    kind: Literal["iga_wordnet"] = "iga_wordnet"
    population: int = Field(60, ge=2)  # texts
    max_iterations: int = Field(20, ge=1)  # generations
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of counter-fitted word vectors, so no maximum of word distance",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET,)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol, repeat=True),
                parts.textattack.constraints.overlap.MaxWordsPerturbed(max_percent=0.2),
                *parts.meaning_constraints(protocol, wrapper),
            ],
            parts.synonym_swap(protocol, 50),
            parts.textattack.search_methods.ImprovedGeneticAlgorithm(
                pop_size=self.population,
                max_iters=self.max_iterations,
                max_replace_times_per_index=5,
                # crossed texts, too, must keep a protocol's rules
                post_crossover_check=not protocol.library_constraints,
            ),
        )


class Iga(OriginalRecipe):
    """Improved genetic algorithm (Wang et al. 2019, arXiv:1909.06723), with TextAttack's own resources."""

    kind: Literal["iga"] = "iga"
    stand_in: Literal["iga_wordnet"] | None = "iga_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "IGAWang2019"
    own_resources = (VECTORS, NLTK_STOP_WORDS)
