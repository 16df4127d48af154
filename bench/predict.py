"""What ``robusweep predict`` costs: memory over a long file, and its speed beside the bare forward pass.

    ROBUSWEEP_DATA=../shared/data python bench/predict.py                   # 100,000 lines, bfloat16 where it pays
    ROBUSWEEP_DATA=../shared/data python bench/predict.py --n 16384 --precision fp32

One thread. The lines are AG News, as often as it takes; the classifier is MiniLM with a fresh head, in a folder. The
file is read, labelled and written as the command does it. ``texts/s`` counts CPU time of the process, with reading,
tokenizing and writing. ``raw`` is the forward pass without padding over the distinct lines of the file, tokenized
before, sorted by length over all of them, in batches of as many tokens; per token, for lines come several times.
Printed last: resident memory at the end as a share of that after 8,192 lines, and the speed as a share of ``raw``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from robusweep import model as model_stage
from robusweep.data.ag_news import AgNews
from robusweep.examples import Row
from robusweep.model.victim import TOKENS_PER_BATCH
from robusweep.predict import Classifier, TextFile, load_classifier, written

EARLY = 8192  # lines after which memory is first read
EVERY = 4  # chunks between two lines of output


def resident() -> float:
    """The process's memory in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows from the shortest on, in groups of at most as many tokens as a victim takes at once."""
    batch: list[Row] = []
    for row in sorted(rows, key=len):
        if batch and sum(map(len, batch)) + len(row) > TOKENS_PER_BATCH["cpu"]:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def labelled(classifier: Classifier, source: Path, out: Path) -> tuple[float, float, float]:
    """(CPU seconds, resident MB after ``EARLY`` lines, and at the end) of labelling a file."""
    n, early, began = 0, 0.0, time.process_time()
    with written(out, classifier.label_names, classifier.member_names) as write:
        for i, chunk in enumerate(classifier(TextFile(source)), start=1):
            write(chunk)
            n += len(chunk)
            early = resident() if n <= EARLY else early
            if n <= EARLY or i % EVERY == 0:
                speed = n / (time.process_time() - began)
                print(f"{n:7} lines  {resident():7.0f} MB resident  {speed:6.1f} texts/s", flush=True)
    return time.process_time() - began, early, resident()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=100_000, help="lines of the file")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    corpus = AgNews().read()
    texts = [row.text for row in (*corpus.rows, *(corpus.test or ()))][: args.n]
    with TemporaryDirectory() as temporary:
        folder, source, out = Path(temporary, "model"), Path(temporary, "lines.txt"), Path(temporary, "out.csv")
        base = model_stage.load(model_stage.BaseEncoder(), corpus.label_names, seed=0, device="cpu")
        base.network.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        source.write_text("".join(f"{text}\n" for text in islice(cycle(texts), args.n)), encoding="utf-8")
        del base, corpus
        classifier = load_classifier(str(folder), device="cpu", precision=args.precision)
        print(f"{args.n} lines, {len(texts)} of them distinct, {classifier.precision}; {resident():.0f} MB resident")
        seconds, early, late = labelled(classifier, source, out)
    rows = classifier._victim.rows(texts)
    lengths = [len(row) for row in rows]
    n_tokens = sum(islice(cycle(lengths), args.n))
    began = time.process_time()
    for batch in batches(rows):
        classifier._victim.passes.rows(batch)
    raw = sum(lengths) / (time.process_time() - began)
    print(f"memory  {early:.0f} MB after {EARLY} lines, {late:.0f} MB after {args.n}: {late / early:.3f}")
    print(
        f"speed   {args.n / seconds:.1f} texts/s, {n_tokens / seconds:.0f} tokens/s; raw {raw:.0f} tokens/s: ", end=""
    )
    print(f"{n_tokens / seconds / raw:.3f}")


if __name__ == "__main__":
    main()
