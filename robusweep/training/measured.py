"""What a network predicts for texts as token ids, in eval mode: its accuracy, and how certain it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

N_FOR_ENTROPY = 512  # texts, at most


@torch.no_grad()
def accuracy(
    network: nn.Module, tokens: Sequence[Sequence[int]], labels: Sequence[int], *, pad_id: int, bf16: bool
) -> float:
    """Right / all, in eval mode."""
    device = next(network.parameters()).device
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    n_right = 0
    with evaluating(network), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for begin in range(0, len(order), 64):
            rows = order[begin : begin + 64]
            ids, mask = batch_of([tokens[i] for i in rows], pad_id=pad_id, device=device)
            predicted = network(input_ids=ids, attention_mask=mask.long()).logits.argmax(dim=1)
            n_right += int((predicted.cpu() == torch.tensor([labels[i] for i in rows])).sum())
    return n_right / len(tokens)


@torch.no_grad()
def entropy_range(network: nn.Module, tokens: Sequence[Sequence[int]], *, pad_id: int) -> tuple[float, float]:
    """(lowest, highest) entropy in nats of predictions for at most ``N_FOR_ENTROPY`` of the texts, evenly spaced."""
    device = next(network.parameters()).device
    chosen = [
        tokens[i * len(tokens) // min(len(tokens), N_FOR_ENTROPY)] for i in range(min(len(tokens), N_FOR_ENTROPY))
    ]
    found = []
    with evaluating(network):
        for begin in range(0, len(chosen), 64):
            ids, mask = batch_of(sorted(chosen, key=len)[begin : begin + 64], pad_id=pad_id, device=device)
            logs = network(input_ids=ids, attention_mask=mask.long()).logits.double().log_softmax(-1)
            found.append(-(logs.exp() * logs).sum(-1))
    entropies = torch.cat(found)
    return float(entropies.min()), float(entropies.max())


def batch_of(rows: Sequence[Sequence[int]], *, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask) of these texts, [n_rows, longest], padded on the right; the mask is True on real tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)
