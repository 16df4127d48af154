"""One batch on its way to a gradient: the texts, the network, and forward passes that can carry a perturbation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robusweep.training.folded import folded
from robusweep.training.places import encoder_of, perturbed_module, width

if TYPE_CHECKING:
    from robusweep.training.regularisers import AnyRegulariser

Delta = Float[Tensor, "batch tokens hidden"]
Masks = Literal["shared", "independent"]  # do the passes of one step see the same dropout masks


@dataclass
class Costs:
    """What training asked of the hardware: passes of one batch each, and the tokens that forward passes computed."""

    n_forward: int = 0
    n_backward: int = 0
    n_tokens: int = 0  # padding included


class Step:
    """A batch with its network. ``logits`` of one step see the same dropout masks unless told otherwise.

    ``mask`` is True on real tokens, ``inner`` on real tokens but the first and the last. ``draws`` is a generator of
    this step's own: drawing from it leaves dropout as it was. ``weights`` is what each example counts in the loss,
    None when all count 1. ``part`` is this step's share of the batch that one update learns from. ``companion`` is
    the method's own module.
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
        weights: Float[Tensor, " batch"] | None = None,
        part: float = 1.0,
        companion: nn.Module | None = None,
        regularisers: Sequence[tuple[AnyRegulariser, nn.Module | None]] = (),
        costs: Costs | None = None,
    ) -> None:
        self.network, self.ids, self.mask, self.labels = network, ids, mask, labels
        self.draws, self.bf16, self.progress = draws, bf16, progress
        self.weights, self.part, self.companion = weights, part, companion
        self.costs = costs or Costs()
        self.proxy: dict[str, Tensor] | None = None  # weights, by name, that passes use unless they only search
        self.rewritten: Callable[[Tensor], Tensor] | None = None  # what an update makes of each loss that is learnt
        self.answer: Tensor | None = None  # logits of the last pass that did not only search
        self.hidden: Tensor | None = None  # the last hidden state of its first token, kept for regularisers
        self._searching = False
        self._taught: Tensor | None = None
        places = torch.arange(ids.shape[1], device=ids.device)
        first = mask.long().argmax(dim=1, keepdim=True)  # padding may be on either side
        last = ids.shape[1] - 1 - mask.long().flip(1).argmax(dim=1, keepdim=True)
        self.inner: Bool[Tensor, "batch tokens"] = mask & (places > first) & (places < last)
        self._regularisers = regularisers
        self._dropout = _dropout_state(ids.device)

    # ------------------------------------------------------------------------------------ forward passes
    def hidden_size(self, space: str = "word") -> int:
        """Width of what a perturbation of this space is added to."""
        return width(self.network, space)

    def logits(self, delta: Delta | None = None, *, space: str = "word", dropout: Masks = "shared") -> Tensor:
        """Float32 logits [batch, classes], with ``delta`` added at the given space when there is one."""
        return self._forward(delta, space, dropout)

    def teacher(self) -> Float[Tensor, "batch hidden"]:
        """The last hidden state of the first token, from the network without its adapter and without dropout."""
        if self._taught is not None:
            return self._taught
        was, kept = self.network.training, list[Tensor]()
        self.network.eval()
        try:
            with torch.no_grad(), self.network.disable_adapter(), _kept(self.network, kept):  # type: ignore[operator]
                self._pass(None, "word")
        finally:
            self.network.train(was)
        self._taught = kept[0]
        return kept[0]

    def _forward(self, delta: Delta | None, space: str, dropout: Masks) -> Tensor:
        if dropout == "shared":
            _restore_dropout(self.ids.device, self._dropout)
        kept: list[Tensor] = []
        with _kept(self.network, kept) if self._regularisers else nullcontext():
            logits = self._pass(delta, space)
        if not self._searching:
            self.answer, self.hidden = logits, kept[0] if kept else None
        return logits

    def _pass(self, delta: Delta | None, space: str) -> Tensor:
        self.costs.n_forward += 1
        self.costs.n_tokens += self.ids.numel()
        texts = {"input_ids": self.ids, "attention_mask": self.mask.long()}
        cast = torch.autocast(self.ids.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with cast, added(self.network, delta, space):
            if self.proxy is None or self._searching:
                answer = self.network(**texts)
            else:
                answer = functional_call(self.network, self.proxy, (), texts)
        logits: Tensor = answer.logits
        return logits.float()

    # ------------------------------------------------------------------------------------------- losses
    def mean(self, values: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The mean over the examples, each as often as it counts."""
        return values.mean() if self.weights is None else (values * self.weights).mean()

    def cross_entropy(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """Cross-entropy, mean over the examples of the batch."""
        if self.weights is None:
            return F.cross_entropy(logits, self.labels)
        return self.mean(F.cross_entropy(logits, self.labels, reduction="none"))

    def loss(self, delta: Delta | None = None, *, space: str = "word") -> Float[Tensor, ""]:
        """Cross-entropy of one pass."""
        return self.cross_entropy(self.logits(delta, space=space))

    # ---------------------------------------------------------------------------------------- gradients
    @contextmanager
    def searching(self) -> Iterator[None]:
        """While open, adapters that allow it are folded into their weights: passes cost what the plain network's do.

        For passes whose weights need no gradient.
        """
        self._searching = True
        try:
            with folded(self.network, bf16=self.bf16):
                yield
        finally:
            self._searching = False

    def gradient(self, loss: Float[Tensor, ""], at: Delta) -> Delta:
        """The gradient of ``loss`` at ``at``, float32; no parameter's gradient is touched."""
        self.costs.n_backward += 1
        (found,) = torch.autograd.grad(loss, at)
        return found.float()

    def learn(self, loss: Float[Tensor, ""], *, share: float = 1.0) -> float:
        """Add the gradient of ``share`` times the loss, regularisers included; return the loss."""
        if self.rewritten:
            loss = self.rewritten(loss)
        for regulariser, companion in self._regularisers:
            loss = loss + regulariser.penalty(self, companion)
        self.costs.n_backward += 1
        scale = share * self.part
        (loss if scale == 1.0 else loss * scale).backward()
        return float(loss.detach())


@contextmanager
def changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put ``change`` behind the module while open. A hook keeps positions, segments and masks as they are."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def added(network: nn.Module, delta: Tensor | None, space: str) -> AbstractContextManager[None]:
    """Add ``delta`` at the given space while open."""
    if delta is None:
        return nullcontext()
    return changed(perturbed_module(network, space), lambda output: output + delta)


@contextmanager
def _kept(network: nn.Module, into: list[Tensor]) -> Iterator[None]:
    """Keep the first token's last hidden state of the passes that run while open, in float32."""
    handle = encoder_of(network).register_forward_hook(lambda _m, _a, output: into.append(output[0][:, 0].float()))
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
