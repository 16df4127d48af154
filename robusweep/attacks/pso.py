"""A particle swarm over synonyms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import FLAIR_TAGS, HOWNET, NLTK_STOP_WORDS, OriginalRecipe
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import TAGGER, WORDNET

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class PsoWordNet(Attack):
    """Particle swarm optimisation (Zang et al., ACL 2020, arXiv:1910.12196) where HowNet cannot be had.

    As in TextAttack's ``PSOZang2020``: a swarm of texts that drift towards the best they have seen. Its candidates
    share all sememes and the part of speech; here they are WordNet synonyms of the same part of speech.
    """

    kind: Literal["pso_wordnet"] = "pso_wordnet"
    population: int = Field(60, ge=2)  # texts
    max_iterations: int = Field(20, ge=1)  # generations
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = (
        "candidates from WordNet 3.0 instead of HowNet's sememes",
        "part-of-speech tagger of textblob-aptagger instead of flair's",
        "robusweep's stop words instead of nltk's",
    )
    own_resources = (WORDNET, TAGGER)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *parts.common_constraints(protocol),
                parts.SamePartOfSpeech(),
                *parts.meaning_constraints(protocol, wrapper),
            ],
            parts.synonym_swap(protocol),
            parts.textattack.search_methods.ParticleSwarmOptimization(
                pop_size=self.population, max_iters=self.max_iterations
            ),
        )


class Pso(OriginalRecipe):
    """Particle swarm optimisation (Zang et al., ACL 2020, arXiv:1910.12196), with TextAttack's own resources."""

    kind: Literal["pso"] = "pso"
    stand_in: Literal["pso_wordnet"] | None = "pso_wordnet"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    recipe: ClassVar[str] = "PSOZang2020"
    own_resources = (HOWNET, FLAIR_TAGS, NLTK_STOP_WORDS)
