"""Perturbations that change predictions most, found without labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robusweep.training.divergence import kl, symmetric_kl
from robusweep.training.embedding import Ball, Delta
from robusweep.training.radius import Radius
from robusweep.training.step import Step

Logits = Float[Tensor, "batch classes"]
UNIT_EPSILON = 1e-6  # mt-dnn's, below a token's largest coordinate


def virtual_direction(step: Step, radius: Radius, clean: Logits, *, n_steps: int, probe_size: float | None) -> Delta:
    """The perturbation of the radius's length after ``n_steps`` power iterations on KL(clean || perturbed)."""
    ball = Ball(step, radius)
    length = radius.value or 0.0
    probe = length / 10 if probe_size is None else probe_size
    unit = ball.direction(ball.normal(1.0))
    with step.searching():
        for _ in range(n_steps):
            delta = (unit * probe * ball.scale).requires_grad_(True)
            changed = step.mean(kl(clean, step.logits(delta, space=radius.space)))
            unit = ball.direction(step.gradient(changed, delta))
    return ball.inside(unit * length * ball.scale).detach()


def largest_change(
    step: Step, radius: Radius, clean: Logits, *, n_steps: int, step_size: float, init_size: float
) -> Delta:
    """``n_steps`` steps up the symmetric KL from Gaussian noise, inside the ball throughout."""
    ball = Ball(step, radius)
    delta = ball.inside(ball.normal(init_size))
    with step.searching():
        for _ in range(n_steps):
            delta.requires_grad_(True)
            changed = step.mean(symmetric_kl(clean, step.logits(delta, space=radius.space)))
            delta = ball.moved(delta, step.gradient(changed, delta), step_size)
    return delta.detach()


def unit_change(
    step: Step, radius: Radius, clean: Logits, *, n_steps: int, step_size: float, init_size: float
) -> Delta:
    """mt-dnn's variant: raw gradient steps, then each token scaled to a largest coordinate of about 1."""
    ball = Ball(step, radius)
    delta = ball.normal(init_size)
    with step.searching():
        for _ in range(n_steps):
            delta.requires_grad_(True)
            changed = step.mean(symmetric_kl(clean, step.logits(delta, space=radius.space)))
            with torch.no_grad():
                moved = delta.detach() + step_size * torch.nan_to_num(step.gradient(changed, delta))
                delta = moved / (moved.abs().amax(dim=2, keepdim=True) + UNIT_EPSILON) * ball.valid[..., None]
    return delta.detach()
