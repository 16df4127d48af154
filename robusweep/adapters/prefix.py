"""Prefix tuning (Li & Liang, ACL 2021, arXiv:2101.00190), as P-tuning v2 has it (Liu et al. 2022, arXiv:2110.07602)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robusweep.adapters.inserted import InsertedAdapter


class Prefix(InsertedAdapter):
    """Trained rows before the keys and the values of every layer's attention, which all tokens see.

    They are trained as they are, without Li and Liang's network that computes them. Positions of the text don't move.
    Rows are drawn with standard deviation 0.02: no prefix leaves a network unchanged, so the untrained one answers
    differently already. PEFT's is not used: in its version 0.21 it fails for RoBERTa, DistilBERT and ELECTRA.
    """

    kind: Literal["prefix"] = "prefix"
    length: int = Field(16, ge=1, le=512)
    layers: int | None = Field(None, ge=1)
