"""AdpMixup (Nguyen & Le, EMNLP 2024): a convex combination of a clean and of adversarial adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from robusweep.mixing.base import Fixed, Mixer, PerText, System, TrainedSet

if TYPE_CHECKING:
    from torch import Tensor

GRID = tuple(i / 10 for i in range(11))  # the weights that grid_validation tries


class AdpMixup(Mixer):
    """Mix the adapters' weights, heads included: the same for all texts, or anew for each text.

    ``weighting: fixed`` takes ``weight``, the share of the adversarial adapters: 0 is the clean adapter, 1 the mean of
    the adversarial ones. ``grid_validation`` takes the one of 0, 0.1, ..., 1 with the highest ``clean_share`` * clean
    accuracy + (1 - ``clean_share``) * accuracy under the known attacks, both on the calibration split and the latter on
    texts made against the clean adapter.

    The others read the entropy H of each adapter's prediction for the text. ``entropy_ratio``: the mean over attacks of
    the pairs ``(1 - b_i) clean + b_i adversarial_i`` with b_i = H_clean / (H_clean + H_i). ``entropy_minmax``: as that,
    with H on the scale of what each adapter shows on its training texts. ``entropy_softmax``: softmax(-``sharpness``
    H). ``emea``: ``n_steps`` gradient steps of ``step_size`` on the weights of the text, towards a certain mixed
    prediction (Wang et al., Findings of EMNLP 2021). They are attacked as a whole, rule included.

    ``space: delta`` mixes changes of weights, ``factors`` the two factors of a low-rank change, cross terms included,
    ``weights`` the adapter's own weights; null takes what is exact for the adapter. ``leave_out``: the adversarial
    adapter, from 0, that takes no part.

    The paper's body could not be read: its rule for the entropies, and which end its symbol counts from, are not known.
    """

    kind: Literal["adpmixup"] = "adpmixup"
    weighting: Literal["fixed", "entropy_ratio", "entropy_minmax", "entropy_softmax", "emea", "grid_validation"] = (
        "fixed"
    )
    weight: float = Field(0.5, ge=0, le=1)
    space: Literal["delta", "factors", "weights"] | None = None
    leave_out: int | None = Field(None, ge=0)
    clean_share: float = Field(0.5, ge=0, le=1)
    sharpness: float = Field(1.0, gt=0, le=1e4)
    n_steps: int = Field(3, ge=1, le=100)
    step_size: float = Field(1.0, gt=0, le=1e4)

    @property
    def one_network(self) -> bool:
        return self.weighting in ("fixed", "grid_validation")

    def takes(self, n_adversarial: int) -> set[int]:
        is_clean = self.weighting == "fixed" and self.weight == 0
        return set() if is_clean else super().takes(n_adversarial)

    def mix(self, adapters: TrainedSet) -> System:
        used, factored = adapters.without(self.leave_out), self.space == "factors"
        if self.weighting == "fixed":
            return Fixed(self._fixed(used, self.weight))
        if self.weighting == "grid_validation":
            chosen = self._best(used)
            return Fixed(self._fixed(used, chosen), chosen)
        keys: dict[str, dict[str, Any]] = {
            "entropy_ratio": {},
            "entropy_minmax": {"ranges": [list(pair) for pair in used.ranges]},
            "entropy_softmax": {"sharpness": self.sharpness},
            "emea": {"n_steps": self.n_steps, "step_size": self.step_size},
        }
        return PerText(used, self.weighting, keys[self.weighting], factored)

    def _fixed(self, adapters: TrainedSet, weight: float) -> Mapping[str, Tensor]:
        from robusweep.mixing.convex import convex, convex_factors

        m = len(adapters.names) - 1
        weights = [1.0 - weight, *[weight / m] * m]
        if self.space == "factors" and 1.0 not in weights:  # an end is that adapter as folded, to the bit
            return convex_factors(adapters.base, adapters.members, weights)
        return convex(adapters.folded, weights)

    def _best(self, adapters: TrainedSet) -> float:
        """The best weight of the grid; of equal ones the one nearest to the clean adapter."""

        def worth(weight: float) -> float:
            assert adapters.accuracies is not None
            clean, attacked = adapters.accuracies(self._fixed(adapters, weight))
            return self.clean_share * clean + (1 - self.clean_share) * attacked

        return max(GRID, key=worth)

    def refusal(self, spaces: Sequence[str], n_adversarial: int) -> tuple[str, str] | None:
        if self.space is not None and self.space not in spaces:
            return "space", f"{self.space!r} is not defined for this adapter (allowed: {', '.join(spaces)})"
        return refused_leave_out(self.leave_out, n_adversarial)


def refused_leave_out(leave_out: int | None, n_adversarial: int) -> tuple[str, str] | None:
    """(key, why) when there is no such adapter, or nothing would be left of the adversarial ones."""
    if leave_out is None:
        return None
    if n_adversarial < 2:
        return "leave_out", f"{leave_out} leaves nothing to mix: there is one method under 'adversarial'"
    if leave_out >= n_adversarial:
        return "leave_out", f"{leave_out} is no place under 'adversarial' (allowed: 0 to {n_adversarial - 1})"
    return None
