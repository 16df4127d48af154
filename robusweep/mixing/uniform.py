"""The uniform soup (Wortsman et al. 2022, arXiv:2203.05482; AdapterSoup: arXiv:2302.07027)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from robusweep.mixing.adpmixup import refused_leave_out
from robusweep.mixing.base import Fixed, Mixer, System, TrainedSet


class Uniform(Mixer):
    """The plain mean of the weights of all adapters, the clean one included. ``leave_out``: one that takes no part."""

    kind: Literal["uniform"] = "uniform"
    leave_out: int | None = Field(None, ge=0)

    def mix(self, adapters: TrainedSet) -> System:
        from robusweep.mixing.convex import convex

        used = adapters.without(self.leave_out)
        return Fixed(convex(used.folded, [1 / len(used.names)] * len(used.names)))

    def refusal(self, spaces: Sequence[str], n_adversarial: int) -> tuple[str, str] | None:  # noqa: ARG002
        return refused_leave_out(self.leave_out, n_adversarial)
