"""A point's system as what attacks query: its name in caches, its victims, and the simpler systems inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from robusweep import model as model_stage
from robusweep.errors import RecipeError
from robusweep.mixing import Emulated, Fixed, OfLogits, PerText, System
from robusweep.model import ModelVictim, TextModel
from robusweep.queries import QueryMemory
from robusweep.spec import digest_of

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.mixture import Member

SYSTEM_CODE = 1  # raise it when a system of several adapters would give other logits
Memory = Callable[[str, str], QueryMemory]  # (digest, precision) -> what was answered before


def digest(system: System, base: TextModel, identity: str) -> str:
    """A name for what the system answers: equal systems have equal names, others have others."""
    if isinstance(system, Fixed):
        return model_stage.network_digest(identity, system.parameters, base.max_tokens)
    parts: Sequence[Mapping[str, Tensor]] = system.adapters.folded
    if isinstance(system, PerText) and system.factored:  # factors of one product mix in different ways
        parts = [_with_factors(member) for member in system.adapters.members]
    members = [model_stage.network_digest(identity, p, base.max_tokens) for p in parts]
    key: dict[str, Any] = {"code": SYSTEM_CODE, "kind": type(system).__name__, "members": members}
    if isinstance(system, PerText):
        key |= {"rule": system.rule, "keys": system.keys, "factored": system.factored}
    elif isinstance(system, OfLogits):
        key |= {"weights": system.weights, "bent": system.bent}
    else:
        large = model_stage.BaseEncoder(base=system.large, stand_in=None)
        key |= {"large": model_stage.identity(large), "beta": system.beta}
    return digest_of(key)


def _with_factors(member: Member) -> dict[str, Tensor]:
    sides = {f"{name} {side}": getattr(f, side) for name, f in member.factors.items() for side in ("down", "up")}
    return {**member.parameters, **sides}


def victims(
    system: System, base: TextModel, identity: str, *, bf16: bool, memory: Memory = lambda _d, _p: QueryMemory()
) -> tuple[ModelVictim, ModelVictim]:
    """(fast, exact), or twice the same victim without ``bf16``. ``memory`` serves the systems inside this one, too."""
    name = digest(system, base, identity)
    if isinstance(system, Fixed):
        return model_stage.victims(base, system.parameters, bf16=bf16, memory=partial(memory, name))
    pairs = [victims(Fixed(p), base, identity, bf16=bf16, memory=memory) for p in system.adapters.folded]
    if isinstance(system, Emulated):
        pairs.append(_large(system, base, bf16=bf16, memory=memory))
    exact = _combined(system, base, [exact for _, exact in pairs], "fp32", memory(name, "fp32"))
    if not bf16:
        return exact, exact
    return _combined(system, base, [fast for fast, _ in pairs], "bf16", memory(name, "bf16")), exact


def _combined(
    system: PerText | OfLogits | Emulated,
    base: TextModel,
    answering: Sequence[ModelVictim],
    precision: Any,
    memory: QueryMemory,
) -> ModelVictim:
    if isinstance(system, PerText):
        return model_stage.per_text_victim(
            base,
            answering,
            system.adapters.members,
            system.rule,
            system.keys,
            factored=system.factored,
            precision=precision,
            memory=memory,
        )
    if isinstance(system, OfLogits):
        return model_stage.of_logits_victim(base, answering, partial(_mean, system.weights, system.bent), memory=memory)
    combine = partial(_emulated, system.beta)
    return model_stage.of_logits_victim(base, answering, combine, n_constant=1, memory=memory)


def _mean(weights: Sequence[float], bent: Mapping[str, float] | None, logits: Tensor) -> Tensor:
    from robusweep.mixture import mixed_probabilities

    return mixed_probabilities(logits, weights, bend=bent)


def _emulated(beta: float, logits: Tensor) -> Tensor:
    clean, adversarial, large = logits.unbind()
    return large + beta * (adversarial - clean)


def _large(system: Emulated, base: TextModel, *, bf16: bool, memory: Memory) -> tuple[ModelVictim, ModelVictim]:
    """The large model's victims. Raises ``RecipeError`` when its labels or vocabulary are others, or it reads less."""
    large = model_stage.load_classifier(system.large, device=base.device, max_tokens=base.max_tokens)
    if large.label_names != base.label_names:
        raise RecipeError(
            f"mix.large: {system.large!r} has the labels {', '.join(large.label_names)}; the data have "
            f"{', '.join(base.label_names)}",
            hint="the same labels in the same order are needed: logits are added",
        )
    if large.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise RecipeError(
            f"mix.large: {system.large!r} has another vocabulary than model.base",
            hint="take a large and a small model of one family, which share a tokenizer",
        )
    if large.max_tokens < base.max_tokens:
        raise RecipeError(
            f"mix.large: {system.large!r} reads {large.max_tokens} tokens, and model.max_tokens is {base.max_tokens}",
            hint=f"set model.max_tokens: {large.max_tokens}",
        )
    name = model_stage.identity(model_stage.BaseEncoder(base=system.large, stand_in=None))
    return model_stage.victims(large, {}, bf16=bf16, memory=partial(memory, f"large {name}"))


def aides(system: System) -> list[Fixed]:
    """Simpler systems whose adversarial texts an adaptive attack tries, too: each adapter, and their even mean.

    None for a system whose weights do not depend on the text.
    """
    if not isinstance(system, PerText):
        return []
    from robusweep.mixing.convex import convex

    folded = system.adapters.folded
    return [*map(Fixed, folded), Fixed(convex(folded, [1 / len(folded)] * len(folded)))]
