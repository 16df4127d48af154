"""Input reduction: words are removed as long as the label stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.stop_words import STOP_WORDS

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class InputReduction(Attack):
    """Input reduction (Feng et al., EMNLP 2018, arXiv:1804.07781): a diagnosis, not an attack on accuracy.

    As in TextAttack's ``InputReductionFeng2018``: the least important words are deleted while the model goes on to give
    the same label. "Broken" means that it still gives it to at most one word: it is sure of a text that says nothing. A
    protocol's limit on changed words and its similarity do not apply.
    """

    kind: Literal["input_reduction"] = "input_reduction"
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    goal: ClassVar[Literal["change_label", "keep_label"]] = "keep_label"
    substitutions: ClassVar[tuple[str, ...]] = ("robusweep's stop words instead of nltk's",)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:  # noqa: ARG002 - no limits apply
        from robusweep.attacks import parts

        pre = parts.textattack.constraints.pre_transformation
        own = [pre.RepeatModification(), pre.StopwordModification(stopwords=STOP_WORDS)]
        return parts.textattack.Attack(
            parts.textattack.goal_functions.InputReduction(wrapper, maximizable=True, model_batch_size=4096),
            own,
            parts.textattack.transformations.WordDeletion(),
            parts.textattack.search_methods.GreedyWordSwapWIR(wir_method="delete"),
        )
