"""The adversary of adversarial self-attention: which pairs of tokens each layer may not attend to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.training.places import encoder_of, layers_of
from robusweep.training.step import Step

Pairs = Float[Tensor, "batch queries keys"]  # 1 keeps a pair, 0 hides it
HIDDEN = -10000.0  # added to the attention score of a hidden pair
MASK_NAMES = ("attention_mask", "attn_mask")


class _Hard(torch.autograd.Function):
    """1 where a score is positive, else 0; backward the sigmoid's derivative, with the sign reversed."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, reversal: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.reversal = reversal
        return (scores > 0).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        soft = scores.sigmoid()
        return -ctx.reversal * grads[0] * soft * (1 - soft), None


def hard_mask(scores: Pairs, *, reversal: float = 1.0) -> Pairs:
    """step(scores > 0) with the straight-through gradient of a sigmoid, times ``-reversal``."""
    kept: Tensor = _Hard.apply(scores, reversal)  # type: ignore[no-untyped-call]
    return kept


class Adversary(nn.Module):
    """For each layer a query and a key map over the whole hidden size, and counts of the pairs that it kept."""

    kept: Tensor
    seen: Tensor

    def __init__(self, network: nn.Module, *, seed: int) -> None:
        super().__init__()
        width, n_layers = encoder_of(network).config.hidden_size, len(layers_of(network))
        self.queries = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))
        self.keys = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for linear in [*self.queries, *self.keys]:
                linear.weight.normal_(std=0.02, generator=draws)
                linear.bias.zero_()
        self.register_buffer("kept", torch.zeros(n_layers, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(n_layers, dtype=torch.float64))

    def pairs(
        self, layer: int, hidden: Float[Tensor, "batch tokens hidden"], mask: Bool[Tensor, "batch tokens"]
    ) -> Pairs:
        """Which pairs this layer may see: never a padding key, always a token itself."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.detach().float()  # the adversary's gradient ends here
            query, key = self.queries[layer](hidden), self.keys[layer](hidden)
            scores = query @ key.transpose(1, 2) / hidden.shape[2] ** 0.5
            kept = hard_mask(scores) * mask[:, None, :]
        own = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device) & mask[:, None, :]
        kept = torch.where(own, 1.0, kept)
        with torch.no_grad():
            real = mask[:, :, None] & mask[:, None, :]
            self.kept[layer] += kept[real].double().sum()
            self.seen[layer] += real.sum()
        return kept

    @staticmethod
    def penalty(masks: list[Pairs], mask: Bool[Tensor, "batch tokens"], *, how: str) -> Float[Tensor, ""]:
        """The number of kept pairs, a mean over the texts; see ``Asa`` for ``how``."""
        if how == "sum_all":
            return torch.stack([pairs.sum() / len(mask) for pairs in masks]).sum()
        real = (mask[:, :, None] & mask[:, None, :]).float()
        counts = torch.stack([(pairs * real).sum(dim=(1, 2)) for pairs in masks])
        if how == "sum_valid":
            return counts.sum() / len(mask)
        return (counts / real.sum(dim=(1, 2))).mean()

    def readings(self) -> dict[str, float]:
        """The share of pairs of real tokens that were kept over the whole run, by layer and in all."""
        if not float(self.seen.sum()):
            return {}
        shares = (self.kept / self.seen).tolist()
        by_layer = {f"keep_ratio.layer_{i}": share for i, share in enumerate(shares, 1)}
        return {"keep_ratio": float(self.kept.sum() / self.seen.sum())} | by_layer


@contextmanager
def hiding(step: Step, adversary: Adversary) -> Iterator[list[Pairs]]:
    """While open, every layer attends to the pairs that the adversary keeps; yields the masks, filled by a pass."""
    masks: list[Pairs] = []
    with ExitStack() as stack:
        for i, layer in enumerate(layers_of(step.network)):
            hook = _hook(i, step.mask, adversary, masks)
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield masks


def _hook(i: int, mask: Tensor, adversary: Adversary, masks: list[Pairs]) -> Any:
    def hook(_layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pairs = adversary.pairs(i, args[0], mask)
        masks.append(pairs)
        bias = ((1 - pairs) * HIDDEN)[:, None]
        key = next((name for name in MASK_NAMES if name in named), None)
        given = named[key] if key else args[1]
        if given is not None and (given.dim() != 4 or not given.is_floating_point()):
            raise StageError(
                f"train asa: this model's attention ({type(_layer).__name__}) takes no mask for each pair of tokens",
                hint="set model.attention: sdpa",
            )
        bias = bias if given is None else bias + given
        if key:
            return args, named | {key: bias}
        return (args[0], bias, *args[2:]), named

    return hook
