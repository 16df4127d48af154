"""What each training method costs beside plain training, and beside a public-style implementation, in one run.

    python bench/training.py                      # MiniLM with LoRA on film reviews; some minutes
    python bench/training.py --adapter full       # every weight learns
    python bench/training.py --methods pgd asa    # some of the methods

One thread. All variants learn from the same batches of real texts; they take turns in random order, and times are CPU
times of the process. Printed are medians of ratios within a round, with their quartiles. ``F`` is one forward pass of
the plain network over the same batches in inference mode and float32, ``plain`` is ``standard``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusweep import model as model_stage
from robusweep.adapters import Adapter, Full, Lora
from robusweep.attacks import PROTOCOLS, Attack
from robusweep.attacks.evaluation import Terms
from robusweep.cache import Cache
from robusweep.catalogue import kinds
from robusweep.data import load
from robusweep.data.rotten_tomatoes import RottenTomatoes
from robusweep.lent import Lender
from robusweep.training import AnyTraining, TrainingMethod
from robusweep.training.base import Setting
from robusweep.training.batches import grouped_batches, token_efficiency
from robusweep.training.embedding import ascend
from robusweep.training.precision import fp32_attention, frozen_in_bf16
from robusweep.training.radius import Radius
from robusweep.training.step import Step

BATCH, SEED, RADIUS, STEPS = 16, 0, 0.1, 3
SIZES: dict[str, dict[str, Any]] = {  # what a kind is given beside its defaults
    "pgd": {"radius": RADIUS, "n_steps": STEPS},
    "freelb": {"radius": RADIUS, "n_steps": STEPS},
    "freelb_pp": {"n_steps": STEPS},
    "smart": {"radius": {"value": RADIUS, "space": "post_ln"}},
    "vat": {"radius": RADIUS},
    "r3f": {"radius": {"value": 0.02, "norm": "linf", "scope": "coordinate"}},
    "tavat": {"radius": RADIUS},
}
EXTRA_TEXTS = ("augment", "text_attack")  # a plain step for each text; what they cost is more texts, and an attack

Work = Callable[[], None]


def _no_attack(kind: str) -> Attack:
    raise NotImplementedError(kind)


class Ground:
    """The encoder, and batches of real texts of like length."""

    def __init__(self, adapter: Adapter, *, n_texts: int) -> None:
        data = load(RottenTomatoes(n_train=n_texts, n_validation=100, n_calibration=100, n_test=100), SEED)
        encoder = model_stage.BaseEncoder(base="minilm_l6", max_tokens=128, dropout=0.0)
        self.base = model_stage.load(encoder, data.label_names, seed=SEED, device="cpu")
        self.plain = model_stage.load(encoder, data.label_names, seed=SEED, device="cpu").network
        self.texts = [example.text for example in data.train]
        self.labels = [example.label for example in data.train]
        self.tokens = self.base.tokens(self.texts)
        head = model_stage.head_names(self.base.network)
        terms = Terms(PROTOCOLS["standard_v1"], SEED, False, "cpu")
        self.lent = Lender(
            self.base, "bench", adapter, _no_attack, terms, Cache(Path(gettempdir()) / "robusweep-bench")
        )
        self.network: Any = adapter.attach(self.base.network, head=head, seed=SEED).train()
        lengths = [len(row) for row in self.tokens]
        self.rows = grouped_batches(lengths, batch_size=BATCH, rng=np.random.default_rng(SEED))
        self.real_tokens = token_efficiency(lengths, self.rows)
        self.batches = [self._batch(rows) for rows in self.rows]

    def _batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        longest = max(len(self.tokens[i]) for i in rows)
        ids = torch.tensor([[*self.tokens[i], *[self.base.pad_id] * (longest - len(self.tokens[i]))] for i in rows])
        mask = torch.arange(longest) < torch.tensor([len(self.tokens[i]) for i in rows])[:, None]
        return ids, mask, torch.tensor([self.labels[i] for i in rows])

    @contextmanager
    def precision(self, bf16: bool) -> Iterator[None]:
        with fp32_attention(self.network, when=bf16), frozen_in_bf16(self.network, when=bf16):
            yield

    # ------------------------------------------------------------------------------------- what is timed
    def forward(self) -> None:
        with torch.inference_mode():
            for ids, mask, _ in self.batches:
                self.plain(input_ids=ids, attention_mask=mask.long())

    def learning(self, method: TrainingMethod, *, bf16: bool) -> Work:
        """The gradient of every batch, as the training loop takes it."""
        bf16 = bf16 and not method.needs_float32
        setting = Setting(self.network, self.tokens, self.labels, SEED, self.texts, self.lent)
        companion, draws = method.companion(setting), torch.Generator().manual_seed(SEED)

        def work() -> None:
            with self.precision(bf16):
                for batch in self.batches:
                    method.backward(Step(self.network, *batch, draws=draws, bf16=bf16, companion=companion))
                    self.network.zero_grad(set_to_none=True)

        return work

    def searching(self, *, bf16: bool) -> Work:
        """One inner step on every batch: forward, and backward to the perturbation alone."""
        draws = torch.Generator().manual_seed(SEED)

        def work() -> None:
            with self.precision(bf16):
                for batch in self.batches:
                    step = Step(self.network, *batch, draws=draws, bf16=bf16)
                    ascend(step, Radius(value=RADIUS), n_steps=1, step_size=None, init_size=0.0)

        return work


# -------------------------------------------------------------------------------- a public-style implementation
def public_style(ground: Ground, adapter: Lora, *, pad: str) -> Work:
    """PGD as it is usually written on Hugging Face's Trainer with PEFT: every ascent step runs ``loss.backward()``.

    Weights are not folded and gather gradients that are thrown away; batches are random and padded to ``pad``.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    encoder = model_stage.BaseEncoder(base="minilm_l6", max_tokens=128, dropout=0.0)
    plain = model_stage.load(encoder, ("a", "b"), seed=SEED, device="cpu").network
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=adapter.rank, lora_alpha=adapter.alpha, target_modules=["query", "value"]
    )
    model: Any = get_peft_model(plain, config)

    class PgdTrainer(Trainer):
        def training_step(self, model: Any, inputs: Any, *_rest: Any) -> Tensor:
            model.train()
            inputs = self._prepare_inputs(inputs)
            ids, labels = inputs.pop("input_ids"), inputs.pop("labels")
            embedded = model.get_input_embeddings()(ids)
            delta = torch.zeros_like(embedded)
            for _ in range(STEPS):
                delta.requires_grad_(True)
                loss = model(inputs_embeds=embedded.detach() + delta, labels=labels, **inputs).loss
                loss.backward()
                gradient = delta.grad
                delta = delta.detach() + 0.5 * RADIUS * gradient / gradient.norm(dim=(1, 2), keepdim=True)
                delta = delta * (RADIUS / delta.norm(dim=(1, 2), keepdim=True)).clamp_max(1.0)
                model.zero_grad()
            loss = model(inputs_embeds=embedded + delta, labels=labels, **inputs).loss
            self.accelerator.backward(loss)
            return loss.detach()

    arguments = TrainingArguments(
        output_dir=f"{gettempdir()}/robusweep-bench", per_device_train_batch_size=BATCH, num_train_epochs=1,
        learning_rate=1e-9, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    rows = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label}
        for ids, label in zip(ground.tokens, ground.labels, strict=True)
    ]
    collate = DataCollatorWithPadding(
        ground.base.tokenizer, padding="max_length" if pad == "128" else True, max_length=128
    )

    def work() -> None:
        PgdTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()

    return work


