"""Attack a trained classifier on a file of labelled texts: what ``robusweep attack`` does, without a sweep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from robusweep import defended
from robusweep import model as model_stage
from robusweep.attacks import Attack, Protocol, attack_kinds, protocol_hash, resolve
from robusweep.attacks.evaluation import Evaluation, OnOutcome, Terms
from robusweep.attacks.protocol import ChangedProtocol, named_protocol
from robusweep.attacks.replay import Pool, aided, pooled
from robusweep.cache import Cache
from robusweep.data.base import Corpus, Row
from robusweep.data.cleaning import cleaned
from robusweep.data.csv_file import CsvFile
from robusweep.data.jsonl_file import JsonlFile
from robusweep.data.labelled_files import LabelledFile, row_of
from robusweep.data.parquet_file import ParquetFile
from robusweep.errors import MissingError, UsageError, nearest
from robusweep.examples import Example
from robusweep.mixing import PerText, System
from robusweep.model import TextModel
from robusweep.queries import ANSWERS, QueryMemory
from robusweep.record import FLAGS, AttackOutcome, AttackScore, Flag, StandIn, robust_accuracy
from robusweep.scores import Rate
from robusweep.shipping import opened
from robusweep.spec import digest_of

FORMATS: dict[str, type[LabelledFile]] = {
    ".csv": CsvFile,
    ".tsv": CsvFile,
    ".jsonl": JsonlFile,
    ".parquet": ParquetFile,
}
N_CALIBRATION = 200  # at most, from the rows behind those that are attacked
FEWEST_FOR_CALIBRATION = 30
OF_PARTS = "texts that break single adapters or their even mean"
Say = Callable[[str], None]
OnStart = Callable[[Evaluation, int, str], None]  # what is attacked now, on how many examples; "", or which part it is


@dataclass(frozen=True)
class Question:
    """What to attack, with what, and on which texts. ``n``: the first so many rows; None takes all.

    ``adaptive``: where mixing weights depend on the text, what breaks a single adapter or their mean is tried, too.
    """

    model: str
    data: Path
    attacks: Sequence[Attack]
    protocol: Protocol
    text_column: str = "text"
    label_column: str = "label"
    n: int | None = None
    seed: int = 0
    calibrate: bool = True
    adaptive: bool = True
    max_tokens: int = 512
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: model_stage.Precision = "auto"
    root: Path = Path()


@dataclass(frozen=True)
class Answer:
    """How a model stood. ``outcomes`` are by attack, in the order of ``examples``; ``predicted`` holds what the model
    says of each example and of each adversarial text.

    ``unaided``: the accuracy under each attack by itself, where texts that break single adapters were tried, too.
    """

    protocol: Protocol
    protocol_hash: str
    label_names: tuple[str, ...]
    labels: tuple[str, ...]  # of the examples, as the file writes them
    examples: tuple[Example, ...]
    clean_accuracy: Rate
    robust_accuracy: Rate | None  # None: no attack that changes labels
    outcomes: dict[str, list[AttackOutcome]]
    predicted: dict[str, int]
    flags: list[Flag]
    stand_ins: list[StandIn]
    temperature: float | None
    n_computed: int  # texts that went through the network in this run
    unaided: dict[str, Rate] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The numbers, as ``--json`` prints them."""
        return {
            "protocol": {"name": self.protocol.name, "hash": self.protocol_hash},
            "n": len(self.examples),
            "clean_accuracy": self.clean_accuracy.model_dump(),
            "robust_accuracy": self.robust_accuracy.model_dump() if self.robust_accuracy else None,
            "attacks": {name: _score(name, AttackScore.of(rows)) for name, rows in self.outcomes.items()},
            "unaided": {name: rate.model_dump() for name, rate in self.unaided.items()},
            "flags": [flag.model_dump() for flag in self.flags],
            "temperature": self.temperature,
            "stand_ins": [stand_in.model_dump() for stand_in in self.stand_ins],
        }

    def heading(self, question: Question) -> dict[str, Any]:
        """What stands at the head of the page of adversarial examples."""
        rates = [("clean accuracy", self.clean_accuracy)]
        rates += [("robust accuracy", self.robust_accuracy)] if self.robust_accuracy else []
        rates += [
            (
                f"accuracy under {name}" if _changes_labels(name) else f"not broken by {name}",
                score.accuracy_under_attack,
            )
            for name, score in ((name, AttackScore.of(rows)) for name, rows in self.outcomes.items())
        ]
        rates += [(f"accuracy under {name} by itself, without {OF_PARTS}", r) for name, r in self.unaided.items()]
        return {
            "title": f"{', '.join(self.outcomes)} against {question.model}",
            "facts": [
                ("model", question.model),
                ("data", f"{question.data}, {len(self.examples)} texts"),
                ("protocol", f"{self.protocol.name} (hash {self.protocol_hash})"),
                ("temperature", "none" if self.temperature is None else f"{self.temperature:.3g}"),
                ("seed", str(question.seed)),
            ],
            "flags": [(flag.name, f"{FLAGS[flag.name]} ({flag.detail})") for flag in self.flags],
            "notices": [stand_in.notice() for stand_in in self.stand_ins],
            "rates": rates,
        }

    def rows(self) -> list[dict[str, Any]]:
        """The lines with the names that the model gives: to the adversarial text, or to a text it gets wrong."""
        found = []
        for line, example in zip(self.lines(), [*self.examples] * len(self.outcomes), strict=True):
            shown = line["adversarial_text"] or (example.text if line["result"] == "skipped" else None)
            predicted = None if shown is None else self.label_names[self.predicted[shown]]
            found.append(line | {"label": self.label_names[example.label], "predicted": predicted})
        return found

    def lines(self) -> list[dict[str, Any]]:
        """One line for each example under each attack, as ``--out`` writes them."""
        results = {"survived": "failed", "broken": "success", "misclassified": "skipped"}
        return [
            {
                "text": example.text,
                "label": label,
                "attack": name,
                "result": results[outcome.status],
                "adversarial_text": outcome.perturbed_text,
                "n_queries": outcome.n_queries,
                "words_changed": outcome.n_words_changed,
                "similarity": outcome.similarity,
                "replayed": outcome.replayed,
            }
            for name, rows in self.outcomes.items()
            for example, label, outcome in zip(self.examples, self.labels, rows, strict=True)
        ]


