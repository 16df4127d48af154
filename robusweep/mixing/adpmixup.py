"""AdpMixup (Nguyen & Le, EMNLP 2024): a convex combination of a clean and of adversarial adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.mixing.base import Mixer

if TYPE_CHECKING:
    from torch import Tensor


class AdpMixup(Mixer):
    """Mix in delta space: ``dW = (1 - weight) dW_clean + weight * mean_i dW_i``, and the heads alike.

    ``weight`` is the share of the adversarial adapters: 0 is the clean adapter, 1 the (mean) adversarial one. The
    paper's own symbol may run the other way; its body could not be checked.
    """

    kind: Literal["adpmixup"] = "adpmixup"
    weighting: Literal["fixed"] = "fixed"
    weight: float = Field(0.5, ge=0, le=1)

    def mix(self, members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        from robusweep.mixing.convex import convex

        n_adversarial = len(members) - 1
        return convex(members, [1.0 - self.weight, *[self.weight / n_adversarial] * n_adversarial])
