"""The search's adversaries: FreeLB as the released search runs it, and PGD. Each leaves the gradient of one batch.

They are not training's: here every pass has dropout masks of its own, the ball never holds the start, and a penalty on
the coefficients joins the last pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Delta = Float[Tensor, "batch tokens hidden"]
Valid = Bool[Tensor, "batch tokens"]
SHORTEST = 1e-8  # a gradient's length counts as no less


@dataclass(frozen=True)
class Adversary:
    """How a perturbation of the word embeddings starts and moves; lengths are L2 over a text's tokens."""

    n_steps: int
    step_size: float
    init_magnitude: float
    max_norm: float | None = None


@dataclass
class Batch:
    """Texts with their network. ``mask`` is True on real tokens. Counts the passes."""

    network: nn.Module
    ids: Int[Tensor, "batch tokens"]
    mask: Valid
    labels: Int[Tensor, " batch"]
    bf16: bool = False
    n_forward: int = field(default=0, init=False)
    n_backward: int = field(default=0, init=False)

    @property
    def words(self) -> Any:
        """The table of word embeddings."""
        return self.network.get_input_embeddings()  # type: ignore[operator]

    def loss(self, delta: Delta) -> Float[Tensor, ""]:
        """Cross-entropy, mean over the texts, with ``delta`` added to the word embeddings. Segments are the default."""
        self.n_forward += 1
        cast = torch.autocast(self.ids.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with cast, _added(self.words, delta):
            logits = self.network(input_ids=self.ids, attention_mask=self.mask.long()).logits
        return F.cross_entropy(logits.float(), self.labels)

    def teach(self, loss: Float[Tensor, ""]) -> None:
        """Add the loss's gradient to all that learns, ``delta`` included."""
        self.n_backward += 1
        loss.backward()

    def gradient(self, loss: Float[Tensor, ""], at: Delta) -> Delta:
        """The loss's gradient at ``at`` alone."""
        self.n_backward += 1
        return torch.autograd.grad(loss, at)[0]


Penalty = Callable[[], Float[Tensor, ""]]
OnDelta = Callable[[Delta], None]


def free_lb(
    batch: Batch, adversary: Adversary, *, penalty: Penalty, draws: torch.Generator, on_delta: OnDelta | None = None
) -> float:
    """Leave the mean gradient of ``n_steps`` passes and, once and in full, the penalty's. Returns the mean loss.

    The perturbation moves between passes, n_steps - 1 times, along the gradient of the pass before.
    ``on_delta`` sees the perturbation of each pass.
    """
    delta, total = start(batch.mask, batch.words.weight.shape[1], adversary.init_magnitude, draws), 0.0
    for k in range(1, adversary.n_steps + 1):
        if on_delta:
            on_delta(delta)
        is_last = k == adversary.n_steps
        delta.requires_grad_(not is_last)
        loss = batch.loss(delta)
        share = loss / adversary.n_steps
        batch.teach(share + penalty() if is_last else share)
        total += float(loss.detach())
        if not is_last:
            assert delta.grad is not None
            delta = moved(delta.detach(), delta.grad, batch.mask, adversary)
    return total / adversary.n_steps


def pgd(
    batch: Batch, adversary: Adversary, *, penalty: Penalty, draws: torch.Generator, on_delta: OnDelta | None = None
) -> float:
    """Leave the gradient, and the penalty's, at the perturbation after ``n_steps`` moves. Returns the loss there."""
    delta = start(batch.mask, batch.words.weight.shape[1], adversary.init_magnitude, draws)
    for _ in range(adversary.n_steps):
        if on_delta:
            on_delta(delta)
        delta.requires_grad_(True)
        gradient = batch.gradient(batch.loss(delta), delta)
        delta = moved(delta.detach(), gradient, batch.mask, adversary)
    if on_delta:
        on_delta(delta)
    loss = batch.loss(delta)
    batch.teach(loss + penalty())
    return float(loss.detach())


def start(valid: Valid, hidden: int, magnitude: float, draws: torch.Generator) -> Delta:
    """Uniform in [-1, 1] times ``magnitude / sqrt(n_tokens * hidden)`` of each text, zero on padding."""
    uniform = torch.rand((*valid.shape, hidden), generator=draws).to(valid.device) * 2 - 1
    scale = magnitude / (valid.sum(dim=1).clamp_min(1) * hidden).sqrt()
    return uniform * scale[:, None, None] * valid[..., None]


def moved(delta: Delta, gradient: Delta, valid: Valid, adversary: Adversary) -> Delta:
    """One step along the gradient, ``step_size`` long for each text, then back into the ball where there is one.

    Padding stays zero, which is ours: the released code masks the start alone. Where padded tokens can't reach the
    classifier their gradient is zero in any case.
    """
    gradient = gradient * valid[..., None]
    delta = delta + adversary.step_size * gradient / length(gradient).clamp_min(SHORTEST)
    if adversary.max_norm is not None:
        size = length(delta)
        delta = torch.where(size > adversary.max_norm, delta * (adversary.max_norm / size.clamp_min(SHORTEST)), delta)
    return delta


def length(delta: Delta) -> Float[Tensor, "batch 1 1"]:
    """The L2 length over a text's tokens and coordinates."""
    found: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2), keepdim=True)
    return found


@contextmanager
def _added(words: nn.Module, delta: Tensor) -> Iterator[None]:
    """Add ``delta`` to what the table gives while open: positions are numbered from the ids, as ever."""
    handle = words.register_forward_hook(lambda _module, _args, output: output + delta.to(output.dtype))
    try:
        yield
    finally:
        handle.remove()
