"""Victims made of several: adapters mixed anew for each text, their answers mixed, or one put on a large model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from robusweep.examples import Row
from robusweep.model.victim import ModelVictim, Passes, Precision, embedded_by, filled, padded_to_longest
from robusweep.queries import QueryMemory

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.mixture import Member
    from robusweep.model.loading import TextModel


def per_text_victim(
    model: TextModel,
    answering: Sequence[ModelVictim],
    members: Sequence[Member],
    rule: str,
    keys: Mapping[str, Any],
    *,
    factored: bool,
    precision: Precision,
    memory: QueryMemory | None = None,
) -> ModelVictim:
    """The model with its members mixed anew for each text, by a rule of ``robusweep.mixture.RULES``.

    ``answering``: each member alone, in the same precision; what they remember is not computed again. A text's weights
    depend on that text alone. Gradients go through the rule, too, but not through the steps of ``emea``.
    """
    import torch

    from robusweep.mixture import Blend, Mixture
    from robusweep.packed_blend import PackedBlend, packed_blend

    network = filled(model, {}).requires_grad_(False)
    exact = mixture = Mixture(Blend(network, members, factored=factored), rule, keys)
    packed = packed_blend(exact.blend) if model.device == "cpu" else None
    if precision == "bf16":
        cast = copy.deepcopy(network).to(torch.bfloat16)
        mixture = Mixture(Blend(cast, members, factored=factored), rule, keys)
        packed = packed and PackedBlend(mixture.blend)

    def each(rows: Sequence[Row]) -> Tensor:
        """[members, rows, classes]"""
        return torch.from_numpy(np.stack([victim.logits(rows) for victim in answering])).to(model.device)

    def pass_over(rows: Sequence[Row]) -> Callable[[Tensor], Tensor]:
        """Weights [rows, members] -> logits."""
        return partial(packed, rows=rows) if packed else partial(mixture.blend, **padded_to_longest(rows, model))

    @torch.no_grad()
    def weights(rows: Sequence[Row]) -> Tensor:
        return mixture.weights(each(rows), pass_over(rows))

    @torch.no_grad()
    def mixed(rows: Sequence[Row]) -> Tensor:
        answer = pass_over(rows)
        return answer(mixture.weights(each(rows), answer))

    _, table = embedded_by(network)
    words: Any = network.get_input_embeddings()  # type: ignore[operator]

    def embedded(at: Tensor, ids: Row) -> Tensor:
        """``at`` less the base's word embeddings is added to each member's own."""
        row = torch.from_numpy(ids)[None].to(model.device)
        shift = at - table.detach()[row]
        hook = words.register_forward_hook(lambda _module, _ids, found: found + shift)
        try:
            logits, _ = exact(input_ids=row)
        finally:
            hook.remove()
        return logits

    return ModelVictim(model, Passes(mixed, packed is None, embedded, table, weights), memory=memory)


def of_logits_victim(
    model: TextModel,
    answering: Sequence[ModelVictim],
    combine: Callable[[Tensor], Tensor],
    *,
    n_constant: int = 0,
    memory: QueryMemory | None = None,
) -> ModelVictim:
    """The victim whose logits are ``combine`` of those of all ``answering``, [members, texts, classes].

    Their rows of token ids mean the same. Gradients are those of one shift of everyone's word embeddings, and not
    through the last ``n_constant``, whose embeddings are of another model.
    """
    import torch

    first = answering[0].passes

    def rows(rows: Sequence[Row]) -> Tensor:
        return combine(torch.from_numpy(np.stack([victim.logits(rows) for victim in answering])))

    def embedded(at: Tensor, ids: Row) -> Tensor:
        n = len(answering) - n_constant
        row = torch.from_numpy(ids).to(at.device)
        shift = at - first.table.detach()[row]
        found = [v.passes.embedded(v.passes.table.detach()[row] + shift, ids) for v in answering[:n]]
        found += [torch.from_numpy(victim.logits([ids])).to(at.device) for victim in answering[n:]]
        return combine(torch.stack(found))

    return ModelVictim(model, Passes(rows, first.padded, embedded, first.table), memory=memory)
