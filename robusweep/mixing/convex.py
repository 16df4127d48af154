"""The exact convex combination of parameter sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from robusweep.mixture import Member


def convex(members: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """``sum_i weights[i] * members[i]``, parameter by parameter; weights are >= 0 and sum to 1.

    Written as ``m_0 + sum_i w_i (m_i - m_0)`` so that equal members give exactly that member for any weights, and a
    weight of 1 returns its member bit for bit. Raises ``ValueError`` for weights off the simplex or members that do
    not hold the same parameters in the same shapes.
    """
    if len(members) != len(weights) or not members:
        raise ValueError(f"{len(members)} members and {len(weights)} weights")
    if not (all(weight >= 0 for weight in weights) and abs(sum(weights) - 1) <= 1e-9):
        raise ValueError(f"weights must be >= 0 and sum to 1, given {list(weights)}")
    shapes = [{name: value.shape for name, value in member.items()} for member in members]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("members to mix must hold the same parameters in the same shapes")
    if 1.0 in weights:
        return {name: value.clone() for name, value in members[list(weights).index(1.0)].items()}
    mixed = {}
    for name, first in members[0].items():
        total = first.clone()
        for member, weight in zip(members[1:], weights[1:], strict=True):
            if weight:
                total += weight * (member[name] - first)
        mixed[name] = total
    return mixed


def convex_factors(
    base: Mapping[str, Tensor], members: Sequence[Member], weights: Sequence[float]
) -> dict[str, Tensor]:
    """Factors mixed one by one: ``W0 + (sum w_i U_i) (sum w_i D_i)``, cross terms included; all else as ``convex``."""
    mixed = convex([member.parameters for member in members], weights)
    for name in members[0].factors:
        parts = [{"up": m.factors[name].up, "down": m.factors[name].down} for m in members]
        factors, weight = convex(parts, weights), base[f"{name}.weight"].detach()
        mixed[f"{name}.weight"] = weight + (factors["up"] @ factors["down"]).to(weight)
    return mixed
