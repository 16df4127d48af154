"""Hidden states of two texts, mixed on their way through a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from robusweep.errors import StageError
from robusweep.training.places import classifier_of, perturbed_module
from robusweep.training.step import Step, changed

Partner = Int[Tensor, " batch"]
Mix = Callable[[Tensor], Tensor]


def draw(step: Step, alpha: float) -> tuple[float, Partner]:
    """(the share of a text's own states, at least 0.5; which text of the batch each one is mixed with)."""
    seed = int(torch.randint(2**62, (1,), generator=step.draws))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    partner = torch.randperm(len(step.ids), generator=step.draws).to(step.ids.device)
    return max(share, 1 - share), partner


def mixed_logits(step: Step, share: float, partner: Partner, *, at: str) -> Float[Tensor, "batch classes"]:
    """The logits of one pass in which each text's states are mixed with its partner's."""

    def mix(states: Tensor) -> Tensor:
        """[batch, tokens, hidden], or [batch, hidden] of texts as a whole."""
        other = states[partner]
        if states.ndim == 3:
            other = other * step.mask[partner][..., None]
        return share * states + (1 - share) * other

    with _at(step.network, at, mix):
        return step.logits()


def mixed_loss(step: Step, logits: Float[Tensor, "batch classes"], share: float, partner: Partner) -> Float[Tensor, ""]:
    """The cross-entropy of both labels, each by its share."""
    own = F.cross_entropy(logits, step.labels, reduction="none")
    other = F.cross_entropy(logits, step.labels[partner], reduction="none")
    return step.mean(share * own + (1 - share) * other)


def _at(network: nn.Module, at: str, mix: Mix) -> AbstractContextManager[None]:
    return _read_by_classifier(network, mix) if at == "features" else changed(perturbed_module(network, at), mix)


@contextmanager
def _read_by_classifier(network: nn.Module, mix: Mix) -> Iterator[None]:
    """Mix what the last part of the classification head gets. Raises ``StageError`` where it can't be told."""
    head = getattr(classifier_of(network), "classifier", None)
    if not isinstance(head, nn.Module):
        raise StageError(
            f"mix_at: what the classifier of {type(classifier_of(network)).__name__} reads can't be told",
            hint="mix behind a layer: layer:1 and so on",
        )

    def hook(_module: nn.Module, args: Any) -> Any:
        return (mix(args[0]), *args[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
