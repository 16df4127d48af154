"""Mixing answers rather than weights: the control that every mix of weights has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from robusweep.mixing.adpmixup import refused_leave_out
from robusweep.mixing.base import Mixer, OfLogits, System, TrainedSet


class Logits(Mixer):
    """Mean of the adapters' probabilities: every adapter answers, m + 1 passes for each text.

    ``weight``: the share of the adversarial adapters, as of ``adpmixup``. ``bend`` changes their logits first, in the
    way of MixedNUTS (Bai et al. 2024, arXiv:2402.02263): standardised over the classes, plus ``shift``, cut at 0, to
    the power ``exponent``, times ``scale``. Its paper could not be read; the form is remembered. ``leave_out``: the
    adversarial adapter, from 0, that takes no part.
    """

    kind: Literal["logits"] = "logits"
    weight: float = Field(0.5, ge=0, le=1)
    leave_out: int | None = Field(None, ge=0)
    bend: bool = False
    scale: float = Field(1.0, gt=0, le=1e3)
    exponent: float = Field(1.0, gt=0, le=20)
    shift: float = Field(0.0, ge=-10, le=10)

    @property
    def one_network(self) -> bool:
        return False

    def mix(self, adapters: TrainedSet) -> System:
        used = adapters.without(self.leave_out)
        m = len(used.names) - 1
        bent = {"scale": self.scale, "exponent": self.exponent, "shift": self.shift} if self.bend else None
        return OfLogits(used, (1.0 - self.weight, *[self.weight / m] * m), bent)

    def refusal(self, spaces: Sequence[str], n_adversarial: int) -> tuple[str, str] | None:  # noqa: ARG002
        return refused_leave_out(self.leave_out, n_adversarial)
