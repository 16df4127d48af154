"""Adapters that are modules inside the network: what they have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from robusweep.adapters.base import Adapter
from robusweep.adapters.targets import learnt, top_layers
from robusweep.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class InsertedAdapter(Adapter, ABC):
    """Modules of the adapter's own. Mixes are of their weights, which is not the mix of what they compute."""

    folds: ClassVar[bool] = False

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("weights",)

    def host(self, network: Module) -> Module:
        """A copy of the network with the modules, all zero; the given one where it has them already."""
        from robusweep.adapters.hosting import hosted, parts_of

        if parts_of(network):
            return network
        self._check(network)
        try:
            return hosted(network, self.model_dump(mode="json"))
        except ValueError as e:
            raise self._refusal(str(e)) from None

    def attach(self, network: Module, *, head: list[str], seed: int) -> Module:
        """Takes a plain network, or one that ``host`` gave."""
        import torch

        from robusweep.adapters.hosting import insert, parts_of, trained_names

        if not parts_of(network):
            self._check(network)
            try:
                insert(network, self.model_dump(mode="json"))
            except ValueError as e:
                raise self._refusal(str(e)) from None
        rng = torch.Generator().manual_seed(seed)
        for part in parts_of(network):
            part.draw(rng)
        own = trained_names(network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in own or name in head)
        return network

    def _check(self, network: Module) -> None:
        layers = getattr(self, "layers", None)
        if layers is not None:
            top_layers(network, layers)

    def _refusal(self, reason: str) -> RecipeError:
        return RecipeError(
            f"adapter.kind: {self.model_dump()['kind']} can't be put into this model: {reason}",
            hint="use a BERT, RoBERTa, ELECTRA or DistilBERT, or adapter: {kind: lora}",
        )

    def extract(self, adapted: Module) -> dict[str, Tensor]:
        return learnt(adapted)

    def fold(self, base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(base[name]) for name, value in tensors.items()}

    def n_parameters(self, tensors: Mapping[str, Tensor]) -> int:
        return sum(value.numel() for value in tensors.values())
