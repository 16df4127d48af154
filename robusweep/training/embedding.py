"""Perturbations of embeddings: the random start, the ascent steps, and the projection onto the ball."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robusweep.training.radius import Radius
from robusweep.training.step import Step

Delta = Float[Tensor, "batch tokens hidden"]
Valid = Bool[Tensor, "batch tokens"]


def norms(delta: Delta, radius: Radius) -> Float[Tensor, "batch tokens hidden"]:
    """The length that the ball bounds, per sentence, token or coordinate, spread to the shape of ``delta``."""
    if radius.scope == "coordinate":
        return delta.abs()
    bounded = (1, 2) if radius.scope == "sentence" else (2,)
    length: Tensor = torch.linalg.vector_norm(delta, dim=bounded, keepdim=True)
    return length.expand_as(delta)


def length_scale(radius: Radius, valid: Valid) -> Float[Tensor, "batch 1 1"]:
    """What each text's radius and step are multiplied by: 1, or the square root of its number of perturbed tokens."""
    n_tokens = valid.sum(dim=1).clamp_min(1)[:, None, None]
    return n_tokens.sqrt() if radius.length_scale == "sqrt_tokens" else torch.ones_like(n_tokens, dtype=torch.float32)


def project(delta: Delta, radius: Radius, limit: Float[Tensor, "batch 1 1"]) -> Delta:
    """The nearest point of the ball. A zero ``delta`` stays zero (no division by its length)."""
    length = norms(delta, radius)
    return torch.where(length > limit, delta * (limit / length.clamp_min(torch.finfo(delta.dtype).tiny)), delta)


def direction(gradient: Delta, radius: Radius) -> Delta:
    """The steepest ascent direction of unit length in the ball's norm; zero where there is no finite gradient."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if radius.norm == "linf":
        return gradient.sign()
    length = norms(gradient, radius)
    return torch.where(length > 0, gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny), 0.0)


def start(valid: Valid, hidden: int, *, size: float, draws: torch.Generator) -> Delta:
    """FreeLB's start: uniform in [-1, 1] times ``size / sqrt(n_tokens * hidden)``, zero on padding."""
    shape = (*valid.shape, hidden)
    uniform = torch.rand(shape, generator=draws).to(valid.device) * 2 - 1
    scale = size / (valid.sum(dim=1).clamp_min(1) * hidden).sqrt()
    return uniform * scale[:, None, None] * valid[..., None]


def ascend(
    step: Step,
    radius: Radius,
    *,
    n_steps: int,
    step_size: float | None,
    init_size: float,
    on_delta: Callable[[Delta], None] | None = None,
) -> Delta:
    """The perturbation after ``n_steps`` normalised ascent steps on the batch's loss, float32, zero on padding.

    Only the gradient of ``delta`` is taken: the parameters' gradients are not touched. ``on_delta`` sees every
    iterate.
    """
    valid = step.mask if radius.special_tokens else step.inner
    scale = length_scale(radius, valid)
    limit = (torch.inf if radius.value is None else radius.value) * scale
    stride = (step_size if step_size is not None else 1.5 * (radius.value or 0.0) / n_steps) * scale
    if init_size:
        delta = start(valid, step.hidden_size, size=init_size, draws=step.draws)
        delta = project(delta, radius, limit) if radius.project_init else delta
    else:
        delta = torch.zeros((*valid.shape, step.hidden_size), device=valid.device)
    for _ in range(n_steps):
        if on_delta:
            on_delta(delta)
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(step.loss(delta, space=radius.space), delta)
        with torch.no_grad():
            move = direction(gradient.float(), radius) * stride * valid[..., None]
            delta = project(delta.detach() + move, radius, limit)
    if on_delta:
        on_delta(delta)
    return delta.detach()
