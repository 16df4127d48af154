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
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ClassVar, Literal

import numpy as np
from victims import victim_folder

from robusweep import model as model_stage
from robusweep.attacks import PROTOCOLS, Attack, Protocol, run_attack
from robusweep.attacks import native as native_engine
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.encoder import sentence_encoder
from robusweep.attacks.greedy import Greedy
from robusweep.attacks.library import words_from_text
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.run import seed_generators
from robusweep.attacks.textfooler import TextFoolerWordNet
from robusweep.evaluate import Question, label_index, rows_of
from robusweep.examples import Example, Gradient, Row
from robusweep.seeds import derive

STANDARD = PROTOCOLS["standard_v1"]
SEARCH_BOUND = STANDARD.changed({"min_similarity": None})  # no sentence vectors: the victim is all there is to wait for
UNLIMITED = {"max_words_changed": None, "query_budget": None, "no_stop_words": False}  # no word is changed twice, still
FREE_SEARCH = SEARCH_BOUND.changed(UNLIMITED)
SEED = 0


class Plain(Attack):
    """The greedy search by itself: words ranked by what is lost without them, a table of candidates, no constraint."""

    kind: Literal["plain"] = "plain"
    table: str
    level: ClassVar[Literal["word", "char", "mixed"]] = "word"
    substitutions: ClassVar[tuple[str, ...]] = ()

    def greedy(self, protocol: Protocol) -> Greedy | None:  # noqa: ARG002
        return Greedy(ranking="unk", neighbours=self.table)

    def build(self, protocol: Protocol, wrapper: Any) -> Any:
        from robusweep.attacks import parts

        search = parts.textattack.search_methods.GreedyWordSwapWIR("unk")
        constraints = parts.common_constraints(protocol)
        return parts.textattack.Attack(
            parts.untargeted(wrapper), constraints, parts.SynonymSwap(None, self.table), search
        )


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
        self._before, self._after = np.array([101]), np.array([102])

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
        return np.concatenate([self._before, *ids, self._after])

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


