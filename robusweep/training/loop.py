"""The training loop: batches, gradient, clip, step. Small and device-neutral."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.seeds import derive, generator
from robusweep.training.base import TrainingMethod
from robusweep.training.batches import grouped_batches, token_efficiency
from robusweep.training.precision import fp32_attention
from robusweep.training.step import Step


@dataclass(frozen=True)
class Fitted:
    """What a training run was: ``final_loss`` is the mean over the last epoch, ``seconds`` are wall-clock."""

    final_loss: float
    n_steps: int
    seconds: float
    token_efficiency: float


def fit(
    network: nn.Module,
    method: TrainingMethod,
    tokens: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    pad_id: int,
    seed: int,
    bf16: bool,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train the network's trainable parameters in place. ``tokens`` are ids per text, unpadded.

    Batches, dropout and perturbations each depend on ``seed`` and their own name alone, so that two methods which
    start alike see the same batches and masks. The mode that the network was in is restored. Raises ``StageError``
    when the loss or its gradient stops being finite.
    """
    device = next(network.parameters()).device
    lengths = [len(row) for row in tokens]
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=method.learning_rate, weight_decay=method.weight_decay)
    epochs = [
        grouped_batches(lengths, batch_size=method.batch_size, rng=generator(seed, "batches", epoch))
        for epoch in range(method.n_epochs)
    ]
    n_steps = sum(map(len, epochs))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_up_then_decay(n_steps, method.warmup))
    draws = torch.Generator().manual_seed(derive(seed, "perturbations"))
    began, mean_loss, n_done = time.perf_counter(), 0.0, 0
    with _training(network), _seeded(derive(seed, "dropout"), device), fp32_attention(network, when=bf16):
        for epoch, batches in enumerate(epochs):
            total = 0.0
            for rows in batches:
                n_done += 1
                batch = _batch([tokens[i] for i in rows], pad_id=pad_id, device=device)
                target = torch.tensor([labels[i] for i in rows], device=device)
                step = Step(network, *batch, target, draws=draws, bf16=bf16, progress=n_done / n_steps)
                loss = method.backward(step)
                norm = float(torch.nn.utils.clip_grad_norm_(trainable, method.max_grad_norm))
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise StageError(
                        f"train {method.model_dump()['kind']}: loss {loss}, gradient norm {norm} in epoch {epoch + 1}",
                        hint="lower the learning rate or the radius",
                    )
                optimiser.step()
                schedule.step()
                optimiser.zero_grad(set_to_none=True)
                total += loss * len(rows)
            mean_loss = total / len(tokens)
            if on_epoch:
                on_epoch(epoch, mean_loss)
    efficiency = token_efficiency(lengths, [batch for batches in epochs for batch in batches])
    return Fitted(mean_loss, n_steps, time.perf_counter() - began, efficiency)


def _batch(rows: Sequence[Sequence[int]], *, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask) of these texts, [n_rows, longest], padded on the right; the mask is True on real tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]


def _warm_up_then_decay(n_steps: int, warmup: float) -> Callable[[int], float]:
    """The factor on the peak learning rate: linear from 0 over the warm-up, then linear to 0."""
    rising = max(1, round(n_steps * warmup))

    def factor(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (n_steps - step) / max(1, n_steps - rising + 1)))

    return factor


@contextmanager
def _training(network: nn.Module) -> Iterator[None]:
    was = network.training
    network.train()
    try:
        yield
    finally:
        network.train(was)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from a state of its own; the global generators are put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
