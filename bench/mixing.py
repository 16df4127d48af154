"""What mixing adapters costs, in plain forward passes of the same victim over the same texts, in one run.

    python bench/mixing.py                        # MiniLM on film reviews; some minutes
    python bench/mixing.py --parts lambda --bf16  # one part, in bfloat16

``lambda``: clean accuracy at one more mixing weight, the mixed weights made and packed included, for LoRA-like adapters
in all layers (wanted: at most 1.1) and in the top 2 (at most 0.30). It is (11 weights - 1 weight) / 10.

``per_text``: a pass whose adapters are mixed with other weights for each text, padded beside the same padded pass of
the plain network, and without padding, as attacks ask it, beside a plain victim's; and a text's whole answer under
``entropy_ratio``, a pass of each adapter for the entropies included.

One thread. Variants take turns in random order, and times are CPU times of the process. Printed are medians of ratios
within a round, with their quartiles. ``F`` is one pass of a victim over all texts. Memory that was freed stays with the
process: otherwise glibc hands large blocks back in mid-pass, or not, as what else lies in the heap has it, and the page
faults are up to a tenth of a pass. ``--trim`` leaves the allocator as it is.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusweep import defended
from robusweep import model as model_stage
from robusweep.data import load
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.examples import Row
from robusweep.memory import keep_freed_memory
from robusweep.mixing import PerText, TrainedSet
from robusweep.mixing.convex import convex
from robusweep.mixture import Blend, Factors, Member, folded
from robusweep.model.shared_trunk import answers_of_all
from robusweep.model.victim import TOKENS_PER_BATCH, padded_to_longest
from robusweep.packed import layers_of
from robusweep.packed_blend import PackedBlend
from robusweep.queries import QueryMemory

SEED, RANK = 0, 8
N_PLAIN = 4  # plain passes that are timed together
WEIGHTS = [i / 10 for i in range(11)]

Work = Callable[[], object]


class Forgetful(QueryMemory):
    """Remembers nothing."""

    def remember(self, keys: Sequence[bytes], logits: NDArray[np.float32]) -> None: ...


class Ground:
    """The encoder with a fresh head, and real texts as rows of token ids."""

    def __init__(self, *, n_texts: int, bf16: bool) -> None:
        data = load(RottenTomatoes(n_train=n_texts, n_validation=100, n_calibration=100, n_test=100), SEED)
        encoder = model_stage.BaseEncoder(base="minilm_l6", max_tokens=128, dropout=0.0)
        self.base = model_stage.load(encoder, data.label_names, seed=SEED, device="cpu")
        self.bf16 = bf16
        self.victim = model_stage.victim(self.base, {}, precision="bf16" if bf16 else "fp32")
        self.rows = self.victim.rows([example.text for example in data.train])

    def plain(self) -> None:
        """``N_PLAIN`` passes of the victim over all texts."""
        for _ in range(N_PLAIN):
            self.victim.forgetful().logits(self.rows)

    def adapters(self, n: int = 2, *, n_top: int | None = None) -> list[dict[str, Tensor]]:
        """What adapters would put in place: heads, and changes of query and value in the ``n_top`` highest layers."""
        draws, network = torch.Generator().manual_seed(SEED), self.base.network
        own, n_layers = dict(network.named_parameters()), len(layers_of(network))
        layers = range(n_layers - (n_top or n_layers), n_layers)
        maps = [f"bert.encoder.layer.{i}.attention.self.{role}.weight" for i in layers for role in ("query", "value")]
        found = []
        for _ in range(n):
            new: dict[str, Tensor] = {}
            for name in maps:
                up, down = (torch.randn(size, RANK, generator=draws) for size in own[name].shape)
                new[name] = own[name].detach() + 0.01 * up @ down.T
            for name in model_stage.head_names(network):
                new[name] = own[name].detach() + 0.01 * torch.randn(own[name].shape, generator=draws)
            found.append(new)
        return found

    def members(self, n: int) -> list[Member]:
        """LoRA adapters on query and value of all layers, as factors, with heads."""
        draws, own = torch.Generator().manual_seed(SEED), dict(self.base.network.named_parameters())
        maps = [name for name in own if name.endswith(("query.weight", "value.weight"))]
        found = []
        for _ in range(n):
            factors = {}
            for name in maps:
                up, down = (torch.randn(size, RANK, generator=draws) for size in own[name].shape)
                factors[name.removesuffix(".weight")] = Factors(down.T.contiguous(), 0.01 * up)
            heads = model_stage.head_names(self.base.network)
            found.append(
                Member({h: own[h] + 0.01 * torch.randn(own[h].shape, generator=draws) for h in heads}, factors)
            )
        return found

    def batches(self) -> list[dict[str, Tensor]]:
        """All texts, sorted by length, padded, about 2,048 tokens at a time."""
        rows, found = sorted(self.rows, key=len), list[list[Row]]()
        for row in rows:
            if not found or (len(found[-1]) + 1) * len(row) > TOKENS_PER_BATCH["cpu"]:
                found.append([])
            found[-1].append(row)
        return [padded_to_longest(batch, self.base) for batch in found]

    def packs(self) -> list[list[Row]]:
        """All texts, sorted by length, about 2,048 of their own tokens at a time."""
        found: list[list[Row]] = []
        for row in sorted(self.rows, key=len):
            if not found or sum(map(len, found[-1])) + len(row) > TOKENS_PER_BATCH["cpu"]:
                found.append([])
            found[-1].append(row)
        return found

    def scoring(self, adapters: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Work:
        """The answers to all texts at each weight of the second of two adapters."""

        def work() -> list[NDArray[np.float32]]:
            mixes = [convex(adapters, [1.0 - weight, weight]) for weight in weights]
            return answers_of_all(self.base, mixes, self.rows, bf16=self.bf16)

        return work


# ------------------------------------------------------------------------------------------- the measurement
def measured(works: Mapping[str, Work], *, rounds: int) -> dict[str, NDArray[np.float64]]:
    """CPU seconds of each variant by round; the first round warms up and does not count."""
    rng, seconds = random.Random(SEED), {name: list[float]() for name in works}
    for turn in range(rounds + 1):
        for name in rng.sample(list(works), len(works)):
            began = time.process_time()
            works[name]()
            if turn:
                seconds[name].append(time.process_time() - began)
    return {name: np.array(found) for name, found in seconds.items()}


def shown(ratios: NDArray[np.float64]) -> str:
    """The median with its quartiles."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


