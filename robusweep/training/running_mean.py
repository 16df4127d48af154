"""The running mean of the weights that SMART's proximal term stays near to."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robusweep.training.divergence import symmetric_kl
from robusweep.training.step import Step


class RunningMean(nn.Module):
    """Copies of the trainable weights, which follow them with ``momentum``."""

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        self._momentum = momentum
        self._names = [name for name, p in network.named_parameters() if p.requires_grad]
        for i, name in enumerate(self._names):
            self.register_buffer(f"mean_{i}", network.get_parameter(name).detach().clone())

    def weights(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"mean_{i}") for i, name in enumerate(self._names)}

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        for name, mean in self.weights().items():
            mean.lerp_(network.get_parameter(name).detach(), 1 - self._momentum)


def distance_to_mean(step: Step, clean: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """The mean symmetric KL between the prediction and that of the running mean, which then follows the weights."""
    assert isinstance(step.companion, RunningMean)
    proxy, answer, hidden = step.proxy, step.answer, step.hidden
    step.proxy = step.companion.weights()
    try:
        with torch.no_grad():
            steady = step.logits()
    finally:
        step.proxy, step.answer, step.hidden = proxy, answer, hidden
    step.companion.follow(step.network)
    return step.mean(symmetric_kl(clean, steady))
