"""A forward pass without padding: the tokens of many texts in one row, for BERT, RoBERTa, ELECTRA and DistilBERT.

Linear maps see real tokens only; attention runs once for each group of texts of equal length, without a mask. Where
only a text's first token is read, the last layer computes that token alone. Both are exact: what comes out differs
from the model's own forward pass by rounding. A text's result does not depend on what else is in a batch, as long as
the machine's matrix product treats each row alike; ``MIN_ROWS`` keeps it from the special cases for a few rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusweep.examples import Row

Affine = tuple[Tensor, Tensor | None]  # weight and bias of a linear map
Norm = tuple[Tensor, Tensor, float]  # weight, bias and epsilon of a LayerNorm
Embed = Callable[[Sequence[Row]], Tensor]  # rows -> [n_tokens, hidden]

MIN_ROWS = 16  # matrix products of fewer rows take other kernels, which round differently
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
TOLERANCE = 1e-4  # of a hidden state against the model's own; on a CPU it is about 1e-6


@dataclass(frozen=True)
class Layer:
    """The weights of one transformer layer whose LayerNorms follow the residual connections."""

    qkv: Affine  # query, key and value maps, one below the other
    output: Affine
    attention_norm: Norm
    up: Affine
    down: Affine
    output_norm: Norm
    n_heads: int
    activation: Callable[[Tensor], Tensor]

    @property
    def width(self) -> int:
        """Rows of the query map: fewer than the hidden size where heads were removed."""
        return self.qkv[0].shape[0] // 3


@dataclass(frozen=True)
class Span:
    """Neighbouring rows of equal length: rows ``first`` to ``first + n``, tokens ``begin`` to ``end``."""

    begin: int
    end: int
    n: int
    length: int
    first: int


class PackedEncoder:
    """The encoder of a network in ``dtype``. The rows of a call are sorted by length, and none is empty."""

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        base: Any = network.base_model
        embed = _distilbert_embed if base.config.model_type == "distilbert" else _bert_embed
        self._dtype, self._embed = dtype, embed(base, dtype)
        self._layers = _layers(network, dtype)

    @property
    def n_layers(self) -> int:
        return len(self._layers)

    def with_top_of(self, network: nn.Module, n_layers: int) -> PackedEncoder:
        """The embeddings and the first ``n_layers`` layers of this encoder, below the other layers of ``network``."""
        found = copy.copy(self)
        found._layers = self._layers[:n_layers] + _layers(network, self._dtype, begin=n_layers)
        return found

    def first(self, rows: Sequence[Row]) -> Tensor:
        """[n_rows, hidden]: the last hidden state of each row's first token."""
        below = self.n_layers - 1
        return self.first_from(*self.trunk(rows, below), below)

    @torch.inference_mode()
    def trunk(self, rows: Sequence[Row], n_layers: int) -> tuple[Tensor, list[Span]]:
        """([n_tokens, hidden] after the first ``n_layers`` layers, where each row's tokens are)."""
        x, spans = self._embed(rows), spans_of([len(row) for row in rows])
        for layer in self._layers[:n_layers]:
            x = _layer(layer, x, spans)
        return x, spans

    @torch.inference_mode()
    def first_from(self, x: Tensor, spans: Sequence[Span], n_layers: int) -> Tensor:
        """``first`` from what ``trunk`` gave after ``n_layers`` layers, which are not all."""
        for layer in self._layers[n_layers:-1]:
            x = _layer(layer, x, spans)
        return _first_tokens(self._layers[-1], x, spans)

    @torch.inference_mode()
    def mean(self, rows: Sequence[Row]) -> Tensor:
        """[n_rows, hidden]: the mean of the last hidden state over each row's tokens."""
        x, spans = self.trunk(rows, self.n_layers)
        return torch.cat([x[s.begin : s.end].view(s.n, s.length, -1).mean(dim=1) for s in spans])


def of_known_make(network: nn.Module) -> bool:
    """Whether its configuration is one that a packed pass may know; whether it gives the same is seen by trying."""
    config: Any = getattr(network, "config", None)
    is_encoder = getattr(config, "model_type", None) in FAMILIES and not getattr(config, "is_decoder", False)
    return is_encoder and getattr(config, "position_embedding_type", "absolute") == "absolute"


def rows_to_compare(network: nn.Module) -> list[Row]:
    """A few rows, sorted by length, on which a packed pass is held against the network's own."""
    config: Any = network.config
    return [np.arange(3, 3 + n) % config.vocab_size for n in (2, 7, 7, 19)]


