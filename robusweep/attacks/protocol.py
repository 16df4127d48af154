"""The protocol of an evaluation as data: which perturbations are allowed, and how much an attack may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.spec import Spec, digest_of

if TYPE_CHECKING:
    from robusweep.attacks.base import Attack


class Protocol(Spec):
    """Constraints and budgets that every attack of a suite obeys. ``None`` leaves a rule out.

    They come on top of what an attack itself demands (TextFooler's part of speech, DeepWordBug's edit distance).
    With ``library_constraints`` an attack also keeps TextAttack's own rules, in TextAttack's own way: its
    case-sensitive stop words, its similarity window.
    """

    name: str
    max_words_changed: float | None = Field(None, gt=0, le=1)  # share of words, rounded down; one word always may
    max_candidates: int | None = Field(None, ge=1)  # per word, the first senses first; word-level attacks
    min_similarity: float | None = Field(None, ge=-1, le=1)  # cosine of MiniLM sentence vectors; word-level attacks
    similarity_window: int | None = Field(None, ge=1)  # words around the change that are compared; None: all of them
    query_budget: Literal["candidates_x_words"] | None = None  # per example; counted as TextAttack does: repeats too
    no_stop_words: bool = False  # in any case: "The" is a stop word, too
    no_repeat: bool = False  # a word that was changed is not changed again
    library_constraints: bool = False

    def max_queries(self, n_words: int) -> int | None:
        """The number of texts that an attack may ask about for an example of ``n_words`` words."""
        if self.query_budget is None or self.max_candidates is None:
            return None
        return max(1, self.max_candidates * n_words)

    def max_changes(self, n_words: int) -> int:
        """How many of ``n_words`` words may change: the share rounded down, but one word at least."""
        return n_words if self.max_words_changed is None else max(1, int(self.max_words_changed * n_words + 1e-9))


STANDARD_V1 = Protocol(
    name="standard_v1",
    max_words_changed=0.3,
    max_candidates=50,
    similarity_window=15,  # as TextFooler has it
    min_similarity=0.8,  # chosen, not calibrated against human judgement
    query_budget="candidates_x_words",
    no_stop_words=True,
    no_repeat=True,
)
LIBRARY_DEFAULT_V1 = Protocol(name="library_default_v1", library_constraints=True)

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (STANDARD_V1, LIBRARY_DEFAULT_V1)}


def protocol_hash(
    protocol: Protocol,
    attacks: Sequence[Attack],
    *,
    n_examples: int,
    data_digest: str,
    calibrate: bool,
    seed: int,
) -> str:
    """16 hex digits over everything that decides what an attacked number means, but the victim.

    Two numbers may be compared only when their hashes are equal. The order of ``attacks`` does not matter.
    """
    identities = sorted((attack.identity(protocol) for attack in attacks), key=digest_of)
    return digest_of(
        {
            "protocol": protocol.model_dump(mode="json"),
            "attacks": identities,
            "n_examples": n_examples,
            "data_digest": data_digest,
            "calibrate": calibrate,
            "seed": seed,
        }
    )[:16]
