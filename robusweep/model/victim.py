"""The victim made from a model: texts or token ids in, logits out; nothing is padded without need or computed twice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from robusweep.examples import Gradient, Row
from robusweep.queries import QueryMemory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from robusweep.model.loading import TextModel

Precision = Literal["fp32", "bf16"]
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}  # fill a forward pass: float32 from 1, bfloat16 from 2 thousand
ROWS_OF_WEIGHTS = 32  # texts whose mixing weights are computed at once
MAX_PIECES = 2**17  # parts of texts whose token ids are remembered
Forward = Callable[[Sequence[Row]], "Tensor"]  # rows sorted by length -> [n_rows, n_classes]


@dataclass(frozen=True)
class Passes:
    """How a victim comes to its logits.

    ``rows``: the pass over one batch, which is ``padded`` to its longest row or not. ``embedded``: float32 logits [1,
    n_classes] of one text's word embeddings [1, n_tokens, width] and token ids, with a gradient at the former;
    ``table``: the embeddings of all tokens. ``weights``: the mixing weights [n_rows, n_members] of a batch, where they
    depend on the text.
    """

    rows: Forward
    padded: bool
    embedded: Callable[[Tensor, Row], Tensor]
    table: Tensor
    weights: Forward | None = None


def victim(
    model: TextModel,
    parameters: Mapping[str, Tensor],
    *,
    precision: Precision,
    memory: QueryMemory | None = None,
) -> ModelVictim:
    """The system that an attack queries: the model with these parameters put in place. It owns its copy.

    ``memory`` holds what this very victim has answered before; its answers come from there.
    """
    return ModelVictim(model, passes(filled(model, parameters), model, precision), memory=memory)


def victims(
    model: TextModel,
    parameters: Mapping[str, Tensor],
    *,
    bf16: bool,
    memory: Callable[[str], QueryMemory] = lambda _precision: QueryMemory(),
) -> tuple[ModelVictim, ModelVictim]:
    """(fast, exact): one model in bfloat16 and in float32, or twice the same object without ``bf16``.

    ``memory`` gives what each precision has answered before.
    """
    network = filled(model, parameters)
    exact = ModelVictim(model, passes(network, model, "fp32"), memory=memory("fp32"))
    return (ModelVictim(model, passes(network, model, "bf16"), memory=memory("bf16")) if bf16 else exact), exact


def filled(model: TextModel, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model's network with these parameters in place of its own, in float32 and in eval mode."""
    import torch

    network: nn.Module = copy.deepcopy(model.network).float().eval()
    own = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
    return network


