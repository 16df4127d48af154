"""One network under several adapters that are mixed anew for each text. Needs torch alone: exports carry this file.

Linear maps, LayerNorms and embeddings are affine in their weights. So mixing the weights for each text needs no weights
of its own: every such map runs once for each adapter on the whole batch, and the results are mixed with that text's
weights before the next non-linearity. That is exact, and the rest of the network runs once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AFFINE = (nn.Linear, nn.LayerNorm, nn.Embedding)  # and modules that say ``affine = True``
TIE = 1e-6  # nats: below it, entropies count as equal


@dataclass(frozen=True)
class Factors:
    """A change of a linear map as a product, ``up @ down``, its scale inside ``up``."""

    down: Tensor  # [rank, inputs]
    up: Tensor  # [outputs, rank]


@dataclass(frozen=True)
class Member:
    """What one adapter puts on the network: whole parameters by name, and low-rank changes by the map's name."""

    parameters: Mapping[str, Tensor]
    factors: Mapping[str, Factors] = field(default_factory=dict)


def folded(member: Member, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that the member puts in place of the network's ``own``."""
    found = dict(member.parameters)
    for name, factors in member.factors.items():
        weight = found.get(f"{name}.weight", own[f"{name}.weight"]).detach()
        found[f"{name}.weight"] = weight + (factors.up @ factors.down).to(weight)
    return found


# ----------------------------------------------------------------------------------------------- mixing weights
class Blend:
    """A network with members, at least one, that can be mixed with weights [texts, members].

    ``factored``: low-rank changes are mixed factor by factor, ``(sum w U) (sum w D)``, cross terms included; else as
    ``sum w U D``. Raises ``ValueError`` for parameters that the network lacks, in other shapes, or in a module whose
    output is not known to be affine in them, or does not count texts (relative positions).
    """

    def __init__(self, network: nn.Module, members: Sequence[Member], *, factored: bool = False) -> None:
        self.network, self.n_members = network, len(members)
        own, modules = dict(network.named_parameters()), dict(network.named_modules())
        low_rank = {name for member in members for name in member.factors}
        dense = {name.rpartition(".")[0] for member in members for name in member.parameters}
        if unknown := {name for member in members for name in member.parameters} - own.keys():
            raise ValueError(f"the network has no {min(unknown)}")
        self._maps: list[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = []
        for name in sorted(low_rank | dense):
            module = modules.get(name)
            if module is None or not (isinstance(module, AFFINE) or getattr(module, "affine", False)):
                raise ValueError(f"{name or 'the network'}: {type(module).__name__} can't be mixed for each text")
            if isinstance(module, nn.Embedding) and "embeddings" not in name.split("."):
                raise ValueError(f"{name}: an embedding of distances between tokens can't be mixed for each text")
            in_all = all(name in member.factors for member in members)
            if in_all and name not in dense and isinstance(module, nn.Linear):
                found = [member.factors[name] for member in members]
                cast = [Factors(f.down.detach().to(module.weight), f.up.detach().to(module.weight)) for f in found]
                self._maps.append((module, partial(_factored if factored else _summed, module.forward, cast)))
            else:
                self._maps.append((module, partial(_dense, [_under(name, module, m, own) for m in members])))

    @contextmanager
    def weighted(self, weights: Tensor) -> Iterator[None]:
        """While open, passes of the network over ``len(weights)`` texts are mixed; then it is as it was before.

        Raises ``ValueError`` in training mode, and for weights of another shape.
        """
        if self.network.training:
            raise ValueError("a network is mixed in eval mode")
        if weights.ndim != 2 or weights.shape[1] != self.n_members:
            raise ValueError(f"weights of shape {list(weights.shape)} for {self.n_members} members")
        try:
            for module, blended in self._maps:
                module.forward = partial(_called, blended, weights)
            yield
        finally:
            for module, _ in self._maps:
                module.__dict__.pop("forward", None)

    def __call__(self, weights: Tensor, **inputs: Tensor) -> Tensor:
        """Logits [texts, classes] of one mixed pass."""
        with self.weighted(weights):
            logits: Tensor = self.network(**inputs).logits
        return logits

    def alone(self, i: int, n_texts: int) -> Tensor:
        """The weights [n_texts, members] of member ``i`` alone."""
        device = next(self.network.parameters()).device
        return F.one_hot(torch.full((n_texts,), i, device=device), self.n_members).float()


def _called(blended: Callable[[Tensor, Tensor], Tensor], weights: Tensor, x: Tensor) -> Tensor:
    if len(x) != len(weights) and x.is_floating_point():  # numbers of tokens and positions may be those of all texts
        raise ValueError(f"a map that reads {len(x)} rows in a pass of {len(weights)} texts can't be mixed for each")
    return blended(x, weights)


def _under(name: str, module: nn.Module, member: Member, own: Mapping[str, Tensor]) -> nn.Module:
    """The module with this member's parameters; all else is shared."""
    clone = copy.copy(module)
    found: dict[str, Tensor] = {}
    for key, mine in module.named_parameters(recurse=False):
        value = member.parameters.get(f"{name}.{key}", own[f"{name}.{key}"]).detach().to(mine)
        if value.shape != mine.shape:
            raise ValueError(f"{name}.{key} has shape {list(value.shape)}, and {list(mine.shape)} in the network")
        found[key] = value
    if name in member.factors:
        found["weight"] = found["weight"] + (member.factors[name].up @ member.factors[name].down).to(found["weight"])
    clone._parameters = found  # type: ignore[assignment]
    return clone


def _sum(outputs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``sum_a weights[:, a] outputs[a]`` in the weights' precision, [texts, ...]."""
    shape = (-1, *[1] * (outputs[0].ndim - 1))
    total = weights[:, 0].view(shape) * outputs[0]
    for a, output in enumerate(outputs[1:], start=1):
        total = total + weights[:, a].view(shape) * output
    return total


def _dense(clones: Sequence[nn.Module], x: Tensor, weights: Tensor) -> Tensor:
    outputs = [type(clone).forward(clone, x) for clone in clones]
    return _sum(outputs, weights).to(outputs[0].dtype)


def _summed(plain: Callable[[Tensor], Tensor], factors: Sequence[Factors], x: Tensor, weights: Tensor) -> Tensor:
    base = plain(x)
    return base + _sum([F.linear(F.linear(x, f.down), f.up) for f in factors], weights).to(base.dtype)


def _factored(plain: Callable[[Tensor], Tensor], factors: Sequence[Factors], x: Tensor, weights: Tensor) -> Tensor:
    base = plain(x)
    hidden = _sum([F.linear(x, f.down) for f in factors], weights).to(base.dtype)
    return base + _sum([F.linear(hidden, f.up) for f in factors], weights).to(base.dtype)


# ---------------------------------------------------------------------------------------------------- weighting
Mixed = Callable[[Tensor], Tensor]  # weights [texts, members] -> logits [texts, classes] of the mixed pass
Ranges = Sequence[tuple[float, float]]  # lowest and highest entropy of each member on the texts it was trained on


def entropies(logits: Tensor) -> Tensor:
    """Nats, float64, in [0, log classes], of logits [..., classes]."""
    logs = logits.double().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).clamp(-math.log(logits.shape[-1]), 0.0)


def paired(shares: Tensor) -> Tensor:
    """The weights [texts, 1 + m], float32, of the mean of m pairs ``(1 - share) clean + share adversarial``."""
    adversarial = shares / shares.shape[1]
    return torch.cat([1.0 - adversarial.sum(1, keepdim=True), adversarial], dim=1).clamp(0.0, 1.0).float()


def entropy_ratio(logits: Tensor, _mixed: Mixed) -> Tensor:
    """Each pair trusts the more certain member: ``share = H_clean / (H_clean + H_adversarial)``; 0.5 at a tie."""
    h = entropies(logits)
    return paired(((h[:1] + TIE) / (h[:1] + h[1:] + 2 * TIE)).T)


def entropy_minmax(logits: Tensor, _mixed: Mixed, *, ranges: Ranges) -> Tensor:
    """As ``entropy_ratio``, of entropies on each member's own scale.

    ``u = (H - H_min) / (H_max - H_min)``, cut to [0, 1]; ``share = (1 - u_i) / ((1 - u_i) + (1 - u_clean))``.
    """
    low, high = torch.tensor(ranges, dtype=torch.float64, device=logits.device).T[:, :, None]
    trust = 1.0 - ((entropies(logits) - low) / (high - low).clamp(min=TIE)).clamp(0.0, 1.0)
    return paired(((trust[1:] + TIE) / (trust[1:] + trust[:1] + 2 * TIE)).T)


def entropy_softmax(logits: Tensor, _mixed: Mixed, *, sharpness: float) -> Tensor:
    """``softmax(-sharpness H)`` over all members."""
    return (-sharpness * entropies(logits)).T.softmax(1).float()


def emea(logits: Tensor, mixed: Mixed, *, n_steps: int, step_size: float) -> Tensor:
    """The weights of least entropy: gradient steps from even ones, for each text by itself (Wang et al. 2021)."""
    at = torch.zeros(logits.shape[1], len(logits), device=logits.device)
    for _ in range(n_steps):
        with torch.enable_grad():
            at.requires_grad_(True)
            (slope,) = torch.autograd.grad(entropies(mixed(at.softmax(1))).sum(), at)
        at = (at - step_size * slope).detach()
    return at.softmax(1)


RULES: dict[str, Callable[..., Tensor]] = {  # from the members' logits [members, texts, classes]
    "entropy_ratio": entropy_ratio,
    "entropy_minmax": entropy_minmax,
    "entropy_softmax": entropy_softmax,
    "emea": emea,
}


# ------------------------------------------------------------------------------------------------ mixing logits
def mixed_probabilities(logits: Tensor, weights: Sequence[float], *, bend: Mapping[str, float] | None = None) -> Tensor:
    """``log sum_a w_a softmax(logits_a)`` of logits [members, texts, classes]; with ``bend``, adversarial members'
    logits are bent first (``bent``)."""
    if bend is not None:
        logits = torch.cat([logits[:1], bent(logits[1:], **bend)])
    share = torch.tensor(weights, dtype=logits.dtype, device=logits.device)[:, None, None]
    logs = logits.log_softmax(-1) + share.log()
    return logs.logsumexp(0)


def bent(logits: Tensor, *, scale: float, exponent: float, shift: float) -> Tensor:
    """``scale sign(z) |z|^exponent``, with z the standardised logits plus ``shift``, nothing below 0 (MixedNUTS)."""
    z = F.relu(F.layer_norm(logits, logits.shape[-1:]) + shift)
    return scale * z**exponent


# --------------------------------------------------------------------------------------------------- the system
@dataclass(frozen=True)
class Mixture:
    """A blend with a rule that weights it, by its name in ``RULES`` and its keys."""

    blend: Blend
    rule: str
    keys: Mapping[str, Any] = field(default_factory=dict)

    def weights(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """[texts, members], from the members' own logits [members, texts, classes]; float32, rows sum to 1.

        ``mixed``: a pass over the same texts, for rules that try weights out.
        """
        return RULES[self.rule](logits, mixed, **self.keys)

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [texts, classes], weights [texts, members]): each member alone, then one mixed pass."""
        n_texts = len(next(iter(inputs.values())))
        each = [self.blend(self.blend.alone(i, n_texts), **inputs) for i in range(self.blend.n_members)]
        mixed: Mixed = partial(self.blend, **inputs)
        weights = self.weights(torch.stack(each), mixed)
        return mixed(weights), weights
