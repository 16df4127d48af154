"""A point's network, pruned after training: which maps it has, what they read, and the units that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from robusweep import model as model_stage
from robusweep.errors import StageError
from robusweep.mixing import Fixed
from robusweep.model import TextModel
from robusweep.pruning import AnyPruning, Pruning
from robusweep.recipe import Recipe
from robusweep.record import PruningRecord
from robusweep.space import SearchSpace
from robusweep.yaml_source import assign, split_key

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.tickets import Masks

TEXTS_PER_BATCH = 16


def pruned(system: Fixed, pruning: Pruning, base: TextModel, texts: Iterable[str]) -> tuple[Fixed, PruningRecord]:
    """(the system without the weights that go, what it lost), by the first ``n_texts`` of the training texts.

    The parameters are the same, bit for bit, in every process on the same kind of processor: a CPU computes on one
    thread. The very parameters come back where nothing is to go. Raises ``StageError`` for a network of another make.
    """
    from robusweep.model.victim import padded_to_longest
    from robusweep.pruning.walk import Walked, walk

    check_prunable(base)
    network = model_stage.filled(base, system.parameters)
    walked = Walked()
    if pruning.sparsity:
        rows = sorted(base.tokens(list(islice(texts, pruning.n_texts))), key=len)
        batches = [rows[i : i + TEXTS_PER_BATCH] for i in range(0, len(rows), TEXTS_PER_BATCH)]
        with _one_thread():
            walked = walk(network, [padded_to_longest([*map(np.array, b)], base) for b in batches], pruning)
    told = PruningRecord(
        kind=pruning.kind,
        units=pruning.units,
        zeros=_zeros(network, walked.parameters),
        error=sum(walked.errors.values()) / len(walked.errors) if walked.errors else 0.0,
    )
    if not walked.parameters:
        return system, told
    return replace(system, parameters={**system.parameters, **walked.parameters}), told


def pruning_of(recipe: Recipe, params: Mapping[str, Any], space: SearchSpace) -> AnyPruning | None:
    """The recipe's pruning with the values of a point; None where nothing is pruned."""
    tree: dict[str, Any] = {"prune": recipe.prune.model_dump(mode="json") if recipe.prune else None}
    for key, value in space.in_recipe(params).items():
        if split_key(key)[0] == "prune":
            tree = assign(tree, split_key(key), value)
    found: AnyPruning | None = TypeAdapter(AnyPruning | None).validate_python(tree["prune"])
    return found


def check_prunable(base: TextModel) -> None:
    """Raises ``StageError`` for a network whose linear maps are not known."""
    from robusweep.tickets.parts import parts_of

    try:
        parts_of(base.network)
    except StageError as e:
        raise StageError(f"prune: {e.message.removeprefix('ticket: ')}") from None


def masks_of(parameters: Mapping[str, Tensor], network: Module) -> Masks | None:
    """The heads and neurons that are kept, where some are read by zero columns alone: the others can be taken out.

    ``parameters`` stand in place of the network's own. Each layer keeps one of both at least. None where every unit is
    read, and for a network whose layers differ, which is a ticket already.
    """
    from robusweep.tickets import Masks
    from robusweep.tickets.parts import parts_of

    own, names = {**dict(network.named_parameters()), **parameters}, _names(network)
    heads, neurons = [], []
    for parts in parts_of(network):
        of_output, of_down = (own[names[id(linear)]] != 0 for linear in (parts.output, parts.down))
        heads.append(of_output.any(dim=0).view(parts.n_heads, -1).any(dim=1).cpu().numpy())
        neurons.append(of_down.any(dim=0).cpu().numpy())
    layers = [*heads, *neurons]
    if all(kept.all() for kept in layers) or any(len(set(map(len, rows))) > 1 for rows in (heads, neurons)):
        return None
    for kept in layers:
        kept[0] |= not kept.any()
    return Masks(np.stack(heads), np.stack(neurons))


def _names(network: Module) -> dict[int, str]:
    """The name of the weight of each module that has one, by the module's id."""
    return {id(module): f"{name}.weight" for name, module in network.named_modules() if hasattr(module, "weight")}


def _zeros(network: Module, changed: Mapping[str, Tensor]) -> float:
    """The share of zeros among the weights of the layers' linear maps, biases left out."""
    from robusweep.tickets.parts import parts_of

    own, names = {**dict(network.named_parameters()), **changed}, _names(network)
    maps = [m for p in parts_of(network) for m in (p.query, p.key, p.value, p.output, p.up, p.down)]
    weights = [own[names[id(linear)]] for linear in maps]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are taken in one order, whatever number of threads the process has."""
    import torch

    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)
