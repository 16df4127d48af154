"""Linear maps with weights removed so that what they give changes least. Everything is in float64 inside."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Weight = Float[Tensor, "outputs inputs"]
Square = Float[Tensor, "inputs inputs"]
BLOCK = 32  # columns whose weights are chosen together
ROUNDS = 64  # of groups, at most
LEAST = 1e-12  # of a damping, where all that a map reads is zero


def damped(gram: Square, damping: float) -> Square:
    """The gram with ``damping`` times the mean of its diagonal added there."""
    strength = (damping * gram.diagonal().mean()).clamp_min(LEAST)
    return gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def resolved(weight: Weight, gram: Square, cross: Square, *, damping: float) -> Weight:
    """The W' of least ``|W X - W' X'|^2 + lambda |W - W'|^2``: ``W + W (X X'^T - X' X'^T) (X' X'^T + lambda I)^-1``.

    W itself, bit for bit, where X is X'.
    """
    change: Tensor = torch.linalg.solve(damped(gram, damping), (weight.double() @ (cross - gram)).T).T
    return (weight.double() + change).to(weight.dtype)


def without_weights(weight: Weight, hessian: Square, n: int) -> Weight:
    """The map with n weights zero, by optimal brain surgery along the columns.

    When column j is reached, the columns before it are done with. A weight there costs ``w^2 / u_jj^2``, where U is the
    upper Cholesky factor of the inverse Hessian: u_jj^2 is the entry of the inverse of the Hessian of the columns from
    j on. What goes is made up for by those columns of its row.
    """
    w = weight.double().clone()
    upper = torch.linalg.cholesky(_inverse(hessian), upper=True)
    chosen = smallest((w / upper.diagonal()).square(), n)
    for begin in range(0, w.shape[1], BLOCK):
        end = min(begin + BLOCK, w.shape[1])
        costs = (w[:, begin:end] / upper.diagonal()[begin:end]).square()
        going = smallest(costs, int(chosen[:, begin:end].sum()))
        made_up = torch.zeros_like(costs)
        for j in range(begin, end):
            gone = torch.where(going[:, j - begin], w[:, j], 0.0) / upper[j, j]
            w[:, j:end] -= gone[:, None] * upper[j, j:end]
            w[:, j].masked_fill_(going[:, j - begin], 0.0)
            made_up[:, j - begin] = gone
        w[:, end:] -= made_up @ upper[begin:end, end:]
    return w.to(weight.dtype)


def without_groups(weight: Weight, hessian: Square, n: int, *, size: int) -> Weight:
    """The map with n groups of ``size`` neighbouring columns zero, those whose removal costs least, in turn.

    Removing the columns g costs ``tr(W_g ((H^-1)_gg)^-1 W_g^T)``, and all other columns make up for them. Groups go one
    at a time, or several where there would be more than ``ROUNDS`` rounds.
    """
    w, inverse = weight.double().clone(), _inverse(hessian)
    left = torch.arange(w.shape[1] // size, device=w.device)
    for i in range(min(n, ROUNDS)):
        n_going = n * (i + 1) // min(n, ROUNDS) - n * i // min(n, ROUNDS)
        going = left[smallest(_costs(w, inverse, left, size), n_going)]
        left = left[~torch.isin(left, going)]
        columns = _columns(going, size)
        part = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])  # [going, inputs]
        w -= w[:, columns] @ part
        inverse -= inverse[:, columns] @ part
        w[:, columns], inverse[columns], inverse[:, columns] = 0.0, 0.0, 0.0  # but for rounding, they are
    return w.to(weight.dtype)


def smallest(values: Float[Tensor, "*shape"], n: int) -> Bool[Tensor, "*shape"]:
    """True at the n smallest values; of equal ones, at the first."""
    found = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    found[values.flatten().argsort(stable=True)[:n]] = True
    return found.view(values.shape)


def _costs(w: Tensor, inverse: Tensor, groups: Tensor, size: int) -> Tensor:
    columns = _columns(groups, size).view(-1, size)
    if size == 1:
        return w[:, groups].square().sum(dim=0) / inverse.diagonal()[groups]
    parts = w[:, columns].permute(1, 2, 0)  # [groups, size, outputs]
    blocks = inverse[columns[:, :, None], columns[:, None, :]]
    found: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum(dim=(1, 2))
    return found


def _columns(groups: Tensor, size: int) -> Tensor:
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def _inverse(hessian: Tensor) -> Tensor:
    found: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return (found + found.T) / 2
