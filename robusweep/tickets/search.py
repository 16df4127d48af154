"""The search: all weights and the coefficients train together against an adversary, until the masks settle."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.seeds import derive, generator
from robusweep.tickets.ascent import Adversary, Batch, free_lb, pgd
from robusweep.tickets.coefficients import CoefficientRecord, Coefficients, Gaps, SearchCosts
from robusweep.tickets.gates import Gates
from robusweep.tickets.masks import Masks
from robusweep.tickets.parts import shape_of

if TYPE_CHECKING:
    from robusweep.tickets.early_bird import EarlyBird

CHUNK = 128  # batches that are sorted by length together
MOST_BYTES = 256 * 1024**2  # of a record: a longer search keeps each k-th step, and each gap's end


def search(
    network: nn.Module,
    tokens: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    spec: EarlyBird,
    pad_id: int,
    seed: int,
    bf16: bool = False,
    stop: bool = True,
    on_step: Callable[[float], None] | None = None,
) -> CoefficientRecord:
    """The coefficients along a search on a copy of the network, which is left as it is: to rewind is to do nothing.

    ``tokens`` are ids per text, unpadded. Batches, dropout and perturbations each depend on ``seed`` and their own
    name alone. ``stop=False`` goes on to ``max_epochs`` where the masks settle earlier, so that every ticket can be
    drawn; until it ends, the record is the same. ``on_step`` gets the share of all steps that is done. Raises
    ``StageError`` when the loss or its gradient stops being finite.
    """
    if not tokens:
        raise StageError("ticket early_bird: there are no texts to search on")
    run = _Search(copy.deepcopy(network), tokens, labels, spec=spec, pad_id=pad_id, seed=seed, bf16=bf16)
    with run.gates.on(run.network), _seeded(derive(seed, "ticket dropout"), run.device):
        return run.record(stop=stop, on_step=on_step)


class _Search:
    """A network that may change, its coefficients, and what was seen of them."""

    def __init__(
        self,
        network: nn.Module,
        tokens: Sequence[Sequence[int]],
        labels: Sequence[int],
        *,
        spec: EarlyBird,
        pad_id: int,
        seed: int,
        bf16: bool,
    ) -> None:
        self.network, self.tokens, self.labels = network.train().requires_grad_(True), tokens, labels
        self.spec, self.pad_id, self.seed, self.bf16 = spec, pad_id, seed, bf16
        self.device = next(network.parameters()).device
        self.gates = Gates(shape_of(network), self.device)
        self.weights = list(network.parameters())
        own: dict[str, Any] = {"params": list(self.gates.parameters()), "weight_decay": 0.0}
        self.optimiser = torch.optim.AdamW(
            [{"params": self.weights}, own], lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        self.draws = torch.Generator().manual_seed(derive(seed, "ticket perturbations"))
        self.gaps = Gaps(math.ceil(len(tokens) / spec.batch_size), spec.gaps_per_epoch)
        self.n_steps = self.gaps.end(self.gaps.within(spec.max_epochs))
        self.seen: list[tuple[int, Coefficients, Coefficients]] = []
        self.n_forward = self.n_backward = self.n_tokens = 0

    def record(self, *, stop: bool, on_step: Callable[[float], None] | None) -> CoefficientRecord:
        began, loss = time.perf_counter(), 0.0
        every = math.ceil(self.n_steps * self.gates.neurons.numel() * 4 / MOST_BYTES)
        masks: list[Masks] = []
        classes: list[set[int]] = [set()]
        for step, rows in enumerate(self._batches(), start=1):
            loss = self._step(rows, progress=(step - 0.5) / (self.spec.n_epochs * self.gaps.steps_per_epoch))
            classes[-1].update(self.labels[i] for i in rows)
            ends_gap = step == self.gaps.end(len(masks) + 1)
            if ends_gap or step % every == 0:
                self.seen.append((step, _values(self.gates.heads), _values(self.gates.neurons)))
            if ends_gap:
                masks.append(self.spec.watched(*self.seen[-1][1:]))
                classes.append(set())
            if on_step:
                on_step(step / self.n_steps)
            if step == self.n_steps or (stop and ends_gap and self.spec.settled(masks, self.gaps) is not None):
                break
        steps, heads, neurons = zip(*self.seen, strict=True)
        costs = SearchCosts(
            n_steps=steps[-1],
            seconds=time.perf_counter() - began,
            n_forward=self.n_forward,
            n_backward=self.n_backward,
            n_tokens=self.n_tokens,
            stopped_early=steps[-1] < self.n_steps,
            final_loss=loss,
            classes_by_gap=tuple(len(one) for one in classes[:-1]),
        )
        return CoefficientRecord(np.stack(heads), np.stack(neurons), np.array(steps), self.gaps, costs)

    def _batches(self) -> Iterator[list[int]]:
        """The places of the texts of each step, epoch after epoch, always shuffled."""
        lengths = [len(ids) for ids in self.tokens]
        for epoch in range(self.spec.n_epochs):
            rng = generator(self.seed, "ticket batches", epoch)
            yield from batches(lengths, self.spec.batch_size, rng=rng, grouped=self.spec.batches == "grouped")

    def _step(self, rows: Sequence[int], *, progress: float) -> float:
        """One update of weights and coefficients. Returns the cross-entropy."""
        spec, batch = self.spec, self._batch(rows)
        adversary = Adversary(spec.n_steps, spec.step_size, spec.init_magnitude, spec.max_norm)
        climb = free_lb if spec.adversary == "freelb" else pgd
        loss = climb(batch, adversary, penalty=self._penalty, draws=self.draws)
        self.n_forward += batch.n_forward
        self.n_backward += batch.n_backward
        self.n_tokens += batch.n_forward * batch.ids.numel()
        norm = nn.utils.clip_grad_norm_([*self.weights, *self.gates.parameters()], spec.max_grad_norm or math.inf)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            raise StageError(
                f"ticket early_bird: loss {loss}, gradient norm {float(norm)} after {progress:.0%} of the schedule",
                hint="lower the learning rate or the step size",
            )
        peaks = (spec.learning_rate, spec.coefficient_rate or spec.learning_rate)
        for group, peak in zip(self.optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(progress, spec.warmup)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss

    def _penalty(self) -> Tensor:
        """The coefficients' absolute values, each kind's sum with its weight."""
        of_heads, of_neurons = self.gates.heads.abs().sum(), self.gates.neurons.abs().sum()
        return self.spec.l1_heads * of_heads + self.spec.l1_neurons * of_neurons

    def _batch(self, rows: Sequence[int]) -> Batch:
        lengths = torch.tensor([len(self.tokens[i]) for i in rows])
        ids = torch.full((len(rows), int(lengths.max())), self.pad_id)
        for row, i in zip(ids, rows, strict=True):
            row[: len(self.tokens[i])] = torch.tensor(self.tokens[i])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        labels = torch.tensor([self.labels[i] for i in rows])
        return Batch(self.network, ids.to(self.device), mask.to(self.device), labels.to(self.device), bf16=self.bf16)


def batches(lengths: Sequence[int], batch_size: int, *, rng: np.random.Generator, grouped: bool) -> Iterator[list[int]]:
    """One epoch, every text once. ``grouped``: texts of like length meet, inside chunks of a shuffled order."""
    order = rng.permutation(len(lengths)).tolist()
    if not grouped:
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))
        return
    chunks = (order[i : i + CHUNK * batch_size] for i in range(0, len(order), CHUNK * batch_size))
    whole = [i for chunk in chunks for i in sorted(chunk, key=lambda i: lengths[i])]
    cut = [whole[i : i + batch_size] for i in range(0, len(whole), batch_size)]
    yield from (cut[i] for i in rng.permutation(len(cut)))


def rate_at(progress: float, warmup: float) -> float:
    """The factor on the peak learning rate: linear from 0 over the warm-up, then linear to 0."""
    return min(progress / warmup if warmup else 1.0, (1 - progress) / (1 - warmup))


def _values(coefficients: Tensor) -> Coefficients:
    found: Coefficients = coefficients.detach().cpu().numpy().copy()
    return found


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from a state of its own; the global generators are put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
