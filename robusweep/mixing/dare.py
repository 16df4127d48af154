"""DARE (Yu et al., ICML 2024, arXiv:2311.03099): drop changes at random, rescale the rest, then mix."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from robusweep.mixing.base import Fixed, Mixer, System, TrainedSet
from robusweep.seeds import derive


class Dare(Mixer):
    """Each number of each adapter's change survives with chance ``density`` and is divided by it; then a mix by
    ``weight`` as of ``adpmixup``.

    A baseline: in the mean over draws it is the convex combination, in one draw it is not, also at the ends.
    """

    kind: Literal["dare"] = "dare"
    weight: float = Field(0.5, ge=0, le=1)
    density: float = Field(0.5, gt=0, le=1)
    seed: int = Field(0, ge=0)
    needs: ClassVar[tuple[str, ...]] = ("delta",)

    def mix(self, adapters: TrainedSet) -> System:
        import torch

        from robusweep.mixing.convex import convex

        thinned = []
        for i, member in enumerate(adapters.folded):
            draws = torch.Generator().manual_seed(derive(self.seed, "dare", i))
            found = {}
            for name in sorted(member):
                start = adapters.base[name].detach()
                kept = torch.rand(start.shape, generator=draws).to(start.device) < self.density
                found[name] = start + (member[name] - start) * kept / self.density
            thinned.append(found)
        m = len(thinned) - 1
        return Fixed(convex(thinned, [1.0 - self.weight, *[self.weight / m] * m]))
