"""What every attack is: a YAML block that knows what it needs, what defines its numbers, and how it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robusweep.attacks.protocol import STANDARD_V1, Protocol
from robusweep.attacks.resources import ENCODER, TEXTATTACK, Resource
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.spec import Spec, digest_of

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class Attack(Spec, ABC):
    """One attack of TextAttack. Subclasses are final; their docstring names the paper."""

    kind: str
    level: ClassVar[Literal["word", "char"]]
    substitutions: ClassVar[tuple[str, ...]]  # in words: what differs from the paper or from TextAttack's recipe
    own_resources: ClassVar[tuple[Resource, ...]] = ()

    @abstractmethod
    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        """The ``textattack.Attack`` that asks ``wrapper``. Loads TextAttack."""

    def resources(self, protocol: Protocol) -> list[Resource]:
        """Every package that the attack needs under a protocol."""
        similar = self.level == "word" and protocol.min_similarity is not None
        found = [TEXTATTACK, *self.own_resources, *([ENCODER] if similar else [])]
        return list(dict.fromkeys(found))

    def missing(self, protocol: Protocol = STANDARD_V1) -> list[str]:
        """What the attack needs and is not here, each with the command that installs it. Loads nothing heavy."""
        return [text for resource in self.resources(protocol) if (text := resource.missing())]

    def identity(self, protocol: Protocol = STANDARD_V1) -> dict[str, Any]:
        """Everything that defines the attack's numbers: fields, resources with hashes, substitutions.

        Raises ``MissingError`` when a resource is not here.
        """
        return {
            "fields": self.model_dump(mode="json"),
            "level": self.level,
            "substitutions": list(self.substitutions),
            "stop_words": digest_of(sorted(STOP_WORDS)),
            "resources": [resource.identity() for resource in self.resources(protocol)],
        }
