"""The protocol of an evaluation as data: which perturbations are allowed, and how much an attack may ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from robusweep.errors import nearest
from robusweep.spec import Spec, digest_of

if TYPE_CHECKING:
    from robusweep.attacks.base import Attack

FOLDER = Path(__file__).parent / "protocols"


class Protocol(Spec):
    """Constraints and budgets that every attack of a suite obeys. ``None`` leaves a rule out.

    They come on top of what an attack itself demands (TextFooler's part of speech, DeepWordBug's edit distance).
    With ``library_constraints`` an attack keeps TextAttack's own rules instead, in TextAttack's own way.
    """

    name: str
    max_words_changed: float | None = Field(None, gt=0, le=1)
    long_text_words: int | None = Field(None, ge=1)
    max_words_changed_long: float | None = Field(None, gt=0, le=1)
    max_candidates: int | None = Field(None, ge=1)
    min_similarity: float | None = Field(None, ge=-1, le=1)
    similarity_block: int | None = Field(None, ge=1)
    same_part_of_speech: bool = False
    query_budget: Literal["candidates_x_words"] | int | None = None
    no_stop_words: bool = False
    no_repeat: bool = False
    library_constraints: bool = False

    @model_validator(mode="after")
    def _together(self) -> Protocol:
        if (self.long_text_words is None) != (self.max_words_changed_long is None):
            raise ValueError("long_text_words and max_words_changed_long belong together: give both or neither")
        if self.max_words_changed_long is not None and self.max_words_changed is None:
            raise ValueError("max_words_changed_long needs max_words_changed")
        if self.query_budget == "candidates_x_words" and self.max_candidates is None:
            raise ValueError("query_budget: candidates_x_words needs max_candidates")
        if isinstance(self.query_budget, int) and self.query_budget < 1:
            raise ValueError("query_budget must be at least 1")
        return self

    def max_queries(self, n_words: int) -> int | None:
        """The number of texts that an attack may ask about for an example of ``n_words`` words.

        Counted as TextAttack does: the unchanged text and repeated texts count, too.
        """
        if self.query_budget == "candidates_x_words":
            assert self.max_candidates is not None
            return max(1, self.max_candidates * n_words)
        return self.query_budget

    def max_changes(self, n_words: int) -> int:
        """How many of ``n_words`` words may change: the share rounded down, but one word at least."""
        share = self.max_words_changed
        if self.long_text_words is not None and n_words >= self.long_text_words:
            share = self.max_words_changed_long
        return n_words if share is None else max(1, int(share * n_words + 1e-9))

    def changed(self, changes: Mapping[str, Any]) -> Protocol:
        """This protocol with some fields replaced; its name says which. Raises pydantic's ``ValidationError``.

        A new ``max_words_changed`` holds for texts of every length, unless the rule for long ones is given too.
        """
        if "max_words_changed" in changes:
            changes = {"long_text_words": None, "max_words_changed_long": None} | dict(changes)
        kept = {key: value for key, value in changes.items() if getattr(self, key, ...) != value}
        if not kept:
            return self
        said = ",".join(f"{key}={'null' if value is None else value}" for key, value in sorted(kept.items()))
        return Protocol.model_validate(self.model_dump() | kept | {"name": f"{self.name}+{said}"})


def _shipped() -> dict[str, Protocol]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))]
    found = [Protocol.model_validate(yaml.safe_load(text)) for text in texts]
    return {protocol.name: protocol for protocol in found}


PROTOCOLS = _shipped()  # by name; each is a YAML file in attacks/protocols
STANDARD_V1 = PROTOCOLS["standard_v1"]


class ChangedProtocol(Spec):
    """A shipped protocol with some rules changed, field by field; its name and its hash say so."""

    base: str = "standard_v1"
    max_words_changed: float | None = None
    long_text_words: int | None = None
    max_words_changed_long: float | None = None
    max_candidates: int | None = None
    min_similarity: float | None = None
    similarity_block: int | None = None
    same_part_of_speech: bool = False
    query_budget: Literal["candidates_x_words"] | int | None = None
    no_stop_words: bool = False
    no_repeat: bool = False

    @model_validator(mode="after")
    def _possible(self) -> ChangedProtocol:
        self.protocol()
        return self

    @model_serializer(mode="wrap")
    def _only_what_was_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {"base": self.base} | {key: dumped[key] for key in dumped if key in self.model_fields_set}

    def protocol(self) -> Protocol:
        """The protocol that it makes. Raises ``ValueError``."""
        base = named_protocol(self.base)
        if base.library_constraints:
            raise ValueError(f"the rules of {self.base} are those of each attack's own recipe and can't be changed")
        return base.changed({key: getattr(self, key) for key in self.model_fields_set - {"base"}})


def named_protocol(name: str) -> Protocol:
    """A shipped protocol. Raises ``ValueError`` with the nearest name."""
    if name not in PROTOCOLS:
        near = nearest(name, PROTOCOLS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown protocol {name!r}{hint} (allowed: {', '.join(sorted(PROTOCOLS))})")
    return PROTOCOLS[name]


def protocol_hash(
    protocol: Protocol,
    attacks: Sequence[Attack],
    *,
    n_examples: int,
    data_digest: str,
    calibrate: bool,
    seed: int,
    replay: bool = False,
    adaptive: bool = True,
) -> str:
    """16 hex digits over everything that decides what an attacked number means, but the victim.

    Two numbers may be compared only when their hashes are equal. The order of ``attacks`` does not matter.
    """
    labelled = ({"replay": True} if replay else {}) | ({} if adaptive else {"adaptive": False})
    identities = sorted((attack.identity(protocol) for attack in attacks), key=digest_of)
    return digest_of(
        {
            "protocol": protocol.model_dump(mode="json"),
            "attacks": identities,
            "n_examples": n_examples,
            "data_digest": data_digest,
            "calibrate": calibrate,
            "seed": seed,
            **labelled,
        }
    )[:16]
