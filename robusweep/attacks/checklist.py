"""CheckList: contractions and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.base import Attack
from robusweep.attacks.originals import FLAIR_NAMES, OriginalRecipe
from robusweep.attacks.protocol import Protocol

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class CheckListWithoutNames(Attack):
    """CheckList's invariance tests (Ribeiro et al., ACL 2020, arXiv:2005.04118), those that need no tagger of names.

    As in TextAttack's ``CheckList2020``: contractions are written out and back, numbers are changed. Names and places
    are left alone, since the tagger that finds them cannot be had.
    """

    kind: Literal["checklist_without_names"] = "checklist_without_names"
    level: ClassVar[Literal["word", "char", "mixed"]] = "mixed"
    substitutions: ClassVar[tuple[str, ...]] = ("no changes of names and places, for want of a named-entity tagger",)

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        edits = parts.textattack.transformations
        own = [parts.textattack.constraints.pre_transformation.RepeatModification()]
        return parts.textattack.Attack(
            parts.untargeted(wrapper),
            [
                *(own if protocol.library_constraints else parts.common_constraints(protocol)),
                *parts.meaning_constraints(protocol, wrapper),
            ],
            edits.CompositeTransformation(
                [edits.WordSwapExtend(), edits.WordSwapContract(), edits.WordSwapChangeNumber()]
            ),
            parts.textattack.search_methods.GreedySearch(),
        )


class CheckList(OriginalRecipe):
    """CheckList's invariance tests (Ribeiro et al., ACL 2020, arXiv:2005.04118), with TextAttack's own resources."""

    kind: Literal["checklist"] = "checklist"
    stand_in: Literal["checklist_without_names"] | None = "checklist_without_names"
    level: ClassVar[Literal["word", "char", "mixed"]] = "mixed"
    recipe: ClassVar[str] = "CheckList2020"
    own_resources = (FLAIR_NAMES,)