# ------------------------------------------------------------------------------------------------- the parts
def price_of_a_weight(ground: Ground, rounds: int) -> None:
    """Clean accuracy at one more mixing weight."""
    works: dict[str, Work] = {"plain": ground.plain}
    places = {"all layers": (None, 1.1), "top 2 layers": (2, 0.30)}
    for place, (n_top, _) in places.items():
        adapters = ground.adapters(n_top=n_top)
        works[f"1, {place}"] = ground.scoring(adapters, [0.5])
        works[f"11, {place}"] = ground.scoring(adapters, WEIGHTS)
    seconds = measured(works, rounds=rounds)
    f = seconds["plain"] / N_PLAIN
    print(f"{'adapters in':14} {'one more weight, in F':>24} {'wanted':>8} {'11 weights, in F':>26}")
    for place, (_, wanted) in places.items():
        one, eleven = seconds[f"1, {place}"], seconds[f"11, {place}"]
        price = (eleven - one) / (len(WEIGHTS) - 1) / f
        print(f"{place:14} {shown(price):>24} {f'<= {wanted:.2f}':>8} {shown(eleven / f):>26}")
    print(f"F: {np.median(f):.3f} CPU-seconds")


def price_of_a_mix_per_text(ground: Ground, rounds: int) -> None:
    """Adapters mixed anew for each text."""
    batches, packs, dtype = ground.batches(), ground.packs(), torch.bfloat16 if ground.bf16 else torch.float32
    network = model_stage.filled(ground.base, {}).to(dtype).requires_grad_(False)
    identity = model_stage.identity(model_stage.BaseEncoder(base="minilm_l6"))

    @torch.no_grad()
    def padded() -> None:
        for batch in batches:
            network(**batch)

    works: dict[str, Work] = {"plain": ground.plain, "padded": padded}
    for m in (1, 3):
        members = ground.members(1 + m)
        blend, shares = Blend(network, members), torch.rand(max(map(len, packs)), 1 + m)
        own = dict(ground.base.network.named_parameters())
        adapters = TrainedSet(
            [f"a{i}" for i in range(1 + m)], own, [folded(member, own) for member in members], members, []
        )
        rule = PerText(adapters, "entropy_ratio")
        fast, _ = defended.victims(rule, ground.base, identity, bf16=ground.bf16, memory=lambda _d, _p: Forgetful())

        @torch.no_grad()
        def mixed(blend: Blend = blend, shares: Tensor = shares) -> None:
            for batch in batches:
                blend(shares[: len(batch["input_ids"])].softmax(1), **batch)

        packed = PackedBlend(blend)

        @torch.no_grad()
        def without_padding(packed: PackedBlend = packed, shares: Tensor = shares) -> None:
            for batch in packs:
                packed(shares[: len(batch)].softmax(1), batch)

        works |= {f"mixed, m = {m}": mixed, f"packed, m = {m}": without_padding}
        works |= {f"answered, m = {m}": partial(fast.logits, ground.rows)}
    seconds = measured(works, rounds=rounds)
    f = seconds["plain"] / N_PLAIN
    columns = {"padded, in padded passes": 24, "without padding, in F": 23, "whole answer, in F": 23, "m + 2": 6}
    print("one mixed pass", *(f"{name:>{width}}" for name, width in columns.items()))
    for m in (1, 3):
        found = seconds[f"mixed, m = {m}"] / seconds["padded"], seconds[f"packed, m = {m}"] / f
        cells = [*map(shown, found), shown(seconds[f"answered, m = {m}"] / f), str(m + 2)]
        print(f"m = {m:<10}", *(f"{cell:>{width}}" for cell, width in zip(cells, columns.values(), strict=True)))
    print(f"padded pass: {np.median(seconds['padded'] / f):.2f} F")


PARTS: dict[str, Callable[[Ground, int], None]] = {"lambda": price_of_a_weight, "per_text": price_of_a_mix_per_text}


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--texts", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--trim", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.trim:
        keep_freed_memory()
    ground = Ground(n_texts=asked.texts, bf16=asked.bf16)
    precision, n_tokens = "bf16" if asked.bf16 else "fp32", sum(map(len, ground.rows))
    print(f"{asked.texts} texts, {n_tokens} tokens, {precision}, {asked.rounds} rounds, one thread", flush=True)
    for part in asked.parts:
        print(f"\n{part}: {PARTS[part].__doc__}", flush=True)
        PARTS[part](ground, asked.rounds)


if __name__ == "__main__":
    main()
