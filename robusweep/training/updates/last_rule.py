"""LAST at work: a proxy that learns one step behind the weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from robusweep.training.divergence import kl
from robusweep.training.step import Step
from robusweep.training.updates.base import Rule


class LastRule(Rule):
    """The proxy's tensors are leaves of the graph; their gradients land in the weights' own, where they are clipped."""

    def __init__(
        self,
        weights: Mapping[str, Parameter],
        *,
        rate: float,
        proxy_rate: float | None,
        distillation: float,
        temperature: float,
    ) -> None:
        self._rate, self._proxy_rate = rate, proxy_rate
        self._distillation, self._temperature = distillation, temperature
        self._weights = dict(weights)
        self._proxy: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            leaf = self._proxy[name] = weight.detach().clone().requires_grad_(True)
            leaf.register_post_accumulate_grad_hook(partial(_hand_over, weight))

    def prepare(self, step: Step) -> None:
        step.proxy = self._proxy
        if self._distillation:
            step.rewritten = partial(self._distilled, step)

    def _distilled(self, step: Step, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        answer, hidden = step.answer, step.hidden
        assert answer is not None
        with torch.no_grad():
            clean = step.logits()
        step.answer, step.hidden = answer, hidden  # regularisers are for the pass that learns
        apart = step.mean(kl(answer / self._temperature, clean / self._temperature))
        return (1 - self._distillation) * loss + self._distillation * apart

    @torch.no_grad()
    def move(self, optimiser: Optimizer) -> None:
        before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.copy_(self._proxy[name])
            if self._proxy_rate is not None and weight.grad is not None:
                weight.sub_(weight.grad, alpha=self._proxy_rate)
                weight.grad = None
        optimiser.step()  # companions; the weights, too, where there is no rate of the proxy's own
        for name, weight in self._weights.items():
            weight.copy_(torch.lerp(before[name], weight, self._rate))
            self._proxy[name].copy_(before[name])

    def state(self) -> dict[str, Tensor]:
        return {f"proxy/{name}": leaf.detach() for name, leaf in self._proxy.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, leaf in self._proxy.items():
            leaf.copy_(state[f"proxy/{name}"])


def _hand_over(weight: Parameter, leaf: Tensor) -> None:
    """Move what has arrived at the proxy's leaf to the weight's gradient."""
    arrived, leaf.grad = leaf.grad, None
    assert arrived is not None
    weight.grad = arrived if weight.grad is None else weight.grad + arrived
