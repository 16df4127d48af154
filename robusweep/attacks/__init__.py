"""Attacks on text classifiers: TextAttack's searches, run offline, seeded and verified.

Adding one is one file here and one name in ``AnyAttack``. Nothing heavy is loaded before ``run_attack``.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from robusweep.attacks.a2t import A2T, A2TWordNet
from robusweep.attacks.bae import Bae, BaeMiniLM
from robusweep.attacks.base import Attack
from robusweep.attacks.bert_attack import BertAttack, BertAttackMiniLM
from robusweep.attacks.checklist import CheckList, CheckListWithoutNames
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.faster_genetic import FasterGenetic, FasterGeneticWordNet
from robusweep.attacks.genetic import Genetic, GeneticWordNet
from robusweep.attacks.hard_label import HardLabelWordNet
from robusweep.attacks.hotflip import HotFlip, HotFlipWordNet
from robusweep.attacks.iga import Iga, IgaWordNet
from robusweep.attacks.input_reduction import InputReduction
from robusweep.attacks.kuleshov import Kuleshov, KuleshovWordNet
from robusweep.attacks.protocol import PROTOCOLS, STANDARD_V1, Protocol, protocol_hash
from robusweep.attacks.pruthi import Pruthi
from robusweep.attacks.pso import Pso, PsoWordNet
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.run import run_attack
from robusweep.attacks.textbugger import TextBugger, TextBuggerWordNet
from robusweep.attacks.textfooler import TextFooler, TextFoolerNeighbours, TextFoolerWordNet
from robusweep.errors import MissingError
from robusweep.record import StandIn

__all__ = [
    "PROTOCOLS",
    "AnyAttack",
    "Attack",
    "AttackEntry",
    "Protocol",
    "attack_kinds",
    "describe_attacks",
    "protocol_hash",
    "resolve",
    "run_attack",
]

AnyAttack = Annotated[
    Pwws
    | DeepWordBug
    | TextFoolerWordNet
    | TextBuggerWordNet
    | Pruthi
    | A2TWordNet
    | HotFlipWordNet
    | HardLabelWordNet
    | PsoWordNet
    | GeneticWordNet
    | FasterGeneticWordNet
    | IgaWordNet
    | CheckListWithoutNames
    | InputReduction
    | BaeMiniLM
    | BertAttackMiniLM
    | KuleshovWordNet
    | TextFoolerNeighbours
    | TextFooler
    | TextBugger
    | A2T
    | HotFlip
    | Pso
    | Genetic
    | FasterGenetic
    | Iga
    | CheckList
    | Bae
    | BertAttack
    | Kuleshov,
    Field(discriminator="kind"),
]


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


# One item of a YAML list of attacks: a block, or just a kind (`known: [pwws]`).
AttackEntry = Annotated[AnyAttack, BeforeValidator(_named)]


def attack_kinds() -> dict[str, type[Attack]]:
    """Every attack class by the name it has in YAML."""
    union: Any = get_args(AnyAttack)[0]
    return {cls.model_fields["kind"].default: cls for cls in get_args(union)}


def resolve(attack: Attack, protocol: Protocol) -> tuple[Attack, StandIn | None]:
    """What really runs here: the attack as named, or its stand-in with the reason.

    Raises ``MissingError`` when neither can be had.
    """
    lacking = attack.missing(protocol)
    if not lacking:
        return attack, None
    name = getattr(attack, "stand_in", None)
    other = attack_kinds()[name].model_validate({"kind": name}) if name else None
    if other is None or other.missing(protocol):
        also = other.missing(protocol) if other else []
        hint = "\n  ".join([*lacking[1:], *(f"or, for {name!r}: {text}" for text in also)])
        raise MissingError(f"attacks: {attack.kind!r} lacks {lacking[0]}", hint=hint or None)
    reason = "not here: " + ", ".join(text.split(": ")[0] for text in lacking)
    return other, StandIn(what="attack", asked=attack.kind, used=other.kind, reason=reason)


def describe_attacks(protocol: Protocol = STANDARD_V1) -> list[dict[str, Any]]:
    """What ``ls attacks`` and ``doctor`` show of each attack; ``missing`` says how to get what is not here."""
    rows = []
    for kind, cls in attack_kinds().items():
        attack = cls.model_validate({"kind": kind})
        missing = attack.missing(protocol)
        rows.append(
            {
                "name": kind,
                "level": cls.level,
                "goal": cls.goal,
                "description": " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split()),
                "substitutions": list(cls.substitutions),
                "available": not missing,
                "missing": missing,
                "stand_in": getattr(attack, "stand_in", None),
            }
        )
    return rows
