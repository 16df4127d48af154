"""Classifiers to attack, as anyone may have them: MiniLM, fine-tuned in full, in a plain Hugging Face folder.

    python bench/victims.py [rotten_tomatoes] [bbc_news] [ag_news]      # minutes each; ag_news needs ROBUSWEEP_DATA

Each lies in ``cache/bench/NAME`` with ``test.csv``, the texts it was not trained on, in the order of a seeded draw.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from robusweep import model as model_stage
from robusweep.adapters.full import Full
from robusweep.data import load
from robusweep.data.ag_news import AgNews
from robusweep.data.base import DataSource
from robusweep.data.bbc_news import BbcNews
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.training.loop import fit
from robusweep.training.standard import Standard

SEED = 0
CORPORA: dict[str, DataSource] = {
    "rotten_tomatoes": RottenTomatoes(n_train=4000, n_validation=400, n_calibration=200, n_test=1000),
    "bbc_news": BbcNews(n_train=1200, n_validation=200, n_calibration=200, n_test=500, max_words=60),
    "ag_news": AgNews(n_train=3600, n_validation=400, n_calibration=200, n_test=1000),
}


def victim_folder(name: str = "rotten_tomatoes", root: Path = Path()) -> tuple[Path, Path]:
    """(a fine-tuned MiniLM, its test texts), trained at the first call and kept."""
    folder = root / "cache" / "bench" / name
    if (folder / "test.csv").is_file():
        return folder, folder / "test.csv"
    data = load(CORPORA[name], SEED)
    encoder = model_stage.BaseEncoder(base="minilm_l6", max_tokens=128, dropout=0.0)
    base = model_stage.load(encoder, data.label_names, seed=SEED, device="cpu")
    network = Full().attach(base.network, head=model_stage.head_names(base.network), seed=SEED)
    texts, labels = [e.text for e in data.train], [e.label for e in data.train]
    print(f"training the victim on {name} ...", flush=True)
    method = Standard(n_epochs=2, learning_rate=1e-4)
    fit(network, method, base.tokens(texts), labels, pad_id=base.pad_id, seed=SEED, bf16=False)
    network.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    with (folder / "test.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *((e.text, data.label_names[e.label]) for e in data.test)])
    return folder, folder / "test.csv"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["rotten_tomatoes"]:
        print(victim_folder(wanted)[0])
