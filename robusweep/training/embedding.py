"""Perturbations of embeddings: the random start, the ascent steps, and the projection onto the ball."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    """The steepest ascent direction of unit length in the ball's norm; zero where there is no finite gradient.

    A gradient is scaled by its largest coordinate before its length is taken, so that neither a loss scale nor a
    tiny loss changes the direction.
    """
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if radius.norm == "linf":
        return gradient.sign()
    largest = gradient.abs().amax(dim=(1, 2) if radius.scope == "sentence" else 2, keepdim=True)
    gradient = gradient / torch.where(largest > 0, largest, 1.0)
    length = norms(gradient, radius)
    return torch.where(length > 0, gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny), 0.0)


def start(valid: Valid, hidden: int, *, size: float, draws: torch.Generator) -> Delta:
    """FreeLB's start: uniform in [-1, 1] times ``size / sqrt(n_tokens * hidden)``, zero on padding."""
    shape = (*valid.shape, hidden)
    uniform = torch.rand(shape, generator=draws).to(valid.device) * 2 - 1
    scale = size / (valid.sum(dim=1).clamp_min(1) * hidden).sqrt()
    return uniform * scale[:, None, None] * valid[..., None]


class Ball:
    """A radius laid around the texts of one step: where a perturbation may start, go and end."""

    def __init__(self, step: Step, radius: Radius) -> None:
        self.radius, self.width, self._draws = radius, step.hidden_size(radius.space), step.draws
        self.valid: Valid = step.mask if radius.special_tokens else step.inner
        self.scale = length_scale(radius, self.valid)
        self.limit = (torch.inf if radius.value is None else radius.value) * self.scale

    def start(self, size: float) -> Delta:
        """FreeLB's random start, moved into the ball where ``project_init`` says so; zeros for size 0."""
        if not size:
            return torch.zeros((*self.valid.shape, self.width), device=self.valid.device)
        delta = start(self.valid, self.width, size=size, draws=self._draws)
        return self.inside(delta) if self.radius.project_init else delta

    def normal(self, size: float) -> Delta:
        """Gaussian noise with this standard deviation in each coordinate of the perturbed tokens."""
        noise = torch.randn((*self.valid.shape, self.width), generator=self._draws).to(self.valid.device)
        return noise * size * self.valid[..., None]

    def inside(self, delta: Delta) -> Delta:
        """The nearest point of the ball."""
        return project(delta, self.radius, self.limit)

    def direction(self, gradient: Delta) -> Delta:
        """The steepest ascent of unit length, zero on tokens that are not perturbed."""
        return direction(gradient.float() * self.valid[..., None], self.radius)

    def moved(self, delta: Delta, gradient: Delta, stride: float) -> Delta:
        """One ascent step of this length (times the length scale), back inside the ball, off the graph."""
        with torch.no_grad():
            return self.inside(delta.detach() + self.direction(gradient) * (stride * self.scale))


def default_stride(radius: Radius, n_steps: int) -> float:
    """1.5 radius / n_steps: the steps reach the edge of the ball with half their length to spare."""
    return 1.5 * (radius.value or 0.0) / n_steps


def ascend(
    step: Step,
    radius: Radius,
    *,
    n_steps: int,
    step_size: float | None,
    init_size: float,
    objective: Callable[[Delta], Float[Tensor, ""]] | None = None,
    on_delta: Callable[[Delta], None] | None = None,
) -> Delta:
    """The perturbation after ``n_steps`` normalised ascent steps on the batch's loss, float32, zero on padding.

    Only the gradient of ``delta`` is taken: the parameters' gradients are not touched. ``objective`` is what rises
    instead of the cross-entropy. ``on_delta`` sees every iterate.
    """
    ball = Ball(step, radius)
    stride = default_stride(radius, n_steps) if step_size is None else step_size
    rises = objective or (lambda delta: step.loss(delta, space=radius.space))
    delta = ball.start(init_size)
    with step.searching():
        for _ in range(n_steps):
            if on_delta:
                on_delta(delta)
            delta.requires_grad_(True)
            delta = ball.moved(delta, step.gradient(rises(delta), delta), stride)
    if on_delta:
        on_delta(delta)
    return delta.detach()


def learn_along(
    step: Step, radius: Radius, *, n_steps: int, step_size: float | None, init_size: float
) -> Iterator[tuple[Delta, float]]:
    """FreeLB's free passes: learn a share of the loss at each of ``n_steps`` perturbations; the same pass moves on.

    Yields each perturbation with its loss.
    """
    ball = Ball(step, radius)
    stride = default_stride(radius, n_steps) if step_size is None else step_size
    delta = ball.start(init_size)
    for k in range(n_steps):
        delta.requires_grad_(k < n_steps - 1)
        loss = step.learn(step.loss(delta, space=radius.space), share=1 / n_steps)
        yield delta.detach(), loss
        if k < n_steps - 1:
            assert delta.grad is not None
            delta = ball.moved(delta, delta.grad, stride)
