"""What a system costs to run and to ship: operations and parameters. Counted, not timed: equal on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from robusweep import model as model_stage
from robusweep.mixing import Emulated, Fixed, PerText, System
from robusweep.model import TextModel
from robusweep.model.victim import padded_to_longest
from robusweep.pruned import masks_of

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.mixture import Member

N_LARGE = 8  # large models whose costs are remembered


@dataclass(frozen=True)
class Costs:
    """``inference_flops``: of one text, two for each multiplication with an addition, in linear maps and attention.

    ``n_parameters``: numbers that the shipped system carries; what every adapter replaces counts once for each.
    """

    inference_flops: int
    n_parameters: int


class Meter:
    """Counts for the systems on one base, adapter's modules and ticket included, for a text of ``n_tokens`` tokens.

    Every network that answers counts: mixed answers run each adapter, and weights of each text's own one pass more.
    ``may_be_pruned``: units that no weight reads are taken out first, as an export does; single weights that are zero
    cost what others cost.
    """

    def __init__(self, base: TextModel, *, n_tokens: int, may_be_pruned: bool = False) -> None:
        self._base, self._n_tokens, self._may_be_pruned = base, max(1, n_tokens), may_be_pruned

    def costs(self, system: System) -> Costs:
        network: Any = self._base.network
        if isinstance(system, Fixed):
            smaller = self._without_unread(system) if self._may_be_pruned else None
            if smaller is not None:
                return Costs(_pass_flops(smaller, self._inputs), _n_parameters(smaller))
            return Costs(self._one_pass, _n_parameters(network))
        members = system.adapters.members
        flops, n_parameters = len(members) * self._one_pass, _shipped(network, members)
        if isinstance(system, PerText):
            flops += self._mixed_pass(system)
        elif isinstance(system, Emulated):
            large = _large(system.large, self._base.max_tokens, self._n_tokens)
            flops, n_parameters = flops + large.inference_flops, n_parameters + large.n_parameters
        return Costs(flops, n_parameters)

    @property
    def _inputs(self) -> Mapping[str, Any]:
        return padded_to_longest([np.zeros(self._n_tokens, dtype=np.int64)], self._base)

    @cached_property
    def _one_pass(self) -> int:
        return _pass_flops(self._base.network, self._inputs)

    def _without_unread(self, system: Fixed) -> Any:
        """The network as an export makes it; None where every unit is read."""
        from robusweep.tickets.removal import removed

        masks = masks_of(system.parameters, self._base.network)
        return None if masks is None else removed(self._base.network, masks)

    def _mixed_pass(self, system: PerText) -> int:
        """The rule's own passes, and the one with the weights that it gave."""
        import torch

        from robusweep.mixture import Blend, Mixed, Mixture

        base, members, inputs = self._base, system.adapters.members, self._inputs
        blend = Blend(base.network, members, factored=system.factored)
        mixture = Mixture(blend, system.rule, system.keys)
        answers = torch.zeros(len(members), 1, len(base.label_names), device=base.device)
        mixed: Mixed = partial(blend, **inputs)
        return _flops(base.network, lambda: mixed(mixture.weights(answers, mixed)))


def _pass_flops(network: Any, inputs: Mapping[str, Any]) -> int:
    return _flops(network, lambda: network(**inputs))


def _flops(network: Any, run: Callable[[], object]) -> int:
    """Of what runs, with attention as plain products of matrices: kernels that fuse them are not counted everywhere."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with (
        torch.no_grad(),
        _countable(network),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run()
    return int(counter.get_total_flops())


@contextmanager
def _countable(network: Any) -> Iterator[None]:
    """While open, no parameter has a gradient, which the counter would follow, and attention is no kernel of a library
    of its own, which takes no float32 and hides its products."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    attention = getattr(network.config, "_attn_implementation", None)
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        if attention not in (None, "eager", "sdpa"):
            network.config._attn_implementation = "eager"
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        if attention is not None:
            network.config._attn_implementation = attention


def _n_parameters(network: Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _shipped(network: Module, members: Sequence[Member]) -> int:
    """Of a base with adapters beside it."""
    replaced = set.intersection(*(set(member.parameters) for member in members))
    kept = sum(p.numel() for name, p in network.named_parameters() if name not in replaced)
    factors = [side for m in members for f in m.factors.values() for side in (f.down, f.up)]
    return kept + sum(t.numel() for m in members for t in m.parameters.values()) + sum(t.numel() for t in factors)


@lru_cache(N_LARGE)
def _large(name: str, max_tokens: int, n_tokens: int) -> Costs:
    """Of a classifier by itself."""
    large = model_stage.load_classifier(name, device="cpu", max_tokens=max_tokens)
    return Meter(large, n_tokens=n_tokens).costs(Fixed({}))