def pack(network: nn.Module, dtype: torch.dtype = torch.float32) -> PackedEncoder | None:
    """The packed encoder of a network, or None where it is of another make or would give another result.

    ``network`` is in float32, in eval mode and on the CPU.
    """
    if not of_known_make(network):
        return None
    try:
        packed = PackedEncoder(network)
    except AttributeError:  # a layer holds something else: an adapter, a quantised map
        return None
    rows = rows_to_compare(network)
    base: Any = network.base_model
    with torch.inference_mode():
        expected = torch.stack([base(input_ids=torch.from_numpy(row)[None])[0][0, 0] for row in rows])
    if not torch.allclose(packed.first(rows), expected, atol=TOLERANCE, rtol=TOLERANCE):
        return None
    return packed if dtype == torch.float32 else PackedEncoder(network, dtype)


# --------------------------------------------------------------------------------------------- the pass
def spans_of(lengths: Sequence[int]) -> list[Span]:
    """Neighbours of equal length, of rows that are sorted by length."""
    found: list[Span] = []
    first = begin = 0
    while first < len(lengths):
        n = 1
        while first + n < len(lengths) and lengths[first + n] == lengths[first]:
            n += 1
        end = begin + n * lengths[first]
        found.append(Span(begin, end, n, lengths[first], first))
        first, begin = first + n, end
    return found


def _linear(x: Tensor, affine: Affine) -> Tensor:
    """The linear map of [n, in]; a few rows are computed in the company of zeros."""
    missing = MIN_ROWS - len(x)
    if missing <= 0:
        return F.linear(x, *affine)
    return F.linear(F.pad(x, (0, 0, 0, missing)), *affine)[: len(x)]


def _normed(x: Tensor, norm: Norm) -> Tensor:
    weight, bias, epsilon = norm
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)


def _layer(layer: Layer, x: Tensor, spans: Sequence[Span]) -> Tensor:
    """[n_tokens, hidden] -> the same, one layer later."""
    return _after_attention(layer, attended(_linear(x, layer.qkv), spans, layer.n_heads), x)


def _first_tokens(layer: Layer, x: Tensor, spans: Sequence[Span]) -> Tensor:
    """[n_tokens, hidden] -> [n_rows, hidden]: the layer's output at each row's first token."""
    (weight, bias), width = layer.qkv, layer.width
    queries = weight[:width], None if bias is None else bias[:width]
    keys_values = weight[width:], None if bias is None else bias[width:]
    kv = _linear(x, keys_values)
    x = x[first_tokens(spans)]
    return _after_attention(layer, attended_first(_linear(x, queries), kv, spans, layer.n_heads), x)


def attended(qkv: Tensor, spans: Sequence[Span], n_heads: int) -> Tensor:
    """[n_tokens, 3 * width], queries, keys and values side by side -> [n_tokens, width]."""
    mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    for s in spans:
        q, k, v = qkv[s.begin : s.end].view(s.n, s.length, 3, n_heads, -1).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v)
        mixed[s.begin : s.end].view(s.n, s.length, n_heads, -1).copy_(heads.transpose(1, 2))
    return mixed


def attended_first(query: Tensor, keys_values: Tensor, spans: Sequence[Span], n_heads: int) -> Tensor:
    """Queries of first tokens [n_rows, width], and [n_tokens, 2 * width] of all tokens -> [n_rows, width]."""
    mixed = torch.empty_like(query)
    for s in spans:
        k, v = keys_values[s.begin : s.end].view(s.n, s.length, 2, n_heads, -1).permute(2, 0, 3, 1, 4)
        q = query[s.first : s.first + s.n].view(s.n, n_heads, 1, -1)
        mixed[s.first : s.first + s.n] = F.scaled_dot_product_attention(q, k, v).reshape(s.n, -1)
    return mixed


def first_tokens(spans: Sequence[Span]) -> Tensor:
    """[n_rows]: where each row's first token is."""
    return torch.cat([torch.arange(s.begin, s.end, s.length) for s in spans])


def _after_attention(layer: Layer, mixed: Tensor, x: Tensor) -> Tensor:
    x = _normed(_linear(mixed, layer.output) + x, layer.attention_norm)
    wide = layer.activation(_linear(x, layer.up))
    return _normed(_linear(wide, layer.down) + x, layer.output_norm)


# ------------------------------------------------------------------------------------------ the weights
def layers_of(network: nn.Module) -> Sequence[Any]:
    """The transformer layers of a network of ``FAMILIES``, from the lowest."""
    base: Any = network.base_model
    stack = base.transformer if base.config.model_type == "distilbert" else base.encoder
    found: Sequence[Any] = stack.layer
    return found


def _layers(network: nn.Module, dtype: torch.dtype, begin: int = 0) -> list[Layer]:
    base: Any = network.base_model
    read = _distilbert_layer if base.config.model_type == "distilbert" else _bert_layer
    return [read(layer, dtype) for layer in layers_of(network)[begin:]]


