"""What every mixer offers: the trained adapters in, one system out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.mixture import Member


@dataclass(frozen=True)
class TrainedSet:
    """The adapters of one trial: the clean one, then the adversarial ones.

    ``base`` holds the network's own parameters, ``folded`` those that each adapter puts in their place, ``members`` the
    same as whole parameters and low-rank factors, ``ranges`` the lowest and highest entropy (nats) of each adapter's
    predictions on texts that it was trained on. ``accuracies`` gives what parameters score on texts that were set
    apart: (on clean ones, under known attacks of the clean adapter).
    """

    names: Sequence[str]
    base: Mapping[str, Tensor]
    folded: Sequence[Mapping[str, Tensor]]
    members: Sequence[Member]
    ranges: Sequence[tuple[float, float]]
    accuracies: Callable[[Mapping[str, Tensor]], tuple[float, float]] | None = None

    def without(self, adversarial: int | None) -> TrainedSet:
        """The set without one of its adversarial adapters, counted from 0."""
        if adversarial is None:
            return self
        kept = [i for i in range(len(self.names)) if i != adversarial + 1]
        return replace(
            self,
            names=[self.names[i] for i in kept],
            folded=[self.folded[i] for i in kept],
            members=[self.members[i] for i in kept],
            ranges=[self.ranges[i] for i in kept],
        )


@dataclass(frozen=True)
class Fixed:
    """One set of weights for every text. ``chosen_weight``: the adversarial share, where a rule chose it."""

    parameters: Mapping[str, Tensor]
    chosen_weight: float | None = None


@dataclass(frozen=True)
class PerText:
    """Weights mixed anew for each text, by a rule of ``robusweep.mixture.RULES``."""

    adapters: TrainedSet
    rule: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    factored: bool = False


@dataclass(frozen=True)
class OfLogits:
    """Every adapter answers by itself, and the answers are mixed with these weights.

    ``bent``: keys of ``robusweep.mixture.bent`` for the adversarial ones, None leaves them as they are.
    """

    adapters: TrainedSet
    weights: tuple[float, ...]
    bent: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Emulated:
    """``large(x) + beta (adversarial(x) - clean(x))`` of logits; ``large`` names a classifier."""

    adapters: TrainedSet
    large: str
    beta: float


System = Fixed | PerText | OfLogits | Emulated


class Mixer(Spec, ABC):
    """A rule that combines adapters. The first one is the clean one."""

    needs: ClassVar[tuple[str, ...]] = ()  # merge spaces one of which the adapter must have; () takes every adapter

    @property
    def one_network(self) -> bool:
        """Whether it makes one set of weights for all texts (``Fixed``)."""
        return True

    def takes(self, n_adversarial: int) -> set[int]:
        """The adversarial adapters, by their places from 0, that the system depends on: with others in the place of the
        rest it is the same, bit for bit."""
        return set(range(n_adversarial)) - {getattr(self, "leave_out", None)}

    @abstractmethod
    def mix(self, adapters: TrainedSet) -> System:
        """What the adapters ``[clean, adversarial_1, ..., adversarial_m]``, m >= 1, become."""

    def refusal(self, spaces: Sequence[str], n_adversarial: int) -> tuple[str, str] | None:  # noqa: ARG002
        """(key, why) when adapters with these merge spaces, or so many of them, can't be mixed like this."""
        if self.needs and not set(self.needs) & set(spaces):
            return "kind", f"needs adapters that mix in {' or '.join(self.needs)}; these mix in {', '.join(spaces)}"
        return None
