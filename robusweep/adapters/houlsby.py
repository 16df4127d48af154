"""Bottleneck adapters behind both sub-layers (Houlsby et al., ICML 2019, arXiv:1902.00751)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robusweep.adapters.inserted import InsertedAdapter


class Houlsby(InsertedAdapter):
    """``x + U f(D x + b) + c`` of what attention and the feed-forward network give, before the residual connection.

    U starts at zero, so nothing changes at first; D is drawn. Unlike in the paper LayerNorms stay as they are, and the
    bottleneck comes before the sub-layer's dropout.
    """

    kind: Literal["houlsby"] = "houlsby"
    reduction: int = Field(16, ge=1)
    activation: Literal["relu", "gelu", "silu"] = "gelu"
    layers: int | None = Field(None, ge=1)