def _bert_embed(base: Any, dtype: torch.dtype) -> Embed:
    """Of BERT, RoBERTa and ELECTRA, which name their parts alike."""
    embeddings = base.embeddings
    words = _cast(embeddings.word_embeddings.weight, dtype)
    places = _cast(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0], dtype)
    norm = _norm(embeddings.LayerNorm, dtype)
    projection = getattr(base, "embeddings_project", None)
    projected = None if projection is None else _affine(projection, dtype)
    pad = embeddings.position_embeddings.padding_idx

    def embed(rows: Sequence[Row]) -> Tensor:
        numbered = [positions(row, pad) for row in rows]
        x = _normed(words[_joined(rows)] + places[_joined(numbered)], norm)
        return x if projected is None else _linear(x, projected)

    return embed


def positions(row: Row, pad: int | None) -> Row:
    """The numbers of a row's positions; RoBERTa counts from behind ``pad``, its own, and skips padding."""
    if pad is None:
        return np.arange(len(row))
    real = row != pad
    return np.where(real, np.cumsum(real) + pad, pad)


def _bert_layer(layer: Any, dtype: torch.dtype) -> Layer:
    attention, out = layer.attention.self, layer.attention.output
    return Layer(
        qkv=_stacked([attention.query, attention.key, attention.value], dtype),
        output=_affine(out.dense, dtype),
        attention_norm=_norm(out.LayerNorm, dtype),
        up=_affine(layer.intermediate.dense, dtype),
        down=_affine(layer.output.dense, dtype),
        output_norm=_norm(layer.output.LayerNorm, dtype),
        n_heads=attention.num_attention_heads,
        activation=layer.intermediate.intermediate_act_fn,
    )


def _distilbert_embed(base: Any, dtype: torch.dtype) -> Embed:
    embeddings = base.embeddings
    words = _cast(embeddings.word_embeddings.weight, dtype)
    places = _cast(embeddings.position_embeddings.weight, dtype)
    norm = _norm(embeddings.LayerNorm, dtype)

    def embed(rows: Sequence[Row]) -> Tensor:
        return _normed(words[_joined(rows)] + places[_joined([np.arange(len(row)) for row in rows])], norm)

    return embed


def _distilbert_layer(layer: Any, dtype: torch.dtype) -> Layer:
    attention = layer.attention
    return Layer(
        qkv=_stacked([attention.q_lin, attention.k_lin, attention.v_lin], dtype),
        output=_affine(attention.out_lin, dtype),
        attention_norm=_norm(layer.sa_layer_norm, dtype),
        up=_affine(layer.ffn.lin1, dtype),
        down=_affine(layer.ffn.lin2, dtype),
        output_norm=_norm(layer.output_layer_norm, dtype),
        n_heads=attention.n_heads,
        activation=layer.ffn.activation,
    )


def head_of(network: Any) -> tuple[list[nn.Module], Callable[[Sequence[Any], Tensor], Tensor]] | None:
    """(the modules behind the encoder, what reads first tokens [n, hidden] with them as logits [n, n_classes]).

    None where the head is of another make.
    """
    kind = type(network).__name__
    if kind == "BertForSequenceClassification":  # its pooler reads the first of a sequence of tokens
        return [network.bert.pooler, network.classifier], lambda parts, first: parts[1](parts[0](first[:, None]))
    if kind == "DistilBertForSequenceClassification":
        return [network.pre_classifier, network.classifier], lambda parts, first: parts[1](F.relu(parts[0](first)))
    if kind.removesuffix("ForSequenceClassification") in {"Roberta", "XLMRoberta", "Camembert", "Electra"}:
        return [network.classifier], lambda parts, first: parts[0](first[:, None])
    return None


def _joined(rows: Sequence[Row]) -> Tensor:
    return torch.from_numpy(np.concatenate(rows))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype)


def _affine(linear: Any, dtype: torch.dtype) -> Affine:
    if type(linear) is not nn.Linear:
        raise AttributeError(f"{type(linear).__name__} is not a plain linear map")
    return _cast(linear.weight, dtype), None if linear.bias is None else _cast(linear.bias, dtype)


def _stacked(linears: Sequence[Any], dtype: torch.dtype) -> Affine:
    weights, biases = zip(*(_affine(linear, dtype) for linear in linears), strict=True)
    return torch.cat(weights), None if biases[0] is None else torch.cat(biases)


def _norm(norm: Any, dtype: torch.dtype) -> Norm:
    return _cast(norm.weight, dtype), _cast(norm.bias, dtype), norm.eps
