"""What every attack is: a YAML block that knows what it needs, what defines its numbers, and how it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from typing import Protocol as Interface

from robusweep.attacks.protocol import STANDARD_V1, Protocol
from robusweep.attacks.resources import ENCODER, TAGGER, TEXTATTACK
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.spec import Spec, digest_of

if TYPE_CHECKING:
    from robusweep.attacks.greedy import Greedy
    from robusweep.attacks.parts import VictimWrapper


class Need(Interface):
    """Something that an attack can't do without: a package, files in a cache folder, a model of the hub."""

    @property
    def name(self) -> str: ...

    def missing(self) -> str | None:
        """What is not here and how to get it, or None. Loads nothing heavy."""

    def identity(self) -> dict[str, str]:
        """What decides numbers: name, version, digests. Raises ``MissingError`` when it is not here."""


class Attack(Spec, ABC):
    """One attack. Subclasses are final; their docstring names the paper.

    ``level``: what it edits; ``word`` and ``mixed`` attacks keep a protocol's similarity, ``char`` ones have limits of
    their own. ``goal``: ``keep_label`` attacks reduce a text that the model goes on to label alike; they diagnose, and
    count in no robust accuracy. ``label_only`` attacks see predictions and no scores.
    """

    kind: str
    level: ClassVar[Literal["word", "char", "mixed"]]
    goal: ClassVar[Literal["change_label", "keep_label"]] = "change_label"
    needs_gradients: ClassVar[bool] = False
    label_only: ClassVar[bool] = False
    substitutions: ClassVar[tuple[str, ...]]  # in words: what differs from the paper or from TextAttack's recipe
    own_resources: ClassVar[tuple[Need, ...]] = ()

    @abstractmethod
    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        """The ``textattack.Attack`` that asks ``wrapper``. Loads TextAttack."""

    def greedy(self, protocol: Protocol) -> Greedy | None:  # noqa: ARG002 - for those that have one
        """How to run without TextAttack's objects, for attacks and protocols where the outcome is the same."""
        return None

    def needs(self) -> Sequence[Need]:
        """What the attack needs under any protocol, TextAttack and what a protocol adds left out."""
        return self.own_resources

    def resources(self, protocol: Protocol) -> list[Need]:
        """Everything that the attack needs under a protocol."""
        swaps = self.level != "char" and self.goal == "change_label"
        found: list[Need] = [TEXTATTACK, *self.needs()]
        found += [ENCODER] if swaps and protocol.min_similarity is not None else []
        found += [TAGGER] if swaps and protocol.same_part_of_speech else []
        return list(dict.fromkeys(found))

    def missing(self, protocol: Protocol = STANDARD_V1) -> list[str]:
        """What the attack needs and is not here, each with the command that installs it. Loads nothing heavy."""
        return [text for resource in self.resources(protocol) if (text := resource.missing())]

    def identity(self, protocol: Protocol = STANDARD_V1) -> dict[str, Any]:
        """Everything that defines the attack's numbers: fields, resources with hashes, substitutions.

        Raises ``MissingError`` when a resource is not here.
        """
        return {
            "fields": self.model_dump(mode="json", exclude={"stand_in"}),
            "level": self.level,
            "substitutions": list(self.substitutions),
            "stop_words": digest_of(sorted(STOP_WORDS)),
            "resources": [resource.identity() for resource in self.resources(protocol)],
        }