def _changes_labels(attack: str) -> bool:
    return attack_kinds()[attack].goal == "change_label"


def _score(attack: str, score: AttackScore) -> dict[str, Any]:
    return {
        "goal": attack_kinds()[attack].goal,
        "accuracy_under_attack": score.accuracy_under_attack.model_dump(),
        "success_rate": score.success_rate.model_dump(),
        "n_queries_median": score.n_queries_median,
        "n_queries_p90": score.n_queries_p90,
        "words_changed_mean": score.n_words_changed_mean,
        "words_changed_share": score.words_changed,
        "similarity_mean": score.similarity,
        "n_queries": score.n_queries,
        "n_exhausted": score.n_exhausted,
        "accuracy_by_queries": [point.model_dump() for point in score.curve],
    }


def question_of(
    model: str,
    data: Path,
    attacks: Sequence[str],
    protocol: str,
    changes: Sequence[str],
    **named: Any,
) -> Question:
    """A question as the command line asks it: attacks and ``KEY=VALUE`` changes of the protocol as YAML.

    Raises ``UsageError`` that names the option, what was given and what is allowed.
    """
    try:
        base = named_protocol(protocol)
        block = {"base": protocol} | dict(_change(text) for text in changes)
        used = ChangedProtocol.model_validate(block).protocol() if changes else base
    except ValidationError as e:
        raise UsageError(f"--set {_first_of(e)}", hint=f"rules: {', '.join(_RULES)}") from None
    except ValueError as e:
        raise UsageError(f"--protocol: {e}") from None
    for option, allowed in (("device", ("auto", "cpu", "cuda")), ("precision", ("auto", "fp32", "bf16"))):
        if named[option] not in allowed:
            raise UsageError(f"--{option} {named[option]!r} (allowed: {', '.join(allowed)})")
    return Question(model, data, [_attack(text) for text in attacks], used, **named)


_RULES = [name for name in ChangedProtocol.model_fields if name != "base"]


