"""One batch on its way to a gradient: the texts, the network, and a forward pass that can carry a perturbation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Space = Literal["word", "post_ln"]


class Step:
    """A batch with its network. Every ``loss`` call of one step sees the same dropout masks.

    ``mask`` is True on real tokens, ``inner`` on real tokens but the first and the last. ``draws`` is a generator of
    this step's own: drawing from it leaves dropout as it was.
    """

    def __init__(
        self,
        network: nn.Module,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        labels: Int[Tensor, " batch"],
        *,
        draws: torch.Generator,
        bf16: bool = False,
        progress: float = 1.0,
    ) -> None:
        self.network, self.ids, self.mask, self.labels = network, ids, mask, labels
        self.draws, self.bf16, self.progress = draws, bf16, progress
        places = torch.arange(ids.shape[1], device=ids.device)
        last = mask.sum(dim=1, keepdim=True) - 1
        self.inner: Bool[Tensor, "batch tokens"] = mask & (places > 0) & (places < last)
        self._dropout = _dropout_state(ids.device)

    @property
    def hidden_size(self) -> int:
        """Width of the embeddings that a perturbation is added to."""
        return int(_embeddings(self.network, "word").weight.shape[1])

    def logits(
        self, delta: Float[Tensor, "batch tokens hidden"] | None = None, *, space: Space = "word"
    ) -> Float[Tensor, "batch classes"]:
        """Float32 logits, with ``delta`` added to the embeddings of the given space when there is one."""
        _restore_dropout(self.ids.device, self._dropout)
        cast = torch.autocast(self.ids.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with cast, _added(self.network, delta, space):
            answer = self.network(input_ids=self.ids, attention_mask=self.mask.long())
        logits: Tensor = answer.logits
        return logits.float()

    def loss(
        self, delta: Float[Tensor, "batch tokens hidden"] | None = None, *, space: Space = "word"
    ) -> Float[Tensor, ""]:
        """Cross-entropy, mean over the examples of the batch."""
        return F.cross_entropy(self.logits(delta, space=space), self.labels)


def _embeddings(network: nn.Module, space: Space) -> Any:
    """The module whose output is perturbed: the word embedding table, or the whole embedding module."""
    if space == "word":
        return network.get_input_embeddings()  # type: ignore[operator]
    encoder = getattr(network, getattr(network, "base_model_prefix", ""), None)
    if encoder is None:  # a PEFT wrapper hides the prefix of the network inside
        inner = network.get_base_model()  # type: ignore[operator]
        encoder = getattr(inner, inner.base_model_prefix)
    return encoder.embeddings


@contextmanager
def _added(network: nn.Module, delta: Tensor | None, space: Space) -> Iterator[None]:
    """Add ``delta`` to the module's output while open. A hook keeps positions, segments and masks as they are."""
    if delta is None:
        yield
        return
    handle = _embeddings(network, space).register_forward_hook(lambda _module, _args, output: output + delta)
    try:
        yield
    finally:
        handle.remove()


def _dropout_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _restore_dropout(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
