"""What every mixer offers: parameter sets of the clean and the adversarial adapters in, one set out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


class Mixer(Spec, ABC):
    """A rule that combines folded adapters. The first member is the clean one."""

    @abstractmethod
    def mix(self, members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """One parameter set from ``[clean, adversarial_1, ..., adversarial_m]``, m >= 1."""
