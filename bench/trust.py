"""Whether the numbers can be believed, on real models and real texts: what the acceptance of the engine asks for.

    python bench/trust.py parity --n 100        # outcomes against textattack.Attacker, example by example
    python bench/trust.py attacks --n 60        # every attack that runs here; is the protocol obeyed
    python bench/trust.py flags --n 60          # four fake defences, and honest models

``--victim`` names a corpus of bench/victims.py (rotten_tomatoes, bbc_news, ag_news); it may be given several times.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from victims import victim_folder

from robusweep import model as model_stage
from robusweep.attacks import PROTOCOLS, Attack, attack_kinds, run_attack
from robusweep.attacks.audit import violations
from robusweep.attacks.evaluation import Evaluation, Terms
from robusweep.attacks.run import seed_generators
from robusweep.cache import Cache
from robusweep.evaluate import Question, label_index, rows_of
from robusweep.examples import Example, Gradient
from robusweep.model import TextModel
from robusweep.record import AttackOutcome, AttackScore
from robusweep.scores import Rate
from robusweep.seeds import derive

STANDARD = PROTOCOLS["standard_v1"]
SEED = 0
PARITY = ("deepwordbug", "pwws", "textfooler_wordnet", "textbugger_wordnet", "a2t_wordnet")


@dataclass(frozen=True)
class Target:
    name: str
    model: TextModel
    examples: list[Example]
    rest: list[Example]  # for the temperature


def target(name: str, n: int) -> Target:
    folder, data = victim_folder(name)
    model = model_stage.load_classifier(str(folder), device="cpu", max_tokens=128)
    rows = rows_of(Question(str(folder), data, [], STANDARD))[0]
    index = label_index(Question(str(folder), data, [], STANDARD), rows, model.label_names)
    examples = [Example(row.text, index[row.label]) for row in rows]
    return Target(name, model, examples[:n], examples[n : n + 200])


def attack_of(kind: str) -> Attack:
    return attack_kinds()[kind].model_validate({"kind": kind})


def text(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


# ------------------------------------------------------------------------------------------------ parity
def attackers_own(attack: Attack, asked: Any, white_box: Any, examples: Sequence[Example]) -> list[tuple[Any, ...]]:
    """(result, adversarial text, queries) from ``textattack.Attacker``, every generator seeded before each example."""
    from robusweep.attacks import parts
    from robusweep.attacks.library import import_textattack, quiet

    textattack = import_textattack()
    wrapper = parts.VictimWrapper(white_box=white_box)
    wrapper.victim = asked
    with quiet():
        built = attack.build(STANDARD, wrapper)

    class Seeded(textattack.datasets.Dataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, i: int) -> Any:
            n_words = parts.AttackedText(examples[i].text).num_words
            built.goal_function.query_budget = STANDARD.max_queries(n_words)
            seed_generators(derive(SEED, attack.kind, examples[i].id))
            return super().__getitem__(i)

    dataset = Seeded([(example.text, example.label) for example in examples])
    arguments = textattack.AttackArgs(num_examples=len(examples), silent=True, disable_stdout=True)
    found = []
    for result in textattack.Attacker(built, dataset, arguments).attack_dataset():
        kind = type(result).__name__.removesuffix("AttackResult")
        found.append((kind, result.perturbed_text() if kind == "Successful" else None, result.num_queries))
    return found


def told(outcomes: Sequence[AttackOutcome]) -> list[tuple[Any, ...]]:
    kinds = {"broken": "Successful", "survived": "Failed", "misclassified": "Skipped"}
    return [(kinds[o.status], o.perturbed_text, o.n_queries) for o in outcomes]


def parity(aim: Target) -> None:
    """Attacker asks this project's packed victim, and the Hugging Face module itself in batches and text by text.

    The last two show how often TextAttack differs from itself, because a padded batch rounds in its own way.
    """
    import torch

    _, exact = model_stage.victims(aim.model, {}, bf16=False)
    network, tokenizer = aim.model.network.eval(), aim.model.tokenizer

    def plain(texts: Sequence[str]) -> Any:
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            return network(**batch).logits.float().numpy()

    def one_by_one(texts: Sequence[str]) -> Any:
        return np.concatenate([plain([text]) for text in texts])

    for kind in PARITY:
        attack = attack_of(kind)
        expected = {
            "packed": attackers_own(attack, exact, exact, aim.examples),
            "Hugging Face": attackers_own(attack, plain, exact, aim.examples),
            "Hugging Face, one by one": attackers_own(attack, one_by_one, exact, aim.examples),
        }
        itself = zip(expected["Hugging Face"], expected["Hugging Face, one by one"], strict=True)
        print(f"{aim.name:16} {kind:20} Hugging Face against itself, one by one: {sum(a != b for a, b in itself)}")
        for engine, lanes in (("textattack", 1), ("textattack", 8), ("textattack", 64), ("auto", 32)):
            found = told(
                run_attack(
                    attack,
                    victim=exact,
                    exact=exact,
                    examples=aim.examples,
                    protocol=STANDARD,
                    seed=SEED,
                    n_lanes=lanes,
                    engine=engine,  # type: ignore[arg-type]
                )
            )
            differ = {name: sum(a != b for a, b in zip(found, rows, strict=True)) for name, rows in expected.items()}
            native = "native where there is one" if engine == "auto" else "lockstep"
            asked = f"{aim.name:16} {kind:20} {native}, {lanes} lanes, {len(found)} examples"
            print(f"{asked}: differences from Attacker {differ}", flush=True)


# ----------------------------------------------------------------------------------------------- attacks
def every_attack(aim: Target) -> None:
    fast, exact = model_stage.victims(aim.model, {}, bf16=model_stage.bf16_pays("cpu"))
    right = exact([e.text for e in aim.examples]).argmax(axis=1) == np.array([e.label for e in aim.examples])
    print(f"{aim.name}: clean {text(Rate.of(int(right.sum()), len(right)))}, n = {len(right)}")
    for kind in attack_kinds():
        attack = attack_of(kind)
        if attack.missing(STANDARD):
            continue
        began = time.process_time()
        found = run_attack(attack, victim=fast, exact=exact, examples=aim.examples, protocol=STANDARD, seed=SEED)
        seconds = time.process_time() - began
        broken_rules = [v for e, o in zip(aim.examples, found, strict=True) for v in violations(attack, STANDARD, e, o)]
        score = AttackScore.of(found)
        print(
            f"{aim.name:16} {kind:24} {text(score.accuracy_under_attack)}  queries {score.n_queries_median or 0:6.0f} "
            f"words {score.n_words_changed_mean or 0:4.1f}  similarity {score.similarity or 0:.3f}  "
            f"{score.n_exhausted} out of queries, {len(broken_rules)} violations {broken_rules[:2]}, {seconds:.0f} s",
            flush=True,
        )


# ------------------------------------------------------------------------------------------------- flags
class Changed:
    """A victim whose logits are made into something else: a defence in name only. It has no temperature of its own."""

    def __init__(self, victim: Any, change: Any, *, blind: bool = False) -> None:
        self._victim, self._change, self._blind = victim, change, blind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._victim, name)

    def __call__(self, texts: Sequence[str]) -> Any:
        return self._change(self._victim(texts))

    def logits(self, rows: Any) -> Any:
        return self._change(self._victim.logits(rows))

    def gradients(self, texts: Sequence[str]) -> list[Gradient]:
        found = self._victim.gradients(texts)
        return [Gradient(g.ids, g.tokens, np.zeros_like(g.values)) for g in found] if self._blind else found

    def forgetful(self) -> Changed:
        return Changed(self._victim.forgetful(), self._change, blind=self._blind)

    def tempered(self, temperature: float | None) -> Changed:
        scale = np.float32(temperature or 1.0)
        return Changed(self._victim, lambda logits: self._change(logits) / scale, blind=self._blind)


def rounded(logits: Any) -> Any:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.log(np.round(p / p.sum(axis=1, keepdims=True), 1) + 1e-3).astype(np.float32)


def flags(aim: Target) -> None:
    _, exact = model_stage.victims(aim.model, {}, bf16=False)
    draws = np.random.default_rng(0)
    noise = lambda logits: logits + draws.normal(scale=0.2, size=logits.shape).astype(np.float32)  # noqa: E731
    victims: dict[str, Any] = {
        "honest": exact,
        "fake: logits x 1000": Changed(exact, lambda logits: logits * np.float32(1000)),
        "fake: rounded scores": Changed(exact, rounded),
        "fake: random noise": Changed(exact, noise),
        "fake: gradient blocked": Changed(exact, lambda logits: logits, blind=True),
    }
    terms = Terms(STANDARD, SEED, bf16=False, device="cpu")
    for name, victim in victims.items():
        with TemporaryDirectory() as folder:
            made = {"digest": name, "clean": aim.examples, "calibration": aim.rest, "terms": terms}
            evaluation = Evaluation(victim, victim, **made, cache=Cache(Path(folder)))
            suite = {}
            for kind in ("deepwordbug", "textfooler_wordnet", "hard_label_wordnet"):
                attack = attack_of(kind)
                suite[kind] = (attack, evaluation.attack(attack, aim.examples))
            found = evaluation.flags(suite, aim.examples)
        shown = ", ".join(f"{flag.name} ({flag.detail})" for flag in found) or "none"
        print(f"{aim.name:16} {name:24} temperature {evaluation.temperature or 0:.3g}  flags: {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=("parity", "attacks", "flags"))
    parser.add_argument("--victim", action="append")
    parser.add_argument("--n", type=int, default=60)
    asked = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    for name in asked.victim or ["rotten_tomatoes"]:
        {"parity": parity, "attacks": every_attack, "flags": flags}[asked.check](target(name, asked.n))


if __name__ == "__main__":
    main()
