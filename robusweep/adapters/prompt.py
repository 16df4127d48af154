"""Prompt tuning (Lester et al., EMNLP 2021, arXiv:2104.08691)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robusweep.adapters.inserted import InsertedAdapter


class Prompt(InsertedAdapter):
    """Trained rows that enter the first layer beside the embedded text and go through all layers with it.

    Layers don't know an order of tokens, so that a place among them has no meaning: the first token, which the head
    reads, stays the first, and positions of the text don't move. Outside the layers nobody sees the rows: perturbations
    fit every space. They come in behind the embeddings' LayerNorm, where Lester et al., whose model has none, put them
    at the word embeddings. Rows are drawn from [-0.5, 0.5], as theirs: the untrained prompt changes answers already.
    """

    kind: Literal["prompt"] = "prompt"
    length: int = Field(16, ge=1, le=512)
