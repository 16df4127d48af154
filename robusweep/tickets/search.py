"""The search: coefficients train against an adversary, with all weights or on resting ones, until the masks settle."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.seeds import derive, generator
from robusweep.tickets.ascent import Adversary, Batch, free_lb, pgd
from robusweep.tickets.coefficients import CoefficientRecord, Coefficients, Gaps, SearchCosts
from robusweep.tickets.masks import Masks

if TYPE_CHECKING:
    from robusweep.tickets.base import Searched

CHUNK = 128  # batches that are sorted by length together
MOST_BYTES = 256 * 1024**2  # of a record: a longer search keeps each k-th step, and each gap's end


def search(
    network: nn.Module,
    tokens: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    spec: Searched,
    pad_id: int,
    seed: int,
    bf16: bool = False,
    stop: bool = True,
    on_step: Callable[[float], None] | None = None,
) -> CoefficientRecord:
    """The coefficients along a search on a copy of the network, which is left as it is: to rewind is to do nothing.

    ``tokens`` are ids per text, unpadded. Batches, dropout, perturbations and what gates draw each depend on ``seed``
    and their own name alone. ``stop=False`` goes on to the end where the masks settle earlier, so that every ticket can
    be drawn; until it ends, the record is the same. ``on_step`` gets the share of all steps that is done. Raises
    ``StageError`` when the loss or its gradient stops being finite.
    """
    if not tokens:
        raise StageError(f"ticket {spec.kind}: there are no texts to search on")
    run = _Search(copy.deepcopy(network), tokens, labels, spec=spec, pad_id=pad_id, seed=seed, bf16=bf16)
    with _seeded(derive(seed, "ticket dropout"), run.device):
        run.tune()
        with run.gates.on(run.network):
            return run.record(stop=stop, on_step=on_step)


class _Search:
    """A network that may change, its coefficients, and what was seen of them."""

    def __init__(
        self,
        network: nn.Module,
        tokens: Sequence[Sequence[int]],
        labels: Sequence[int],
        *,
        spec: Searched,
        pad_id: int,
        seed: int,
        bf16: bool,
    ) -> None:
        weights_rate, own_rate = spec.rates
        self.network = network.train().requires_grad_(weights_rate is not None)
        self.tokens, self.labels = tokens, labels
        self.spec, self.pad_id, self.seed, self.bf16 = spec, pad_id, seed, bf16
        self.device = next(network.parameters()).device
        self.gates = spec.gates(network, seed=derive(seed, "ticket gates"))
        self.weights = list(network.parameters())
        own: dict[str, Any] = {"params": list(self.gates.parameters()), "weight_decay": 0.0}
        groups = [own] if weights_rate is None else [{"params": self.weights}, own]
        self.peaks = [own_rate] if weights_rate is None else [weights_rate, own_rate]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=spec.weight_decay, fused=True)
        self.draws = torch.Generator().manual_seed(derive(seed, "ticket perturbations"))
        self.gaps = Gaps(math.ceil(len(tokens) / spec.batch_size), spec.gaps_per_epoch)
        self.n_steps = self.gaps.end(self.gaps.within(spec.ends_after))
        self.seen: list[tuple[int, Coefficients, Coefficients]] = []
        self.n_forward = self.n_backward = self.n_tokens = 0
        self.began = time.perf_counter()

    def tune(self) -> None:
        """Train all weights plainly for as long as the ticket asks: no gates, no adversary."""
        if self.spec.tuning is None:
            return
        n_epochs, rate = self.spec.tuning
        self.network.requires_grad_(True)
        optimiser = torch.optim.AdamW(self.weights, weight_decay=self.spec.weight_decay, fused=True)
        plain = partial(free_lb, adversary=Adversary(1, 1.0, 0.0), penalty=lambda: torch.zeros((), device=self.device))
        for step, rows in enumerate(self._batches("ticket tuning", n_epochs)):
            progress = (step + 0.5) / (n_epochs * self.gaps.steps_per_epoch)
            self._learn(rows, plain, optimiser, peaks=[rate], progress=progress)
        self.network.requires_grad_(self.spec.rates[0] is not None)

    def record(self, *, stop: bool, on_step: Callable[[float], None] | None) -> CoefficientRecord:
        spec, loss = self.spec, 0.0
        every = math.ceil(self.n_steps * self.gates.neurons.numel() * 4 / MOST_BYTES)
        masks: list[Masks] = []
        classes: list[set[int]] = [set()]
        for step, rows in enumerate(self._batches("ticket batches", spec.n_epochs), start=1):
            loss = self._step(rows, progress=(step - 0.5) / (spec.n_epochs * self.gaps.steps_per_epoch))
            classes[-1].update(self.labels[i] for i in rows)
            ends_gap = step == self.gaps.end(len(masks) + 1)
            if ends_gap or step % every == 0:
                self.seen.append((step, _values(self.gates.heads), _values(self.gates.neurons)))
            if ends_gap:
                masks.append(spec.watched(*self.seen[-1][1:]))
                classes.append(set())
            if on_step:
                on_step(step / self.n_steps)
            if step == self.n_steps or (stop and ends_gap and spec.settled(masks, self.gaps) is not None):
                break
        steps, heads, neurons = zip(*self.seen, strict=True)
        costs = SearchCosts(
            n_steps=steps[-1],
            seconds=time.perf_counter() - self.began,
            n_forward=self.n_forward,
            n_backward=self.n_backward,
            n_tokens=self.n_tokens,
            stopped_early=steps[-1] < self.n_steps,
            final_loss=loss,
            classes_by_gap=tuple(len(one) for one in classes[:-1]),
        )
        return CoefficientRecord(np.stack(heads), np.stack(neurons), np.array(steps), self.gaps, costs)

    def _batches(self, name: str, n_epochs: int) -> Iterator[list[int]]:
        """The places of the texts of each step, epoch after epoch, always shuffled, by a draw of that name."""
        lengths = [len(ids) for ids in self.tokens]
        for epoch in range(n_epochs):
            rng = generator(self.seed, name, epoch)
            yield from batches(lengths, self.spec.batch_size, rng=rng, grouped=self.spec.batches == "grouped")

    def _step(self, rows: Sequence[int], *, progress: float) -> float:
        """One update of the coefficients, and of the weights unless they rest. Returns the cross-entropy."""
        spec = self.spec
        adversary = Adversary(spec.n_steps, spec.step_size, spec.init_magnitude, spec.max_norm)
        climb = free_lb if spec.adversary == "freelb" else pgd
        adversarial = partial(climb, adversary=adversary, penalty=partial(self._penalty, progress))
        return self._learn(rows, adversarial, self.optimiser, peaks=self.peaks, progress=progress)

    def _learn(
        self,
        rows: Sequence[int],
        climb: Callable[..., float],
        optimiser: torch.optim.Optimizer,
        *,
        peaks: Sequence[float],
        progress: float,
    ) -> float:
        """One update of what the optimiser holds, each group with its peak learning rate. Returns the cross-entropy."""
        spec, batch = self.spec, self._batch(rows)
        loss = climb(batch, draws=self.draws)
        self.n_forward += batch.n_forward
        self.n_backward += batch.n_backward
        self.n_tokens += batch.n_forward * batch.ids.numel()
        learning = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(learning, spec.max_grad_norm or math.inf)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            raise StageError(
                f"ticket {spec.kind}: loss {loss}, gradient norm {float(norm)} after {progress:.0%} of the schedule",
                hint="lower the learning rate or the step size",
            )
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(progress, spec.warmup)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss

    def _penalty(self, progress: float = 1.0) -> Tensor:
        return self.spec.penalty(self.gates.heads, self.gates.neurons, progress)

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
