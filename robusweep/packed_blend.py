"""A pass without padding of a network whose adapters are mixed anew for each text, for the families of ``packed``.

It calls the network's own modules, so that whatever a ``Blend`` has put in their place runs: on a row for each real
token, with the weights of the token's text, and in the last layer on a row for each text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robusweep.examples import Row
from robusweep.mixture import Blend
from robusweep.packed import (
    MIN_ROWS,
    TOLERANCE,
    attended,
    attended_first,
    first_tokens,
    head_of,
    layers_of,
    of_known_make,
    positions,
    rows_to_compare,
    spans_of,
)

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Layer:
    """One transformer layer as calls; ``after`` takes what attention gave and the layer's input."""

    query: Map
    key: Map
    value: Map
    after: Callable[[Tensor, Tensor], Tensor]
    n_heads: int


class PackedBlend:
    """Logits of the blend's network, weights for each text.

    Raises ``AttributeError`` for layers or a head of another make.
    """

    def __init__(self, blend: Blend) -> None:
        network: Any = blend.network
        self._blend, self._base = blend, network.base_model
        self._is_distilbert = self._base.config.model_type == "distilbert"
        self._layers = [(_distilbert_layer if self._is_distilbert else _bert_layer)(one) for one in layers_of(network)]
        head = head_of(network)
        if head is None:
            raise AttributeError(f"{type(network).__name__} has a head of another make")
        self._head, self._read = head

    def __call__(self, weights: Tensor, rows: Sequence[Row]) -> Tensor:
        """[n_rows, n_classes] from weights [n_rows, n_members]. Rows are sorted by length, and none is empty."""
        spans, n = spans_of([len(row) for row in rows]), len(rows)
        of_token = torch.from_numpy(np.repeat(np.arange(n), [len(row) for row in rows]))
        with self._blend.weighted(_filled(weights[of_token])):
            x = self._embedded(rows)
            for layer in self._layers[:-1]:
                qkv = torch.cat([layer.query(x), layer.key(x), layer.value(x)], dim=1)
                x = layer.after(_filled(attended(qkv[: spans[-1].end], spans, layer.n_heads)), x)
            last = self._layers[-1]
            keys_values = torch.cat([last.key(x), last.value(x)], dim=1)
        with self._blend.weighted(_filled(weights)):
            x = _filled(x[first_tokens(spans)])
            first = attended_first(last.query(x)[:n], keys_values, spans, last.n_heads)
            return self._read(self._head, last.after(_filled(first), x))[:n]

    def _embedded(self, rows: Sequence[Row]) -> Tensor:
        """[n_tokens, hidden]; a few tokens are in the company of others, as in ``packed``."""
        embeddings = self._base.embeddings
        pad = embeddings.position_embeddings.padding_idx
        places = [positions(row, pad) for row in rows]
        ids, at = (_filled(torch.from_numpy(np.concatenate(found))) for found in (rows, places))
        x = embeddings.word_embeddings(ids)
        if not self._is_distilbert:
            x = x + embeddings.token_type_embeddings(torch.zeros_like(ids))
        x = embeddings.LayerNorm(x + embeddings.position_embeddings(at))
        projection = getattr(self._base, "embeddings_project", None)
        found: Tensor = x if projection is None else projection(x)
        return found


def packed_blend(blend: Blend) -> PackedBlend | None:
    """The blend's packed pass, or None where the network is of another make or would give another result.

    The network is in float32, in eval mode and on the CPU.
    """
    if not of_known_make(blend.network):
        return None
    try:
        packed = PackedBlend(blend)
    except AttributeError:  # a layer holds something else
        return None
    rows = rows_to_compare(blend.network)
    weights = torch.rand(len(rows), blend.n_members, generator=torch.Generator().manual_seed(0)).softmax(1)
    with torch.no_grad():
        expected = torch.cat(
            [blend(weights[i : i + 1], input_ids=torch.tensor(row)[None]) for i, row in enumerate(rows)]
        )
        same = torch.allclose(packed(weights, rows), expected, atol=TOLERANCE, rtol=TOLERANCE)
    return packed if same else None


def _filled(x: Tensor) -> Tensor:
    """At least ``MIN_ROWS`` rows: matrix products of fewer take other kernels, which round differently."""
    missing = MIN_ROWS - len(x)
    return x if missing <= 0 else F.pad(x, (*[0] * (2 * x.ndim - 1), missing))


def _bert_layer(layer: Any) -> _Layer:
    inner = layer.attention.self

    def after(mixed: Tensor, x: Tensor) -> Tensor:
        x = layer.attention.output(mixed, x)
        found: Tensor = layer.output(layer.intermediate(x), x)
        return found

    return _Layer(inner.query, inner.key, inner.value, after, inner.num_attention_heads)


def _distilbert_layer(layer: Any) -> _Layer:
    inner = layer.attention

    def after(mixed: Tensor, x: Tensor) -> Tensor:
        x = layer.sa_layer_norm(inner.out_lin(mixed) + x)
        found: Tensor = layer.output_layer_norm(layer.ffn(x) + x)
        return found

    return _Layer(inner.q_lin, inner.k_lin, inner.v_lin, after, inner.n_heads)
