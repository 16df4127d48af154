"""The answers of many parameter sets of one network to the same texts: what lies below their differences runs once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robusweep.examples import Row
from robusweep.model.victim import Forward, ModelVictim, Precision, filled, head_of, passes, victim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robusweep.model.loading import TextModel
    from robusweep.packed import PackedEncoder


def answers_of_all(
    model: TextModel, parameter_sets: Sequence[Mapping[str, Tensor]], rows: Sequence[Row], *, bf16: bool = False
) -> list[NDArray[np.float32]]:
    """Logits [n_rows, n_classes] of each set, bit for bit those of the victim with these parameters in place.

    On a CPU, for the architectures of ``robusweep.packed``, the layers below the lowest in which sets differ run once
    for each batch; memory then holds one network and, of each set, the other layers. Where no layer is shared, sets
    come one after the other.
    """
    import torch

    from robusweep.packed import PackedEncoder

    n_sets, n_classes = len(parameter_sets), len(model.label_names)
    precision: Precision = "bf16" if bf16 else "fp32"
    if n_sets > 1 and model.device == "cpu":
        network = filled(model, parameter_sets[0])
        plain, differing = passes(network, model, precision), _differing(model, parameter_sets)
        n_shared = None if plain.padded else _n_shared(network, differing)  # what is packed is not padded
        if n_shared is not None:
            dtype = torch.bfloat16 if bf16 else torch.float32
            shared = _Shared(PackedEncoder(network, dtype), n_shared, network.to(dtype), differing)
            groups = [range(n_sets)] if n_shared else [range(k, k + 1) for k in range(n_sets)]
            found: list[NDArray[np.float32]] = []
            for group in groups:
                asked = ModelVictim(model, replace(plain, rows=shared.forward(group)))
                found += list(asked.logits(rows).reshape(len(rows), len(group), n_classes).swapaxes(0, 1).copy())
            return found
    return [victim(model, parameters, precision=precision).logits(rows) for parameters in parameter_sets]


@dataclass(frozen=True)
class _Shared:
    """What all sets have in common, and what not.

    ``encoder``: of one of them; its embeddings and first ``n_shared`` layers are those of all. ``network``: in its
    precision. ``differing``: see ``_differing``.
    """

    encoder: PackedEncoder
    n_shared: int
    network: nn.Module
    differing: Mapping[str, Sequence[Tensor]]

    def forward(self, group: Sequence[int]) -> Forward:
        """The pass whose classes are those of the group's sets, side by side: [n_rows, n_sets * n_classes]."""
        import torch

        places = _places(self.network)
        in_layers = [name for name in self.differing if places[name] < self.encoder.n_layers]
        tops: dict[tuple[int, ...], PackedEncoder] = {}
        ends = []
        for k in group:
            _put(self.network, {name: values[k] for name, values in self.differing.items()})
            key = tuple(id(self.differing[name][k]) for name in in_layers)
            if key not in tops:
                tops[key] = self.encoder.with_top_of(self.network, self.n_shared)
            read = head_of(self.network, next(self.network.parameters()).dtype)
            assert read is not None  # or the network would not have been packed
            ends.append((key, read))
        n_trunk = min(self.n_shared, self.encoder.n_layers - 1)

        @torch.inference_mode()
        def side_by_side(rows: Sequence[Row]) -> Tensor:
            trunk = self.encoder.trunk(rows, n_trunk)
            first = {key: top.first_from(*trunk, n_trunk) for key, top in tops.items()}
            return torch.cat([read(first[key]) for key, read in ends], dim=1)

        return side_by_side


def _differing(model: TextModel, parameter_sets: Sequence[Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Name -> its float32 value in each set, where not all are equal; values equal bit by bit are one object."""
    own, found = dict(model.network.named_parameters()), {}
    for name in dict.fromkeys(name for parameters in parameter_sets for name in parameters):
        values: list[Tensor] = []
        for parameters in parameter_sets:
            value = parameters.get(name, own[name]).detach().float().cpu()
            values.append(next((other for other in values if _equal(other, value)), value))
        if any(value is not values[0] for value in values):
            found[name] = values
    return found


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two float32 tensors have the same bits. Quick where they differ, or share memory."""
    import torch

    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def _n_shared(network: nn.Module, differing: Iterable[str]) -> int | None:
    """How many layers lie below all that differs; None where it begins in the embeddings."""
    from robusweep.packed import layers_of

    places = _places(network)
    lowest = min((places[name] for name in differing), default=len(layers_of(network)))
    return None if lowest < 0 else lowest


def _places(network: Any) -> dict[str, int]:
    """Parameter -> the layer it is in, from 0; -1 below the layers, and above them their number."""
    from robusweep.packed import layers_of

    layers, base = layers_of(network), f"{network.base_model_prefix}."
    layer_of = {id(p): i for i, layer in reversed(list(enumerate(layers))) for p in layer.parameters()}

    def place(name: str, parameter: nn.Parameter) -> int:
        above = not name.startswith(base) or name.startswith(f"{base}pooler.")
        return layer_of.get(id(parameter), len(layers) if above else -1)

    return {name: place(name, parameter) for name, parameter in network.named_parameters()}


def _put(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give parameters new values in memory of their own: what was packed keeps the old ones."""
    import torch

    own = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            own[name].data = torch.empty_like(own[name]).copy_(value)
