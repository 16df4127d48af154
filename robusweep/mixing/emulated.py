"""Emulated fine-tuning (Mitchell et al., ICLR 2024, arXiv:2310.12962): a small model's change, put on a large one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from robusweep.mixing.base import Emulated, Mixer, System, TrainedSet


class EmulatedFineTuning(Mixer):
    """``large(x) + beta (adversarial(x) - clean(x))`` of logits: the large model is not trained, nothing is merged.

    ``large``: a trained classifier with the same labels in the same order and the same tokenizer, as a folder or hub
    name. ``beta``: 0 is the large model, 1 adds what adversarial training changed in the small one. One adversarial
    adapter. For classifiers the logits of both must mean the same labels; the paper has one vocabulary in their place.
    """

    kind: Literal["emulated"] = "emulated"
    large: str = Field(min_length=1)
    beta: float = Field(1.0, ge=0, le=10)

    @property
    def one_network(self) -> bool:
        return False

    def mix(self, adapters: TrainedSet) -> System:
        return Emulated(adapters, self.large, self.beta)

    def refusal(self, spaces: Sequence[str], n_adversarial: int) -> tuple[str, str] | None:  # noqa: ARG002
        if n_adversarial != 1:
            return "kind", f"takes one method under 'adversarial', given {n_adversarial}"
        return None
