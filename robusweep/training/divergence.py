"""Divergences between two predictions, one value for each text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "batch classes"]
PerText = Float[Tensor, " batch"]


def kl(p: Logits, q: Logits) -> PerText:
    """KL(softmax(p) || softmax(q)) in nats; the gradient reaches both."""
    log_p, log_q = p.log_softmax(dim=1), q.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def symmetric_kl(p: Logits, q: Logits) -> PerText:
    """KL(p || q) + KL(q || p)."""
    return kl(p, q) + kl(q, p)
