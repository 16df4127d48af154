"""How fast the attack engine is, against TextAttack's own code and against the raw forward pass, in one run.

    python bench/attack.py                                  # trains MiniLM on film reviews first (minutes, once)
    python bench/attack.py --model DIR --data FILE.csv      # a classifier and texts of your own

One thread. Every variant attacks the same examples under the same constraints (``standard_v1``) and, in float32, has
the same outcomes; variants take turns in random order, caches are emptied before each turn, and times are CPU times of
the process. Printed are medians of ratios within a round, with their quartiles.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from victims import victim_folder

from robusweep import model as model_stage
from robusweep.attacks import PROTOCOLS, Attack, Protocol, run_attack
from robusweep.attacks import native as native_engine
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.encoder import sentence_encoder
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.run import seed_generators
from robusweep.attacks.textfooler import TextFoolerWordNet
from robusweep.evaluate import Question, label_index, rows_of
from robusweep.examples import Example, Gradient, Row
from robusweep.seeds import derive

STANDARD = PROTOCOLS["standard_v1"]
SEARCH_BOUND = STANDARD.changed({"min_similarity": None})  # no sentence vectors: the victim is all there is to wait for
SEED = 0


# ----------------------------------------------------------------------------------------- what is attacked
def examples_of(model: Any, folder: Path, data: Path, n: int) -> list[Example]:
    """The first texts that the model gets right, so that every variant has the same work."""
    question = Question(str(folder), data, [], STANDARD)
    rows = rows_of(question)[0][: 3 * n]
    index = label_index(question, rows, model.label_names)
    predicted = model_stage.victim(model, {}, precision="fp32")([row.text for row in rows]).argmax(axis=1)
    right = [Example(r.text, index[r.label]) for r, p in zip(rows, predicted, strict=True) if index[r.label] == p]
    return right[:n]


# ------------------------------------------------------------------------------------------------ variants
def textattacks_own(attack: Attack, protocol: Protocol, wrapper: Any, examples: Sequence[Example]) -> int:
    """TextAttack's code, one example after the other, as ``Attacker`` runs it; the number of queries."""
    from robusweep.attacks import parts
    from robusweep.attacks.library import quiet

    own = parts.VictimWrapper()
    own.victim = wrapper
    with quiet():
        built = attack.build(protocol, own)
    if not callable(getattr(wrapper, "logits", None)):  # TextAttack's wrapper is asked directly
        built.goal_function.model = wrapper
    n_queries = 0
    for example in examples:
        text = parts.AttackedText(example.text)
        built.goal_function.query_budget = protocol.max_queries(text.num_words) or float("inf")
        seed_generators(derive(SEED, attack.kind, example.id))
        n_queries += built.attack(text, example.label).num_queries
    return n_queries


def dynamic_wrapper(network: Any, tokenizer: Any, max_tokens: int) -> Any:
    """TextAttack's wrapper of a Hugging Face model with its one flaw mended: it pads to the longest text."""
    import torch

    from robusweep.attacks import parts

    class Dynamic(parts.textattack.models.wrappers.HuggingFaceModelWrapper):  # type: ignore[misc]
        def __call__(self, texts: list[str]) -> Any:
            inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
            with torch.no_grad():
                return network(**inputs).logits

    return Dynamic(network, tokenizer)


