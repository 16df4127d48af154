"""What a robust early-bird ticket saves: of a step, of a pass, and of a whole adversarial training, in one run.

    python bench/tickets.py                          # MiniLM on film reviews; about 20 minutes on an idle core
    python bench/tickets.py --parts steps where      # single steps and passes, and what they consist of: minutes
    python bench/tickets.py --parts pipeline --texts 320   # an hour; 20 steps an epoch, so --stop online has gaps
    python bench/tickets.py --overlap runs/a runs/b  # masks of finished runs, pair by pair: no measurement

``steps``: training steps and forward passes of networks from which a random ticket's units are removed, beside the
whole one, and how much of the limit by FLOPs that is (wanted of a step: at least 1.7 times as fast with half of the
units, and 0.85 of the limit). FLOPs are those of the encoder's linear maps and attention products over padded batches.

``where``: what the parts of a step take.

``pipeline``: search, drawing, removal and plain fine-tuning, every step of it run, beside FreeLB and PGD of the whole
network over as many epochs, on the same texts in batches of the same size (wanted: at least 6 times as fast as FreeLB
with 5 steps, 10 times as fast as PGD with 10).

One thread; every weight learns, and training runs in the project's own loop. Times are CPU times of the process.
``steps`` takes turns in random order; printed are medians of ratios within a round, with their quartiles. ``pipeline``
runs each variant once from start to end, in random order; the quartiles of its epochs tell how steady the machine was.
The ascent steps of PGD here take the embeddings' gradient alone; code that takes the weights' as well is slower.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robusweep import model as model_stage
from robusweep.adapters import Full
from robusweep.data import load
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.queries import QueryMemory
from robusweep.report.tickets import Overlap, overlap, ticket_masks
from robusweep.tickets import EarlyBird, RandomTicket
from robusweep.tickets.parts import parts_of
from robusweep.tickets.removal import removed
from robusweep.training import TrainingMethod
from robusweep.training.base import Setting
from robusweep.training.batches import grouped_batches
from robusweep.training.freelb import FreeLb
from robusweep.training.loop import fit
from robusweep.training.pgd import Pgd
from robusweep.training.precision import fp32_attention, frozen_in_bf16
from robusweep.training.standard import Standard
from robusweep.training.step import Step

SEED, RADIUS, RATE = 0, 0.1, 2e-5
SEARCH_STEPS, SEARCH_EPOCHS = 5, 0.2
MAPS = ("query", "key", "value", "output", "up", "down")
Size = tuple[float, float]  # (density of heads, of neurons)
Work = Callable[[], float]  # does something and says how many CPU seconds it took


class Forgetful(QueryMemory):
    """Remembers nothing."""

    def remember(self, keys: Sequence[bytes], logits: NDArray[np.float32]) -> None: ...


class Ground:
    """The encoder with a fresh head, and batches of real texts of like length."""

    def __init__(self, *, n_texts: int, n_words: int, batch_size: int, dropout: float | None, bf16: bool) -> None:
        sizes: dict[str, Any] = {"n_validation": 100, "n_calibration": 100, "n_test": 100}
        data = load(RottenTomatoes(n_train=n_texts, max_words=n_words, **sizes), SEED)
        encoder = model_stage.BaseEncoder(base="minilm_l6", max_tokens=128, dropout=dropout)
        self.base = model_stage.load(encoder, data.label_names, seed=SEED, device="cpu")
        self.bf16, self.batch_size = bf16, batch_size
        self.texts = [example.text for example in data.train]
        self.labels = [example.label for example in data.train]
        self.tokens = self.base.tokens(self.texts)
        rng = np.random.default_rng(SEED)
        rows = grouped_batches([len(row) for row in self.tokens], batch_size=batch_size, rng=rng)
        self.batches = [self._batch(row) for row in rows]

    def _batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        longest = max(len(self.tokens[i]) for i in rows)
        ids = torch.tensor([[*self.tokens[i], *[self.base.pad_id] * (longest - len(self.tokens[i]))] for i in rows])
        mask = torch.arange(longest) < torch.tensor([len(self.tokens[i]) for i in rows])[:, None]
        return ids, mask, torch.tensor([self.labels[i] for i in rows])

    def whole(self) -> nn.Module:
        """A copy of the network in which every weight learns."""
        return learning(copy.deepcopy(self.base.network))

    def with_random_ticket(self, size: Size) -> nn.Module:
        ticket = RandomTicket(head_density=size[0], neuron_density=size[1])
        return learning(removed(self.base.network, ticket.draw(self.base.network, seed=SEED).masks))

    def fit(self, network: nn.Module, method: TrainingMethod, **callbacks: Any) -> Any:
        """Training in the project's loop."""
        own: dict[str, Any] = {"pad_id": self.base.pad_id, "seed": SEED, "bf16": self.bf16}
        return fit(network, method, self.tokens, self.labels, **own, **callbacks)

    # ------------------------------------------------------------------------------------- what is timed
    def stepping(self, network: nn.Module) -> Work:
        """An epoch of plain training, its first step left out: there the optimiser makes its state."""
        method = Standard(n_epochs=1, batch_size=self.batch_size, learning_rate=1e-9)

        def work() -> float:
            ends: list[float] = []
            self.fit(network, method, on_step=lambda _share: ends.append(time.process_time()))
            return ends[-1] - ends[0]

        return work

    def gradients(self, network: nn.Module) -> Work:
        """Forward and backward passes over all batches, as the loop takes them; no optimiser."""
        method, draws = Standard(), torch.Generator().manual_seed(SEED)
        setting = Setting(network, self.tokens, self.labels, SEED)

        def work() -> float:
            with fp32_attention(network, when=self.bf16), frozen_in_bf16(network, when=self.bf16):
                began = time.process_time()
                for batch in self.batches:
                    step = Step(network, *batch, draws=draws, bf16=self.bf16, companion=method.companion(setting))
                    method.backward(step)
                    network.zero_grad(set_to_none=True)
                return time.process_time() - began

        return work

    def passing(self, network: nn.Module) -> Work:
        """Forward passes over all batches."""

        @torch.inference_mode()
        def work() -> float:
            was, began = network.training, time.process_time()
            network.eval()
            for ids, mask, _ in self.batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    network(input_ids=ids, attention_mask=mask.long())
            network.train(was)
            return time.process_time() - began

        return work

    def answering(self, network: nn.Module) -> Work:
        """What an attack asks: the answers of the packed victim to all texts."""
        base = replace(self.base, network=copy.deepcopy(network).eval())
        victim = model_stage.victim(base, {}, precision="bf16" if self.bf16 else "fp32")
        rows = victim.rows(self.texts)

        def work() -> float:
            began = time.process_time()
            victim.forgetful().logits(rows)
            return time.process_time() - began

        return work