def _change(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or key not in _RULES:
        near = nearest(key, _RULES)
        raise UsageError(
            f"--set {text!r}: KEY=VALUE with one of the keys {', '.join(_RULES)}",
            hint=f"did you mean {near!r}?" if near else None,
        )
    return key, yaml.safe_load(value)


def _attack(text: str) -> Attack:
    """An attack from its name, or from a YAML block with its fields."""
    try:
        given = yaml.safe_load(text)
        kind = given.get("kind") if isinstance(given, dict) else given
        if kind not in attack_kinds():
            near = nearest(str(kind), attack_kinds())
            raise UsageError(
                f"--attack: there is no attack {str(kind)!r} (allowed: {', '.join(attack_kinds())})",
                hint=f"did you mean {near!r}?" if near else None,
            )
        return attack_kinds()[kind].model_validate(given if isinstance(given, dict) else {"kind": given})
    except yaml.YAMLError:
        raise UsageError(f"--attack {text!r}: neither a name nor a block such as {{kind: pwws}}") from None
    except ValidationError as e:
        raise UsageError(f"--attack {text!r}: {_first_of(e)}") from None


def _first_of(error: ValidationError) -> str:
    """The first key that is wrong, with everything that is said of it."""
    place = error.errors()[0]["loc"][:1]
    said = [detail["msg"].removeprefix("Value error, ") for detail in error.errors() if detail["loc"][:1] == place]
    message = " or ".join(dict.fromkeys(said))
    return f"{place[0]}: {message}" if place else message


def attack_model(
    question: Question,
    *,
    say: Say = lambda _text: None,
    on_start: OnStart = lambda _evaluation, _n, _part: None,
    on_outcome: OnOutcome | None = None,
) -> Answer:
    """Attack the model; give the same question again after a kill, and no query is repeated.

    What is known lies in ``root/cache``. ``say`` hears notices, ``on_start`` what is attacked next; ``on_outcome`` gets
    each outcome at once. Raises ``MissingError`` for a model, file, column or resource that can't be read or had, and
    ``UsageError`` for a label that the model does not know.
    """
    attacks, stand_ins = _resolved(question)
    for stand_in in stand_ins:
        say(f"NOTICE {stand_in.notice()}")
    rows, notes = rows_of(question)
    device = model_stage.device_of(question.device)
    model, system, identity = opened(question.model, device=device, max_tokens=question.max_tokens)
    index = label_index(question, rows, model.label_names)
    for note in notes:  # only now: what can't be attacked gets one line, the error
        say(note)
    taken, rest = rows[: question.n], rows[len(rows[: question.n]) :]
    examples = [Example(row.text, index[row.label]) for row in taken]
    calibration = [Example(row.text, index[row.label]) for row in rest[:N_CALIBRATION]] if question.calibrate else []
    if question.calibrate and len(calibration) < FEWEST_FOR_CALIBRATION:
        say(
            f"no temperature: {len(calibration)} rows are left behind the attacked ones, {FEWEST_FOR_CALIBRATION} are "
            "needed; over-confidence may look robust"
        )
        calibration = []
    if isinstance(system, PerText):
        tried = f"{OF_PARTS} are {'tried, too' if question.adaptive else 'not tried'}"
        say(f"{'' if question.adaptive else 'NOTICE '}mixing weights depend on the text: {tried}")
    evaluated = _evaluations(question, model, identity, examples, calibration)
    evaluation = evaluated(system)
    on_start(evaluation, len(examples), "")
    alone = {attack.kind: evaluation.attack(attack, examples, on_outcome=on_outcome) for attack in attacks}
    suite = {attack.kind: (attack, alone[attack.kind]) for attack in attacks}
    flags = evaluation.flags(suite, examples)
    aimed = [attack for attack in attacks if attack.goal == "change_label"]
    aids, n_more = dict[str, Pool](), 0
    if isinstance(system, PerText) and question.adaptive:
        standing = [(attack, _standing(examples, alone[attack.kind])) for attack in aimed]
        aids, n_more = _against_parts(system, standing, evaluated, on_start=on_start, on_outcome=on_outcome)
    elif isinstance(system, PerText):
        flags.append(Flag(name="no_adaptive_attack", detail="--no-adaptive"))
    outcomes = alone | {name: aided(evaluation, alone[name], examples, pool) for name, pool in aids.items()}
    texts = [e.text for e in examples]
    texts += [o.perturbed_text for found in outcomes.values() for o in found if o.perturbed_text is not None]
    predicted = dict(zip(texts, evaluation.predictions(texts), strict=True))
    return Answer(
        protocol=question.protocol,
        protocol_hash=_hash(question, attacks, examples, calibrated=bool(calibration)),
        label_names=model.label_names,
        labels=tuple(row.label for row in taken),
        examples=tuple(examples),
        clean_accuracy=evaluation.clean_accuracy,
        robust_accuracy=robust_accuracy({attack.kind: outcomes[attack.kind] for attack in aimed}) if aimed else None,
        outcomes=outcomes,
        predicted=predicted,
        flags=flags,
        stand_ins=stand_ins,
        temperature=evaluation.temperature,
        n_computed=evaluation.n_computed + n_more,
        unaided={name: AttackScore.of(alone[name]).accuracy_under_attack for name in aids},
    )


def _standing(examples: Sequence[Example], outcomes: Sequence[AttackOutcome]) -> list[Example]:
    return [example for example, o in zip(examples, outcomes, strict=True) if o.status == "survived"]


def _against_parts(
    system: PerText,
    standing: Sequence[tuple[Attack, Sequence[Example]]],
    evaluated: Callable[[System], Evaluation],
    *,
    on_start: OnStart,
    on_outcome: OnOutcome | None,
) -> tuple[dict[str, Pool], int]:
    """(by attack, what it breaks of each adapter alone and of their even mean; how many texts that computed).

    ``standing``: the examples that still stand under each attack. Only for these it matters what breaks a part.
    """
    found: dict[str, list[Sequence[AttackOutcome]]] = {attack.kind: [] for attack, _ in standing}
    n_computed = 0
    parts = defended.aides(system) if any(examples for _, examples in standing) else []
    for name, part in zip([*(f"{name} alone" for name in system.adapters.names), "even mean"], parts, strict=False):
        evaluation = evaluated(part)
        for attack, examples in standing:
            on_start(evaluation, len(examples), name)
            found[attack.kind].append(evaluation.attack(attack, examples, on_outcome=on_outcome))
        n_computed += evaluation.n_computed
    return {name: pooled(rows) for name, rows in found.items()}, n_computed


def _resolved(question: Question) -> tuple[list[Attack], list[StandIn]]:
    attacks: dict[str, Attack] = {}
    stand_ins = []
    for asked in question.attacks:
        attack, stand_in = resolve(asked, question.protocol)
        if attack.kind in attacks:
            also = f" ({stand_in.asked!r} is replaced by it)" if stand_in else ""
            raise UsageError(f"the attack {attack.kind!r} is asked for twice{also}", hint="name each attack once")
        attacks[attack.kind] = attack
        stand_ins += [stand_in] if stand_in else []
    return list(attacks.values()), stand_ins


def rows_of(question: Question) -> tuple[list[Row], list[str]]:
    """The file's rows, cleaned as a recipe's data are, and what there is to say of that."""
    suffix = question.data.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"--data {question.data}: unknown kind of file {suffix or '(none)'!r} (allowed: {', '.join(FORMATS)})"
        )
    source = FORMATS[suffix].model_validate(
        {"kind": FORMATS[suffix].model_fields["kind"].default, "path": str(question.data)}
        | {"text": question.text_column, "label": question.label_column}
    )
    try:
        read = tuple(map(row_of, source.records(question.data)))
    except MissingError as e:
        if "has no column" not in e.message:
            raise
        raise MissingError(e.message, hint="--text-column and --label-column name the columns") from None
    names = tuple(sorted({row.label for row in read}))
    corpus = cleaned(Corpus(name=question.data.stem, label_names=names, rows=read), None)
    if not corpus.rows:
        raise MissingError(f"{question.data} holds no rows with a text")
    notes = [f"data: {note}" for note in corpus.notes]
    if question.n is not None and question.n > len(corpus.rows):
        notes.append(f"data: {question.n} examples are asked for, {len(corpus.rows)} are there: all are attacked")
    return list(corpus.rows), notes


