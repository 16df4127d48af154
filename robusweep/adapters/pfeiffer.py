"""Bottleneck adapters behind the feed-forward network alone (Pfeiffer et al., EACL 2021, arXiv:2005.00247)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robusweep.adapters.inserted import InsertedAdapter


class Pfeiffer(InsertedAdapter):
    """As ``houlsby``, behind the feed-forward network alone: half the parameters."""

    kind: Literal["pfeiffer"] = "pfeiffer"
    reduction: int = Field(16, ge=1)
    activation: Literal["relu", "gelu", "silu"] = "relu"
    layers: int | None = Field(None, ge=1)
