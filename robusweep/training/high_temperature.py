"""High-temperature training (Raina et al., ACL 2024): a cheap baseline that every robust method has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.base import TrainingMethod

if TYPE_CHECKING:
    from robusweep.training.step import Step


class HighTemperature(TrainingMethod):
    """Cross-entropy of the logits divided by ``temperature``; 1 is ``standard``. The model is used without it.

    Its logits come out large, so attack it calibrated (``attacks.calibrate``), or over-confidence looks robust.
    """

    kind: Literal["high_temperature"] = "high_temperature"
    temperature: float = Field(200.0, ge=1)

    def backward(self, step: Step) -> float:
        return step.learn(step.cross_entropy(step.logits() / self.temperature))