def label_index(question: Question, rows: Sequence[Row], label_names: Sequence[str]) -> dict[str, int]:
    """The model's index of each label of the file: by name, by name in any case, or as a number from 0."""
    exact = {name: i for i, name in enumerate(label_names)}
    folded = {name.casefold(): i for i, name in enumerate(label_names)}
    numbered = {str(i): i for i in range(len(label_names))}
    found: dict[str, int] = {}
    for row in rows:
        index = exact.get(row.label, folded.get(row.label.casefold(), numbered.get(row.label)))
        if index is None:
            near = nearest(row.label, label_names)
            raise UsageError(
                f"{question.data}: the label {row.label!r} is none of the model's: {', '.join(label_names)} "
                f"(or 0 to {len(label_names) - 1})",
                hint=f"did you mean {near!r}?" if near else "--label-column names the column of the labels",
            )
        found[row.label] = index
    return found


def _evaluations(
    question: Question,
    model: TextModel,
    identity: str,
    examples: Sequence[Example],
    calibration: Sequence[Example],
) -> Callable[[System], Evaluation]:
    """What makes an evaluation of a system on the model. Systems inside one another share what they have answered."""
    cache = Cache(question.root / "cache")
    bf16 = model_stage.uses_bf16(question.precision, model.device)
    terms = Terms(question.protocol, question.seed, bf16, model.device)
    memories: dict[str, QueryMemory] = {}

    def memory(digest: str, precision: str) -> QueryMemory:
        name = digest_of({"code": ANSWERS, "victim": digest, "precision": precision, **terms.hardware})
        if name not in memories:
            memories[name] = QueryMemory(cache.root / "queries" / f"{name}.bin")
        return memories[name]

    def evaluated(system: System) -> Evaluation:
        digest = defended.digest(system, model, identity)
        fast, exact = defended.victims(system, model, identity, bf16=bf16, memory=memory)
        return Evaluation(
            fast, exact, digest=digest, clean=examples, calibration=calibration or None, terms=terms, cache=cache
        )

    return evaluated


def _hash(question: Question, attacks: Sequence[Attack], examples: Sequence[Example], *, calibrated: bool) -> str:
    sha = hashlib.sha256()
    for example in examples:
        sha.update(f"{example.label}\x1f{example.text}\x1e".encode())
    return protocol_hash(
        question.protocol,
        attacks,
        n_examples=len(examples),
        data_digest=sha.hexdigest(),
        calibrate=calibrated,
        seed=question.seed,
        adaptive=question.adaptive,
    )
