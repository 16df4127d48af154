"""Perturbations that are drawn and not searched."""

from __future__ import annotations

import math
from typing import Literal

import torch

from robusweep.training.embedding import Ball, Delta, start
from robusweep.training.radius import Radius
from robusweep.training.step import Step


def random_perturbation(step: Step, radius: Radius, *, noise: Literal["uniform", "normal"]) -> Delta:
    """Noise of the radius's size on the perturbed tokens, zero elsewhere; ``normal`` noise is not bounded."""
    ball = Ball(step, radius)
    size = radius.value or 0.0
    if noise == "normal":
        return ball.normal(size)
    if radius.scope == "coordinate":
        uniform = torch.rand((*ball.valid.shape, ball.width), generator=step.draws).to(ball.valid.device) * 2 - 1
        return uniform * size * ball.valid[..., None]
    n_tokens = ball.valid.sum(dim=1).clamp_min(1)[:, None, None]
    scale = n_tokens.sqrt() if radius.scope == "token" else ball.scale
    return ball.inside(start(ball.valid, ball.width, size=math.sqrt(3) * size, draws=step.draws) * scale)
