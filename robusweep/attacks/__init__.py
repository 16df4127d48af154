"""Attacks on text classifiers: TextAttack's searches, run offline, seeded and verified.

Adding one is one file here and one name in ``AnyAttack``. Nothing heavy is loaded before ``run_attack``.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from robusweep.attacks.base import Attack
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.protocol import PROTOCOLS, Protocol, protocol_hash
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.run import run_attack
from robusweep.attacks.textfooler_wordnet import TextFoolerWordNet

__all__ = [
    "PROTOCOLS",
    "AnyAttack",
    "Attack",
    "AttackEntry",
    "Protocol",
    "attack_kinds",
    "describe_attacks",
    "protocol_hash",
    "run_attack",
]

AnyAttack = Annotated[Pwws | DeepWordBug | TextFoolerWordNet, Field(discriminator="kind")]


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


# One item of a YAML list of attacks: a block, or just a kind (`known: [pwws]`).
AttackEntry = Annotated[AnyAttack, BeforeValidator(_named)]


def attack_kinds() -> dict[str, type[Attack]]:
    """Every attack class by the name it has in YAML."""
    union: Any = get_args(AnyAttack)[0]
    return {cls.model_fields["kind"].default: cls for cls in get_args(union)}


def describe_attacks(protocol: Protocol = PROTOCOLS["standard_v1"]) -> list[dict[str, Any]]:
    """What ``ls attacks`` and ``doctor`` show of each attack; ``missing`` says how to get what is not here."""
    rows = []
    for kind, cls in attack_kinds().items():
        missing = cls.model_validate({"kind": kind}).missing(protocol)
        rows.append(
            {
                "name": kind,
                "level": cls.level,
                "description": (cls.__doc__ or "").strip().splitlines()[0],
                "substitutions": list(cls.substitutions),
                "available": not missing,
                "missing": missing,
            }
        )
    return rows