def learning(network: nn.Module) -> nn.Module:
    return Full().attach(network, head=[], seed=SEED).train()


def flops(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Of one forward pass over all batches: linear maps of the encoder, and the two products of attention."""
    found = 0.0
    for parts in parts_of(network):
        weights = sum(getattr(parts, name).weight.numel() for name in MAPS)
        for ids, _, _ in batches:
            n_texts, n_tokens = ids.shape
            found += 2 * n_texts * n_tokens * (weights + 2 * n_tokens * parts.query.out_features)
    return found


def named(size: Size) -> str:
    return f"{size[0]:g}/{size[1]:g}"


# ------------------------------------------------------------------------------------------- the measurement
def measured(works: Mapping[str, Work], *, rounds: int) -> dict[str, NDArray[np.float64]]:
    """CPU seconds of each variant by round; the first round warms up and does not count."""
    rng, seconds = random.Random(SEED), {name: list[float]() for name in works}
    for turn in range(rounds + 1):
        for name in rng.sample(list(works), len(works)):
            spent = works[name]()
            if turn:
                seconds[name].append(spent)
    return {name: np.array(found) for name, found in seconds.items()}


def shown(ratios: NDArray[np.float64], digits: int = 2) -> str:
    """The median with its quartiles."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


# ------------------------------------------------------------------------------------------------- the parts
def price_of_a_step(ground: Ground, sizes: Sequence[Size], *, rounds: int) -> None:
    """Whole network / network without the units: how many times as fast, and as a share of the limit by FLOPs."""
    networks = {"": ground.whole()} | {named(size): ground.with_random_ticket(size) for size in sizes}
    kinds: dict[str, Callable[[nn.Module], Work]] = {
        "training step": ground.stepping,
        "gradient alone": ground.gradients,
        "forward pass": ground.passing,
        "answers to an attack": ground.answering,
    }
    works = {f"{kind} {name}": make(network) for kind, make in kinds.items() for name, network in networks.items()}
    seconds = measured(works, rounds=rounds)
    print(f"{'':22} {'heads/neurons kept':>18} {'times as fast':>20} {'limit':>6} {'share of the limit':>20}")
    for name, network in networks.items():
        if not name:
            continue
        limit = flops(networks[""], ground.batches) / flops(network, ground.batches)
        for kind in kinds:
            ratios = seconds[f"{kind} "] / seconds[f"{kind} {name}"]
            print(f"{kind:22} {name:>18} {shown(ratios):>20} {limit:6.2f} {shown(ratios / limit):>20}", flush=True)
    n_steps = len(ground.batches)
    whole = {"training step": n_steps - 1, "gradient alone": n_steps, "forward pass": n_steps}
    each = ", ".join(f"{kind} {1000 * np.median(seconds[f'{kind} ']) / n:.0f} ms" for kind, n in whole.items())
    print(f"whole network, a batch: {each}")


GROUPS = {  # part of a step -> beginnings of the names of its operations
    "linear maps": ("aten::addmm", "aten::mm", "aten::linear", "aten::matmul", "aten::t", "aten::sum", "mkldnn"),
    "attention products, softmax": ("aten::_scaled_dot", "aten::scaled_dot", "aten::bmm", "aten::baddbmm",
                                    "aten::softmax", "aten::_softmax"),
    "activation": ("aten::gelu",),
    "LayerNorm": ("aten::native_layer_norm", "aten::layer_norm"),
    "dropout": ("aten::native_dropout", "aten::dropout", "aten::bernoulli"),
    "embeddings": ("aten::embedding", "aten::index"),
}  # fmt: skip


def where_time_goes(ground: Ground, sizes: Sequence[Size], *, rounds: int) -> None:
    """Milliseconds of each part of a training step, and how many times as fast it is without the units."""
    from torch.profiler import ProfilerActivity, profile

    def parts_of_step(network: nn.Module) -> dict[str, float]:
        told, steps = profile(activities=[ProfilerActivity.CPU]), list[float]()

        def on_step(share: float) -> None:
            """The first step makes the optimiser's state; behind the last one the loop measures entropies."""
            steps.append(share)
            if len(steps) == 1:
                told.start()
            elif share == 1.0:
                told.stop()

        method = Standard(n_epochs=rounds, batch_size=ground.batch_size, learning_rate=1e-9)
        ground.fit(network, method, on_step=on_step)
        events = told.key_averages()
        found = dict.fromkeys([*GROUPS, "other operations of the passes", "clipping and optimiser"], 0.0)
        for event in events:
            for group, names in GROUPS.items():
                if event.key.startswith(names):
                    found[group] += event.self_cpu_time_total
                    break
        clipped = ("aten::_foreach_norm", "aten::linalg_vector_norm", "aten::_foreach_mul_", "aten::stack")
        stepped = sum(event.cpu_time_total for event in events if event.key.startswith("Optimizer.step"))
        clipping = sum(event.self_cpu_time_total for event in events if event.key.startswith(clipped))
        found["clipping and optimiser"] = stepped + clipping
        whole = sum(event.self_cpu_time_total for event in events)
        found["other operations of the passes"] = whole - sum(found.values())
        return {name: spent / (len(steps) - 1) / 1000 for name, spent in found.items()}

    told = {"whole": parts_of_step(ground.whole())}
    told |= {named(size): parts_of_step(ground.with_random_ticket(size)) for size in sizes}
    heads = [f"{name:>12}" if name == "whole" else f"{name:>12} {'faster':>7}" for name in told]
    print(f"{'milliseconds a step':34} {' '.join(heads)}")
    for part in [*told["whole"], "in all"]:
        values = {name: sum(p.values()) if part == "in all" else p[part] for name, p in told.items()}
        cells = [f"{values['whole']:12.1f}"]
        for name in list(told)[1:]:
            faster = f"{values['whole'] / values[name]:7.2f}" if values[name] > 0.05 else f"{'':7}"
            cells.append(f"{values[name]:12.1f} {faster}")
        print(f"{part:34} {' '.join(cells)}")
    print("The profiler slows short operations down, so the sum is more than a step takes without it.")


@dataclass(frozen=True)
class Spent:
    """CPU seconds of a whole training, those of each of its epochs, those before them, and passes of one batch.

    ``searched``: epochs of the search that came before.
    """

    seconds: float
    by_epoch: list[float]
    before: float
    n_forward: int
    n_backward: int
    searched: float = 0.0
    about: str = ""


def trained(ground: Ground, network: nn.Module, method: TrainingMethod, *, began: float | None = None) -> Spent:
    """From the start, or from ``began``, to the end of the last epoch."""
    start = time.process_time()
    ends = [start]
    fitted = ground.fit(network, method, on_epoch=lambda _epoch, _loss: ends.append(time.process_time()))
    by_epoch, began = [b - a for a, b in pairwise(ends)], start if began is None else began
    return Spent(ends[-1] - began, by_epoch, start - began, fitted.n_forward, fitted.n_backward)


def with_ticket(ground: Ground, size: Size, *, n_epochs: int, online: bool) -> Spent:
    """Search, drawing, removal, plain fine-tuning."""
    fields: dict[str, Any] = {} if online else {"threshold": None, "draw_epoch": SEARCH_EPOCHS}
    ticket = EarlyBird(
        head_density=size[0], neuron_density=size[1], n_steps=SEARCH_STEPS, batch_size=ground.batch_size, **fields
    )
    began = time.process_time()
    record = ticket.search(
        ground.base.network, ground.tokens, ground.labels, pad_id=ground.base.pad_id, seed=SEED, bf16=ground.bf16
    )
    drawn = ticket.draw(record, seed=SEED)
    network = learning(removed(ground.base.network, drawn.masks))
    spent = trained(ground, network, plain(ground, n_epochs), began=began)
    searched = record.costs.n_steps / record.gaps.steps_per_epoch
    return replace(
        spent,
        n_forward=spent.n_forward + record.costs.n_forward,
        n_backward=spent.n_backward + record.costs.n_backward,
        searched=searched,
        about=f"searched {searched:.2f} epochs in {spent.before:.1f} s, drew after step {drawn.step}"
        + (" (never settled)" if drawn.fallback else ""),
    )


def plain(ground: Ground, n_epochs: int) -> TrainingMethod:
    return Standard(n_epochs=n_epochs, batch_size=ground.batch_size, learning_rate=RATE)


def price_of_a_training(ground: Ground, sizes: Sequence[Size], asked: argparse.Namespace) -> None:
    """Whole trainings. One pass of a batch is forward or backward; by FLOPs: of passes, without an optimiser."""
    own: dict[str, Any] = {"batch_size": ground.batch_size, "learning_rate": RATE, "radius": RADIUS, "init_size": 0.05}
    fewer = min(asked.epochs, asked.epochs_of_10 or asked.epochs)
    epochs = {k: fewer if k == 10 else asked.epochs for k in asked.steps}
    methods: dict[str, TrainingMethod] = {"plain": plain(ground, asked.epochs)}
    for k, n_epochs in epochs.items():
        methods[f"FreeLB, {k} steps"] = FreeLb(n_steps=k, n_epochs=n_epochs, **own)
        methods[f"PGD, {k} steps"] = Pgd(n_steps=k, n_epochs=n_epochs, **own)
    tickets = {f"ticket {named(size)}": size for size in sizes}
    forward = {"plain": 3.0} | {f"FreeLB, {k} steps": 3.0 * k for k in epochs}  # of the whole network, a batch
    forward |= {f"PGD, {k} steps": 2.0 * k + 3.0 for k in epochs}
    trained(ground, ground.whole(), plain(ground, 1))  # warms up
    spent: dict[str, Spent] = {}
    names = [*methods, *tickets]
    for name in random.Random(SEED).sample(names, len(names)):
        if name in tickets:
            spent[name] = with_ticket(ground, tickets[name], n_epochs=asked.epochs, online=asked.stop == "online")
        else:
            spent[name] = trained(ground, ground.whole(), methods[name])
        print(f"  {name}: {spent[name].seconds:.1f} CPU-seconds {spent[name].about}", flush=True)
    heads = " ".join(f"{f'/ {name}':>18} {'by FLOPs':>9}" for name in tickets)
    print(f"{'':20} {'epochs':>6} {'forward':>8} {'backward':>8} {'seconds':>8} {'seconds an epoch':>24} {heads}")
    whole = flops(ground.base.network, ground.batches)
    for name in names:
        one = spent[name]
        n_epochs = len(one.by_epoch)
        seconds = one.seconds * asked.epochs / n_epochs  # but for --epochs-of-10 this is what was measured
        cells = []
        for ticket, size in tickets.items():
            if name in tickets:
                cells.append(f"{'':18} {'':9}")
                continue
            share = flops(ground.with_random_ticket(size), ground.batches) / whole
            limit = forward[name] / (3.0 * SEARCH_STEPS * spent[ticket].searched / asked.epochs + 3.0 * share)
            cells.append(f"{seconds / spent[ticket].seconds:18.2f} {limit:9.2f}")
        steady = shown(np.array(one.by_epoch))
        print(f"{name:20} {n_epochs:6} {one.n_forward:8} {one.n_backward:8} {one.seconds:8.1f} {steady:>24} "
              f"{' '.join(cells)}")  # fmt: skip
    if any(n != asked.epochs for n in epochs.values()):
        print(f"With 10 steps only {epochs[10]} epochs were run; the ratio takes {asked.epochs} to cost as much each.")


def overlap_of_runs(folders: Sequence[str]) -> None:
    """Masks of equal size of the trials of these runs, pair by pair: 1 - entries that differ / all entries."""
    masks = {
        f"{Path(folder).name}/t{number:03d}": one
        for folder in folders
        for number, one in ticket_masks(Path(folder)).items()
    }
    fewer = {name: one for name, one in masks.items() if one.density != (1.0, 1.0)}
    rows: list[tuple[str, str, Overlap]] = [
        (a, b, overlap(fewer[a], fewer[b]))
        for a, b in combinations(fewer, 2)
        if fewer[a].shape == fewer[b].shape and np.allclose(fewer[a].density, fewer[b].density, atol=0.01)
    ]
    print(f"{'':40} {'heads':>7} {'by chance':>10} {'neurons':>8} {'by chance':>10}")
    for a, b, found in rows:
        print(f"{f'{a}  {b}':40} {found.heads:7.3f} {found.heads_by_chance:10.3f} {found.neurons:8.3f} "
              f"{found.neurons_by_chance:10.3f}")  # fmt: skip


def size_of(text: str) -> Size:
    """``0.83/0.6`` as (0.83, 0.6)."""
    heads, _, neurons = text.partition("/")
    return float(heads), float(neurons or heads)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("steps", "where", "pipeline")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--sizes", nargs="+", type=size_of, default=[(0.5, 0.5), (0.83, 0.6)], metavar="HEADS/NEURONS")
    parser.add_argument("--texts", type=int, default=80)
    parser.add_argument("--words", type=int, default=40, help="most words of a text")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0, help="below 0: the model's own")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=9, help="of steps and where")
    parser.add_argument("--epochs", type=int, default=10, help="of pipeline")
    parser.add_argument("--steps", nargs="+", type=int, default=[3, 5, 10], help="of FreeLB and PGD in pipeline")
    parser.add_argument("--epochs-of-10", type=int, default=None, help="fewer epochs for 10 steps, extrapolated")
    parser.add_argument("--stop", choices=("draw_epoch", "online"), default="draw_epoch")
    parser.add_argument("--overlap", nargs="+", metavar="RUN")
    asked = parser.parse_args()
    if asked.overlap:
        overlap_of_runs(asked.overlap)
        return
    torch.set_num_threads(1)
    dropout = None if asked.dropout < 0 else asked.dropout
    ground = Ground(n_texts=asked.texts, n_words=asked.words, batch_size=asked.batch, dropout=dropout, bf16=asked.bf16)
    n_tokens, n_steps = sum(ids.numel() for ids, _, _ in ground.batches), len(ground.batches)
    print(f"{len(ground.texts)} texts of at most {asked.words} words, {n_tokens} tokens with padding, {n_steps} "
          f"batches of {asked.batch}, {'bf16' if asked.bf16 else 'fp32'}, one thread", flush=True)  # fmt: skip
    for part in asked.parts:
        if part == "pipeline":
            print(f"\n{part}: {price_of_a_training.__doc__}", flush=True)
            price_of_a_training(ground, asked.sizes, asked)
        else:
            work = price_of_a_step if part == "steps" else where_time_goes
            print(f"\n{part}: {work.__doc__}", flush=True)
            work(ground, asked.sizes, rounds=asked.rounds)


if __name__ == "__main__":
    main()
