"""DPS at work: sums of squared gradients in one stage, frozen weights in the next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from robusweep.training.updates.base import Rule


class DpsRule(Rule):
    """``stage``: steps in each of the two stages. ``frozen``: the share of a matrix that rests in the second."""

    def __init__(self, weights: Mapping[str, Parameter], *, frozen: float, stage: int) -> None:
        self._matrices = {name: p for name, p in weights.items() if is_linear(name, p)}
        self._frozen, self._stage = frozen, stage
        self._n_steps = 0
        self._sums = {name: torch.zeros_like(p) for name, p in self._matrices.items()}
        self._resting: dict[str, Tensor] = {}  # by name, True where a weight is frozen; empty in the first stage

    @torch.no_grad()
    def move(self, optimiser: Optimizer) -> None:
        place = self._n_steps % (2 * self._stage)
        if place == 0:
            self._resting = {}
            for total in self._sums.values():
                total.zero_()
        if place < self._stage:
            self._sum_up()
        values = {name: self._matrices[name][rests] for name, rests in self._resting.items()}
        self._silence()
        optimiser.step()
        for name, rests in self._resting.items():
            self._matrices[name][rests] = values[name]
        if place == self._stage - 1:
            self._resting = {name: smallest(total, self._frozen) for name, total in self._sums.items()}
        self._n_steps += 1

    def _sum_up(self) -> None:
        for name, weight in self._matrices.items():
            if weight.grad is not None:
                self._sums[name] += weight.grad.square()

    def _silence(self) -> None:
        for name, rests in self._resting.items():
            gradient = self._matrices[name].grad
            if gradient is not None:
                gradient.masked_fill_(rests, 0.0)

    def state(self) -> dict[str, Tensor]:
        sums = {f"sum/{name}": total for name, total in self._sums.items()}
        resting = {f"resting/{name}": rests for name, rests in self._resting.items()}
        return {"n_steps": torch.tensor(self._n_steps)} | sums | resting

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._n_steps = int(state["n_steps"])
        for name, total in self._sums.items():
            total.copy_(state[f"sum/{name}"])
        self._resting = {n.removeprefix("resting/"): t for n, t in state.items() if n.startswith("resting/")}


def is_linear(name: str, weight: Tensor) -> bool:
    """Whether this is the matrix of a linear map, and no table of embeddings."""
    return weight.dim() == 2 and "embeddings." not in name and "embed_tokens." not in name


def smallest(sums: Float[Tensor, "rows columns"], share: float) -> Bool[Tensor, "rows columns"]:
    """True on the ``share`` with the smallest sums, rounded down; ties with the smallest of the rest are left out."""
    ordered: Tensor = sums.flatten().sort().values
    return sums < ordered[int(share * sums.numel())]
