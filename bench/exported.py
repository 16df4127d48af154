"""What an exported ticket saves beside the exported whole network: bytes on disk, and time to answer.

    robusweep export compare_tickets --pick t002.00 --out dense       # a point without a ticket
    robusweep export compare_tickets --pick t000.00 --out ticket      # one on a ticket
    python bench/exported.py dense ticket

Both folders are loaded as a user's process loads them, and the whole network is cut here as well, by the same masks:
wanted is that the loaded ticket is as many times as fast as the cut one, and its folder smaller in proportion to its
parameters. CPU times of one thread, in turns of random order; medians of ratios within a round, with their quartiles.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robusweep.data import load
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.mixing import Fixed
from robusweep.model import TextModel, filled
from robusweep.shipping import opened
from robusweep.tickets.masks import Masks
from robusweep.tickets.removal import removed
from robusweep.units import TICKET

SEED = 0


def answering(network: Any, model: TextModel, texts: list[str], *, batch_size: int) -> float:
    """CPU seconds of forward passes over all texts, grouped by length."""
    rows = sorted(model.tokens(texts), key=len)
    began = time.process_time()
    with torch.inference_mode():
        for i in range(0, len(rows), batch_size):
            part = rows[i : i + batch_size]
            width = max(map(len, part))
            ids = torch.tensor([[*row, *[model.pad_id] * (width - len(row))] for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part])
            network(input_ids=ids, attention_mask=mask)
    return time.process_time() - began


def timed(
    networks: Mapping[str, Any], model: TextModel, texts: list[str], asked: Any
) -> dict[str, NDArray[np.float64]]:
    """CPU seconds of each network by round; the first round warms up and does not count."""
    rng, seconds = random.Random(SEED), {name: list[float]() for name in networks}
    for turn in range(asked.rounds + 1):
        for name in rng.sample(list(networks), len(networks)):
            spent = answering(networks[name], model, texts, batch_size=asked.batch)
            if turn:
                seconds[name].append(spent)
    return {name: np.array(found) for name, found in seconds.items()}


def network_of(folder: Path) -> tuple[TextModel, Any]:
    """(the model in an exported folder of one network, that network)."""
    model, system, _ = opened(str(folder), device="cpu")
    if not isinstance(system, Fixed):
        raise SystemExit(f"{folder} mixes by text: only one network can be timed against another")
    return model, (filled(model, system.parameters) if system.parameters else model.network).eval()


def weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sizes: dict[str, Any] = {"n_validation": 100, "n_calibration": 100, "n_test": 100}
    texts = [e.text for e in load(RottenTomatoes(n_train=asked.texts, **sizes), SEED).train]
    model, dense = network_of(asked.dense)
    _, ticket = network_of(asked.ticket)
    masks = Masks.read(asked.ticket / "base" / TICKET)
    seconds = timed({"dense": dense, "exported": ticket, "cut": removed(dense, masks)}, model, texts, asked)
    heads, neurons = masks.density
    n = {name: sum(p.numel() for p in net.parameters()) for name, net in {"dense": dense, "ticket": ticket}.items()}
    size = {"dense": weights_bytes(asked.dense), "ticket": weights_bytes(asked.ticket)}
    print(f"kept: {heads:.1%} of the heads, {neurons:.1%} of the neurons")
    print(f"parameters {n['ticket']:,} of {n['dense']:,}: {n['ticket'] / n['dense']:.4f}")
    print(f"bytes of weights {size['ticket']:,} of {size['dense']:,}: {size['ticket'] / size['dense']:.4f}")
    for name, over in (("times as fast, as exported", "exported"), ("times as fast, cut here", "cut")):
        low, middle, high = np.percentile(seconds["dense"] / seconds[over], [25, 50, 75])
        print(f"{name:28} {middle:.3f} [{low:.3f}, {high:.3f}]")
    low, middle, high = np.percentile(seconds["cut"] / seconds["exported"], [25, 50, 75])
    print(f"{'exported over cut here':28} {middle:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