class ModelVictim:
    """A model as a ``TokenVictim``.

    Texts are grouped by length into batches of about ``TOKENS_PER_BATCH`` tokens. On a CPU nothing is padded and the
    last layer computes the first token alone, where the architecture is one that ``robusweep.packed`` knows; elsewhere
    a batch is padded to its longest text. With ``bf16`` the weights are held in bfloat16.
    """

    def __init__(self, model: TextModel, passes: Passes, *, memory: QueryMemory | None = None) -> None:
        self._model, self.passes = model, passes
        self._asked = _Asked(model, passes, QueryMemory() if memory is None else memory)
        self._pieces: dict[str, Row] = {}
        self._around = _special_tokens(model.tokenizer)
        self._temperature = 1.0

    def tempered(self, temperature: float | None) -> ModelVictim:
        """The same predictions with logits divided by the temperature; all else is shared."""
        found = copy.copy(self)
        found._temperature = 1.0 if temperature is None else temperature
        return found

    def forgetful(self) -> ModelVictim:
        """The same victim without its memory of earlier answers."""
        found = copy.copy(self)
        found._asked = self._asked.without_memory()
        return found

    @property
    def n_asked(self) -> int:
        """How many rows were asked about, remembered ones included."""
        return self._asked.n_asked

    @property
    def n_computed(self) -> int:
        """How many rows went through the network; the others were remembered."""
        return self._asked.n_computed

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n_texts, n_classes], float32."""
        return self.logits(self.rows(texts))

    def rows(self, texts: Sequence[str]) -> list[Row]:
        """The token ids of each text, cut to the model's length, with special tokens around."""
        return [np.asarray(ids, dtype=np.int64) for ids in self._model.tokens(texts)]

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """[n_rows, n_classes], float32; equal rows have equal logits."""
        return self._asked.answers(rows) * np.float32(1.0 / self._temperature)

    def pieces(self, parts: Sequence[str]) -> list[Row]:
        """The token ids of each part of a text, without special tokens."""
        new = [part for part in dict.fromkeys(parts) if part not in self._pieces]
        if len(self._pieces) + len(new) > MAX_PIECES:
            self._pieces.clear()
            new = list(dict.fromkeys(parts))
        if new:
            ids = self._model.tokenizer(new, add_special_tokens=False)["input_ids"]
            self._pieces.update((part, np.asarray(row, dtype=np.int64)) for part, row in zip(new, ids, strict=True))
        return [self._pieces[part] for part in parts]

    def row(self, ids: Sequence[Row]) -> Row:
        """The ids of a text's parts, joined, cut to the model's length, with special tokens around."""
        before, after = self._around
        joined = np.concatenate([before, *ids, after])
        longest = self._model.max_tokens
        return joined if len(joined) <= longest else np.concatenate([joined[: longest - len(after)], after])

    def embeddings(self, ids: Row) -> NDArray[np.float32]:
        """[n_ids, width]: the word embeddings of these token ids."""
        found: NDArray[np.float32] = self.passes.table.detach()[ids].cpu().numpy()
        return found

    def gradients(self, texts: Sequence[str]) -> list[Gradient]:
        """The gradient of the cross-entropy of each text's own prediction at its word embeddings, in float32."""
        import torch

        found = []
        for ids in self._model.tokens(texts):
            embedded = self.passes.table.detach()[torch.tensor([ids], device=self._model.device)].requires_grad_(True)
            logits = self.passes.embedded(embedded, np.asarray(ids)) / self._temperature
            loss = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1))
            (values,) = torch.autograd.grad(loss, embedded)
            tokens = tuple(self._model.tokenizer.convert_ids_to_tokens(ids))
            found.append(Gradient(np.asarray(ids, dtype=np.int64), tokens, values[0].cpu().numpy()))
        return found

    def weights(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """[n_texts, n_members]: how much of each adapter answers each text; None where all texts have the same."""
        if self.passes.weights is None:
            return None
        rows = self.rows(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: dict[int, NDArray[np.float32]] = {}
        for begin in range(0, len(order), ROWS_OF_WEIGHTS):
            batch = order[begin : begin + ROWS_OF_WEIGHTS]
            weights = self.passes.weights([rows[i] for i in batch]).float().cpu().numpy()
            found.update(zip(batch, weights, strict=True))
        return np.stack([found[i] for i in range(len(rows))])


def key_of(row: Row) -> bytes:
    """What a ``QueryMemory`` knows a row of token ids by."""
    return blake2b(row.tobytes(), digest_size=16).digest()


class _Asked:
    """The network and what it has answered."""

    def __init__(self, model: TextModel, passes: Passes, memory: QueryMemory) -> None:
        self._n_classes, self._memory = len(model.label_names), memory
        self._tokens_per_batch = TOKENS_PER_BATCH[model.device.split(":")[0]]
        self._forward, self._padded = passes.rows, passes.padded
        self.n_asked = self.n_computed = 0

    def without_memory(self) -> _Asked:
        found = copy.copy(self)
        found._memory = QueryMemory()
        return found

    def answers(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self._n_classes), dtype=np.float32)
        self.n_asked += len(rows)
        keys = [key_of(row) for row in rows]
        known = self._memory.recall(keys)
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        order = sorted(new, key=lambda key: len(new[key]))
        for batch in self._batches(order, new):
            logits = self._forward([new[key] for key in batch]).float().cpu().numpy()
            self.n_computed += len(batch)
            known.update(zip(batch, logits, strict=True))
            self._memory.remember(batch, logits)
        return np.stack([known[key] for key in keys])

    def _batches(self, order: Sequence[bytes], rows: Mapping[bytes, Row]) -> list[list[bytes]]:
        """Keys in the same order, in groups of at most ``TOKENS_PER_BATCH`` computed tokens."""
        batches: list[list[bytes]] = []
        n_tokens = 0
        for key in order:
            length = len(rows[key])
            n_tokens = (len(batches[-1]) + 1) * length if batches and self._padded else n_tokens + length
            if not batches or n_tokens > self._tokens_per_batch:
                batches.append([])
                n_tokens = length
            batches[-1].append(key)
        return batches


def passes(network: nn.Module, model: TextModel, precision: Precision) -> Passes:
    """Those of one network, which is in float32 and in eval mode."""
    import torch

    from robusweep.packed import pack

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    encoder = pack(network, dtype) if model.device == "cpu" else None
    read = head_of(network, dtype)
    embedded, table = embedded_by(network)
    if encoder is not None and read is not None:
        return Passes(torch.inference_mode()(lambda rows: read(encoder.first(rows))), False, embedded, table)
    cast = network if precision == "fp32" else copy.deepcopy(network).to(dtype)

    @torch.inference_mode()
    def padded(rows: Sequence[Row]) -> Tensor:
        logits: Tensor = cast(**padded_to_longest(rows, model)).logits
        return logits

    return Passes(padded, True, embedded, table)


def embedded_by(network: Any) -> tuple[Callable[[Tensor, Row], Tensor], Tensor]:
    """(word embeddings [1, n_tokens, width] and token ids -> logits, the embeddings of all tokens)."""
    return lambda embedded, _ids: network(inputs_embeds=embedded).logits, network.get_input_embeddings().weight


def padded_to_longest(rows: Sequence[Row], model: TextModel) -> dict[str, Tensor]:
    """What a network takes: token ids [n_rows, longest], padded on the right, and the mask of what is real."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[model.pad_id] * (longest - len(row))] for row in rows], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    mask = (torch.arange(longest, device=model.device) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def head_of(network: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """First tokens [n, hidden] -> logits [n, n_classes], for the architectures of ``robusweep.packed``; else None.

    It owns its copy of the head, in ``dtype``.
    """
    import torch

    from robusweep import packed

    found = packed.head_of(network)
    if found is None:
        return None
    parts, read = found
    own = [copy.deepcopy(part).to(dtype) for part in parts]

    def read_padded(first: Tensor) -> Tensor:
        n = len(first)
        return read(own, torch.nn.functional.pad(first, (0, 0, 0, max(0, packed.MIN_ROWS - n))))[:n]

    return read_padded


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[Row, Row]:
    """The ids that the tokenizer puts before and after a text."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    begin = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return np.asarray(whole[:begin], dtype=np.int64), np.asarray(whole[begin + len(bare) :], dtype=np.int64)
