"""TAVAT's memory: for each word of the vocabulary the perturbation that it had at its last use."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robusweep.training.embedding import Ball, Delta, default_stride
from robusweep.training.places import classifier_of
from robusweep.training.radius import Radius
from robusweep.training.step import Step

TINY = torch.finfo(torch.float32).tiny


class Vocabulary(nn.Module):
    """``table``: [vocabulary, width], at first uniform in +-size / sqrt(width)."""

    table: Tensor

    def __init__(self, network: nn.Module, *, size: float, seed: int) -> None:
        super().__init__()
        n_words, width = classifier_of(network).get_input_embeddings().weight.shape
        draws = torch.Generator().manual_seed(seed)
        uniform = torch.rand((n_words, width), generator=draws) * 2 - 1
        self.register_buffer("table", uniform * size / width**0.5)

    @torch.no_grad()
    def remember(self, ids: Int[Tensor, " n"], values: Float[Tensor, "n width"]) -> None:
        """Put the mean over its uses in the place of each of these words."""
        words, place = ids.unique(return_inverse=True)
        total = torch.zeros((len(words), values.shape[1]), device=values.device).index_add_(0, place, values)
        self.table[words] = total / torch.bincount(place, minlength=len(words))[:, None]


def learn_with_tokens(step: Step, radius: Radius, *, n_steps: int, step_size: float | None, init_size: float) -> float:
    """One batch of TAVAT: learn a share at each pass, remember the tokens' last perturbations; the mean loss."""
    assert isinstance(step.companion, Vocabulary)
    ball = Ball(step, radius)
    stride = default_stride(radius, n_steps) if step_size is None else step_size
    valid = ball.valid[..., None]
    whole, token = ball.start(init_size), step.companion.table[step.ids] * valid
    total = 0.0
    for k in range(n_steps):
        delta = ball.inside(whole + token).requires_grad_(k < n_steps - 1)
        total += step.learn(step.loss(delta, space=radius.space), share=1 / n_steps) / n_steps
        if k < n_steps - 1:
            assert delta.grad is not None
            gradient = torch.nan_to_num(delta.grad.float(), nan=0.0, posinf=0.0, neginf=0.0) * valid
            whole = ball.moved(whole, gradient, stride)
            token = ball.inside(_stepped(token, gradient, stride))
    step.companion.remember(step.ids[ball.valid], token[ball.valid])
    return total


@torch.no_grad()
def _stepped(token: Delta, gradient: Delta, stride: float) -> Delta:
    """Each token one step of its own up its gradient, then scaled by its length over the text's longest."""
    length = token.norm(dim=2, keepdim=True)
    longest = length.amax(dim=1, keepdim=True)
    share = torch.where(longest > 0, length / longest.clamp_min(TINY), 1.0)
    steep = gradient.norm(dim=2, keepdim=True)
    return share * (token + stride * torch.where(steep > 0, gradient / steep.clamp_min(TINY), 0.0))