class Free:
    """A victim that costs nothing and never changes its mind: what is left is the engine's own time."""

    n_asked = n_computed = 0

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[str, Row] = {}

    def __call__(self, texts: Sequence[str]) -> Any:
        return self._logits([len(text) * 31 + ord(text[len(text) // 2]) for text in texts])

    def logits(self, rows: Sequence[Row]) -> Any:
        return self._logits([int(row[len(row) // 2]) + 31 * len(row) for row in rows])

    @staticmethod
    def _logits(numbers: Sequence[int]) -> Any:
        score = (np.asarray(numbers) % 97).astype(np.float32) / 97
        return np.stack([3.0 + score, np.zeros_like(score)], axis=1)

    def rows(self, texts: Sequence[str]) -> list[Row]:
        return [np.asarray(r, dtype=np.int64) for r in self._tokenizer(list(texts))["input_ids"]]

    def pieces(self, parts: Sequence[str]) -> list[Row]:
        if new := [part for part in dict.fromkeys(parts) if part not in self._pieces]:
            ids = self._tokenizer(new, add_special_tokens=False)["input_ids"]
            self._pieces.update(zip(new, (np.asarray(r, dtype=np.int64) for r in ids), strict=True))
        return [self._pieces[part] for part in parts]

    def row(self, ids: Sequence[Row]) -> Row:
        return np.concatenate([[101], *ids, [102]])

    def embeddings(self, ids: Row) -> Any:
        raise NotImplementedError("a free victim has no weights")

    def gradients(self, texts: Sequence[str]) -> list[Gradient]:
        raise NotImplementedError("a free victim has no weights")

    def tempered(self, _temperature: float | None) -> Free:
        return self

    def forgetful(self) -> Free:
        return self


# --------------------------------------------------------------------------------------------- measurement
def cpu() -> str:
    """The instructions that matter for the speed of bfloat16."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    return ", ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags) or "unknown CPU"


def emptied() -> None:
    """Nothing is remembered from another variant: no sentence vectors, no candidates, no tags."""
    sentence_encoder.cache_clear()
    native_engine._candidates.cache_clear()
    sentence_encoder("cpu", False)
    sentence_encoder("cpu", True)


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """(CPU seconds, queries)."""
    emptied()
    began = time.process_time()
    n_queries = work()
    return time.process_time() - began, n_queries


def ratios(rounds: Sequence[dict[str, float]], slow: str, fast: str) -> str:
    found = np.array([r[slow] / r[fast] for r in rounds])
    low, middle, high = np.percentile(found, [25, 50, 75])
    return f"{middle:6.2f}x  [{low:.2f}, {high:.2f}]"


def interleaved(variants: dict[str, Callable[[], int]], n_rounds: int, per: dict[str, int]) -> list[dict[str, float]]:
    """For each round, CPU seconds for each query of each variant; ``per``: queries are printed once."""
    rounds = []
    for number in range(n_rounds):
        names = list(variants)
        random.Random(number).shuffle(names)
        found = {}
        for name in names:
            seconds, n_queries = timed(variants[name])
            found[name], per[name] = seconds / n_queries, n_queries
        rounds.append(found)
        print(f"  round {number + 1}: " + ", ".join(f"{n} {1 / found[n]:.1f} q/s" for n in variants), flush=True)
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--n", type=int, default=48, help="examples for each variant")
    parser.add_argument("--n-slow", type=int, default=2, help="examples for TextAttack's own wrapper")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    folder, data = (asked.model, asked.data) if asked.model else victim_folder(root=asked.root)
    model = model_stage.load_classifier(str(folder), device="cpu")
    examples = examples_of(model, folder, data, asked.n)
    lengths = [len(row) for row in model.tokens([e.text for e in examples])]
    print(f"{folder}: {len(examples)} texts of {np.mean(lengths):.0f} tokens; {cpu()}")
    figures: dict[str, Any] = {"n": len(examples), "rounds": asked.rounds, "mean_tokens": float(np.mean(lengths))}

    from robusweep.attacks import parts

    network, tokenizer = model.network, model.tokenizer
    padded = parts.textattack.models.wrappers.HuggingFaceModelWrapper(network, tokenizer)
    dynamic = dynamic_wrapper(network, tokenizer, model.max_tokens)
    has_bf16 = model_stage.bf16_pays("cpu")
    pack_once = model_stage.victims(model, {}, bf16=has_bf16)

    def engine(attack: Attack, protocol: Protocol, *, bf16: bool, kind: Any = "auto") -> Callable[[], int]:
        def work() -> int:
            fast, exact = (victim.forgetful() for victim in pack_once)
            fast = fast if bf16 else exact
            found = run_attack(
                attack,
                victim=fast,
                exact=exact,
                examples=examples,
                protocol=protocol,
                seed=SEED,
                engine=kind,
                bf16=bf16,
            )
            return sum(outcome.n_queries for outcome in found)

        return work

    def raw(rows: Sequence[Row], *, bf16: bool) -> Callable[[], int]:
        def work() -> int:
            pack_once[0 if bf16 else 1].forgetful().logits(rows)
            return len(rows)

        return work

    fooler = TextFoolerWordNet()
    print(f"\n1. {fooler.kind} under {STANDARD.name}, CPU seconds for each query")
    variants: dict[str, Callable[[], int]] = {
        "textattack, own wrapper": lambda: textattacks_own(fooler, STANDARD, padded, examples[: asked.n_slow]),
        "textattack, dynamic padding": lambda: textattacks_own(fooler, STANDARD, dynamic, examples),
        "robusweep, lockstep fp32": engine(fooler, STANDARD, bf16=False, kind="textattack"),
        "robusweep, native fp32": engine(fooler, STANDARD, bf16=False),
        "robusweep, native fp32 lazy": engine(TextFoolerWordNet(lazy=True), STANDARD, bf16=False),
    }
    if has_bf16:
        variants["robusweep, native bf16"] = engine(fooler, STANDARD, bf16=True)
        variants["robusweep, native bf16 lazy"] = engine(TextFoolerWordNet(lazy=True), STANDARD, bf16=True)
    counts: dict[str, int] = {}
    rounds = interleaved(variants, asked.rounds, counts)
    for name in [name for name in variants if name.endswith(" lazy")]:
        more = counts[name] / counts[name.removesuffix(" lazy")]
        for found in rounds:  # a lazy search asks more: what counts is the time for the same outcomes
            found[name] *= more
    for slow in ("textattack, own wrapper", "textattack, dynamic padding"):
        for fast in [name for name in variants if name.startswith("robusweep")]:
            figures[f"{fast} / {slow}"] = ratios(rounds, slow, fast)
            print(f"  {fast:30} over {slow:30} {figures[f'{fast} / {slow}']}")

    print("\n2. engine efficiency: the raw forward pass over the same token ids in one go / the attack, no similarity")
    for attack in (fooler, Pwws(), DeepWordBug()):
        for bf16 in (False, True) if has_bf16 else (False,):
            rows = asked_rows(pack_once, attack, examples, bf16=bf16)
            work = {"attack": engine(attack, SEARCH_BOUND, bf16=bf16), "raw": raw(rows, bf16=bf16)}
            shares = [
                {"attack": a["attack"] * counts["attack"], "raw": a["raw"] * len(rows)}
                for a in interleaved(work, asked.rounds, counts)
            ]
            name = f"{attack.kind}, {'bf16' if bf16 else 'fp32'}"
            figures[f"efficiency: {name}"] = ratios(shares, "raw", "attack")
            print(f"  {name:30} {figures[f'efficiency: {name}']}")

    print("\n3. Python's own time for a query, with a free victim and no similarity")
    free = Free(tokenizer)
    for attack in (fooler, Pwws()):
        work = {
            "textattack": lambda attack=attack: textattacks_own(attack, SEARCH_BOUND, free, examples),
            "native": lambda attack=attack: sum(
                o.n_queries
                for o in run_attack(
                    attack,
                    victim=free,
                    exact=free,
                    examples=[Example(e.text, 0) for e in examples],
                    protocol=SEARCH_BOUND,
                    seed=SEED,
                )
            ),
        }
        found = interleaved(work, asked.rounds, counts)
        cost = np.array([[r[name] * 1e6 for name in work] for r in found])
        share = float(np.median(cost[:, 1] / cost[:, 0]))
        figures[f"python: {attack.kind}"] = {"textattack_us": float(np.median(cost[:, 0])), "share": share}
        print(
            f"  {attack.kind:20} TextAttack {np.median(cost[:, 0]):.0f} us, native {np.median(cost[:, 1]):.1f} us "
            f"for each query: {share:.3f} of it"
        )
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def asked_rows(victims: Any, attack: Attack, examples: Sequence[Example], *, bf16: bool) -> list[Row]:
    """The different token ids that an attack asks the network about."""
    seen: dict[bytes, Row] = {}
    fast, exact = (victim.forgetful() for victim in victims)
    victim = fast if bf16 else exact
    forward = victim._asked._forward

    def noting(rows: Sequence[Row]) -> Any:
        seen.update((row.tobytes(), row) for row in rows)
        return forward(rows)

    victim._asked._forward = noting
    run_attack(attack, victim=victim, exact=victim, examples=examples, protocol=SEARCH_BOUND, seed=SEED, bf16=bf16)
    return list(seen.values())


if __name__ == "__main__":
    main()