class Bench:
    """What is measured: one model in both precisions, and the texts that it gets right."""

    def __init__(self, folder: Path, data: Path, *, n: int, n_slow: int, n_rounds: int) -> None:
        self.model = model_stage.load_classifier(str(folder), device="cpu")
        self.examples = examples_of(self.model, folder, data, n)
        self.n_slow, self.n_rounds = n_slow, n_rounds
        self.has_bf16 = model_stage.bf16_pays("cpu")
        self.victims = model_stage.victims(self.model, {}, bf16=self.has_bf16)
        self.figures: dict[str, Any] = {"n": n, "rounds": n_rounds}

    def engine(self, attack: Attack, protocol: Protocol, *, bf16: bool, kind: Any = "auto") -> Callable[[], int]:
        def work() -> int:
            fast, exact = (victim.forgetful() for victim in self.victims)
            found = run_attack(
                attack,
                victim=fast if bf16 else exact,
                exact=exact,
                examples=self.examples,
                protocol=protocol,
                seed=SEED,
                engine=kind,
                bf16=bf16,
            )
            return sum(outcome.n_queries for outcome in found)

        return work

    def against_textattack(self, title: str, protocol: Protocol) -> None:
        """Part 1: the same attack by TextAttack's code and by the engine."""
        from robusweep.attacks import parts

        network, tokenizer, fooler = self.model.network, self.model.tokenizer, TextFoolerWordNet()
        print(f"\n1. {fooler.kind}, {title}, CPU seconds for each query")
        padded = parts.textattack.models.wrappers.HuggingFaceModelWrapper(network, tokenizer)
        dynamic = dynamic_wrapper(network, tokenizer, self.model.max_tokens)
        few = self.examples[: self.n_slow]
        variants: dict[str, Callable[[], int]] = {
            "textattack, own wrapper": lambda: textattacks_own(fooler, protocol, padded, few),
            "textattack, dynamic padding": lambda: textattacks_own(fooler, protocol, dynamic, self.examples),
            "robusweep, lockstep fp32": self.engine(fooler, protocol, bf16=False, kind="textattack"),
        }
        for precision in ("fp32", "bf16") if self.has_bf16 else ("fp32",):
            variants[f"robusweep, native {precision}"] = self.engine(fooler, protocol, bf16=precision == "bf16")
            if protocol.min_similarity is not None:
                lazy = TextFoolerWordNet(lazy=True)
                variants[f"robusweep, native {precision} lazy"] = self.engine(lazy, protocol, bf16=precision == "bf16")
        counts: dict[str, int] = {}
        rounds = interleaved(variants, self.n_rounds, counts)
        for name in [name for name in variants if name.endswith(" lazy")]:
            more = counts[name] / counts[name.removesuffix(" lazy")]
            for found in rounds:  # a lazy search asks more: what counts is the time for the same outcomes
                found[name] *= more
        for slow in ("textattack, own wrapper", "textattack, dynamic padding"):
            for fast in [name for name in variants if name.startswith("robusweep")]:
                self.say(f"{fast} over {slow}, {title}", ratios(rounds, slow, fast))

    def efficiency(self) -> None:
        """Part 2: what the engine adds to the forward passes that it needs."""
        print("\n2. efficiency: the raw forward pass over the same token ids in one go / the attack, no similarity")
        for attack in (Pwws(), TextFoolerWordNet(), DeepWordBug()):
            for bf16 in (False, True) if self.has_bf16 else (False,):
                rows = self.asked_rows(attack, bf16=bf16)
                work = {"attack": self.engine(attack, SEARCH_BOUND, bf16=bf16), "raw": self.raw(rows, bf16=bf16)}
                counts: dict[str, int] = {}
                shares = [
                    {"attack": found["attack"] * counts["attack"], "raw": found["raw"] * len(rows)}
                    for found in interleaved(work, self.n_rounds, counts)
                ]
                self.say(f"efficiency of {attack.kind}, {'bf16' if bf16 else 'fp32'}", ratios(shares, "raw", "attack"))

    def raw(self, rows: Sequence[Row], *, bf16: bool) -> Callable[[], int]:
        def work() -> int:
            self.victims[0 if bf16 else 1].forgetful().logits(rows)
            return len(rows)

        return work

    def asked_rows(self, attack: Attack, *, bf16: bool) -> list[Row]:
        """The different token ids that an attack asks the network about."""
        seen: dict[bytes, Row] = {}
        fast, exact = (victim.forgetful() for victim in self.victims)
        victim: Any = fast if bf16 else exact
        forward = victim._asked._forward

        def noting(rows: Sequence[Row]) -> Any:
            seen.update((row.tobytes(), row) for row in rows)
            return forward(rows)

        victim._asked._forward = noting
        asked = {"examples": self.examples, "protocol": SEARCH_BOUND, "seed": SEED, "bf16": bf16}
        run_attack(attack, victim=victim, exact=victim, **asked)
        return list(seen.values())

    def python_cost(self) -> None:
        """Part 3: the time that is no forward pass."""
        print("\n3. Python's own time for a query, with a free victim and no similarity")
        free = Free(self.model.tokenizer)
        examples = [Example(example.text, 0) for example in self.examples]

        def native(attack: Attack, rules: Protocol) -> int:
            found = run_attack(attack, victim=free, exact=free, examples=examples, protocol=rules, seed=SEED)
            return sum(outcome.n_queries for outcome in found)

        plain = Plain(table=str(self.table()))
        for attack, rules in ((plain, FREE_SEARCH), (Pwws(), SEARCH_BOUND), (TextFoolerWordNet(), SEARCH_BOUND)):
            work = {
                "textattack": partial(textattacks_own, attack, rules, free, examples),
                "native": partial(native, attack, rules),
            }
            rounds = interleaved(work, self.n_rounds, {})
            slow, fast = (float(np.median([found[name] for found in rounds])) * 1e6 for name in work)
            share = float(np.median([found["native"] / found["textattack"] for found in rounds]))
            self.say(f"{attack.kind}: native Python time / TextAttack's", f"{share:.3f} ({fast:.1f} / {slow:.0f} us)")

    def table(self) -> Path:
        """Twelve candidates for every word of the texts, drawn among them."""
        words = sorted({word.lower() for example in self.examples for word in words_from_text(example.text)})
        draw = random.Random(SEED)
        path = Path(gettempdir()) / f"robusweep-bench-{os.getpid()}.json"
        path.write_text(json.dumps({word: draw.sample(words, 12) for word in words}), encoding="utf-8")
        return path

    def say(self, name: str, figure: str) -> None:
        self.figures[name] = figure
        print(f"  {name:80} {figure}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--n", type=int, default=48, help="examples for each variant")
    parser.add_argument("--n-slow", type=int, default=2, help="examples for TextAttack's own wrapper")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", type=int, choices=(1, 2, 3), action="append", help="these parts only")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    folder, data = (asked.model, asked.data) if asked.model else victim_folder(root=asked.root)
    bench = Bench(folder, data, n=asked.n, n_slow=asked.n_slow, n_rounds=asked.rounds)
    lengths = [len(row) for row in bench.model.tokens([e.text for e in bench.examples])]
    print(f"{folder}: {len(lengths)} texts of {np.mean(lengths):.0f} tokens; {cpu()}")
    parts = asked.part or (1, 2, 3)
    if 1 in parts:
        bench.against_textattack("under standard_v1", STANDARD)
        bench.against_textattack("without its similarity", SEARCH_BOUND)
    if 2 in parts:
        bench.efficiency()
    if 3 in parts:
        bench.python_cost()
    if asked.json:
        asked.json.write_text(json.dumps(bench.figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