# ------------------------------------------------------------------------------------------- the measurement
def measured(works: Mapping[str, Work], *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each variant by round; the first round warms up and does not count."""
    rng, seconds = random.Random(SEED), {name: list[float]() for name in works}
    for turn in range(rounds + 1):
        for name in rng.sample(list(works), len(works)):
            began = time.process_time()
            works[name]()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> str:
    """The median ratio with its quartiles."""
    ratios = np.array(seconds[name]) / np.array(seconds[to])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:6.2f} [{low:.2f}, {high:.2f}]"


def methods_table(ground: Ground, named: Sequence[str], *, rounds: int) -> None:
    """Every method in float32 and in bfloat16."""
    works: dict[str, Work] = {"F": ground.forward, "search": ground.searching(bf16=False)}
    works["search bf16"] = ground.searching(bf16=True)
    for kind in named:
        method = kinds(AnyTraining)[kind].model_validate(SIZES.get(kind, {}))
        works[kind] = ground.learning(method, bf16=False)  # type: ignore[arg-type]
        works[f"{kind} bf16"] = ground.learning(method, bf16=True)  # type: ignore[arg-type]
    seconds = measured(works, rounds=rounds)
    print(f"{'method':18} {'in F, fp32':>22} {'in plain, fp32':>22} {'in plain, bf16':>22} {'fp32 / bf16':>22}")
    for kind in ["search", *named]:
        plain = [ratio(seconds, kind, "standard"), ratio(seconds, f"{kind} bf16", "standard bf16")]
        cells = [ratio(seconds, kind, "F"), *plain, ratio(seconds, kind, f"{kind} bf16")]
        print(f"{kind:18} " + " ".join(f"{cell:>22}" for cell in cells), flush=True)
    if "pgd" in named:
        limit = 2 * STEPS + 2
        times = float(np.median(np.array(seconds["pgd"]) / seconds["F"]))
        print(f"pgd of {STEPS} steps: {times / limit:.3f} of 2K + 2 = {limit} F")


def public_table(ground: Ground, *, rounds: int) -> None:
    """Our PGD against the Trainer's, an epoch over the same texts, optimiser included."""
    from robusweep.training.loop import fit
    from robusweep.training.pgd import Pgd

    method = Pgd(radius=Radius(value=RADIUS), n_steps=STEPS, n_epochs=1, batch_size=BATCH, learning_rate=1e-9)

    def ours(bf16: bool) -> Work:
        return lambda: fit(ground.network, method, ground.tokens, ground.labels, pad_id=ground.base.pad_id, seed=SEED,
                           bf16=bf16) and None  # fmt: skip

    works = {"ours fp32": ours(False), "ours bf16": ours(True)}
    works |= {f"Trainer, padded to {pad}": public_style(ground, Lora(), pad=pad) for pad in ("128", "longest")}
    seconds = measured(works, rounds=rounds)
    print(f"\npgd of {STEPS} steps, an epoch over {len(ground.texts)} texts, optimiser included;", end=" ")
    print(f"real / computed tokens of ours: {ground.real_tokens:.3f}")
    for name in works:
        print(f"{name:26} {ratio(seconds, name, 'ours fp32')} times ours fp32, {ratio(seconds, name, 'ours bf16')} "
              f"times ours bf16")  # fmt: skip


def main() -> None:
    """Read the command line and print the tables."""
    possible = [kind for kind in kinds(AnyTraining) if kind not in EXTRA_TEXTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", choices=("lora", "full"), default="lora")
    parser.add_argument("--methods", nargs="+", choices=possible, default=possible)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    adapter: Adapter = Lora() if asked.adapter == "lora" else Full()
    ground = Ground(adapter, n_texts=asked.texts)
    named = list(dict.fromkeys(["standard", *asked.methods]))
    print(f"{asked.adapter}, {asked.texts} texts, batches of {BATCH}, {asked.rounds} rounds, one thread", flush=True)
    methods_table(ground, named, rounds=asked.rounds)
    if asked.adapter == "lora" and "pgd" in named:
        public_table(ground, rounds=asked.rounds)


if __name__ == "__main__":
    main()
