"""The model card of a shipped model: what it is, what it scored under which protocol, and what not to believe."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from robusweep.record import FLAGS, AttackScore, PointRecord, PruningRecord, Stopped, TicketRecord
from robusweep.report.sentences import DEFINITIONS, percent
from robusweep.scores import Rate
from robusweep.shipped import ONNX, SHIPPED, Shipped


def model_card(shipped: Shipped, *, onnx: bool = False) -> str:
    """Markdown, with the head that model hubs read. ``onnx``: the folder holds the network for ONNX."""
    head = {
        "library_name": "onnx" if onnx else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["robusweep"],
    }
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
            f"# {shipped.run} {shipped.point}\n",
            *(f"> {stand_in.notice()}\n" for stand_in in shipped.stand_ins),
            *_what(shipped, onnx),
            *(_use_of_onnx(shipped) if onnx else _use(shipped)),
            *_scores(shipped),
            *_doubts(shipped),
            *_limits(shipped),
            *_training(shipped),
            *_origin(shipped),
        ]
    )


def _what(shipped: Shipped, onnx: bool) -> Iterator[str]:
    n_labels = len(shipped.label_names)
    yield f"A text classifier of {n_labels} classes, trained and attacked by robusweep. {_form(shipped, onnx)}\n"
    counts = ", ".join(f"{n} {split}" for split, n in shipped.data.get("n", {}).items())
    yield _table(
        ["what", "is"],
        [
            ["base model", f"{shipped.base}; licence: {shipped.base_licence or 'not stated in its files'}"],
            ["data", f"{shipped.data.get('name', '')} ({counts}); licence: {shipped.data_licence}"],
            ["labels, from 0", ", ".join(shipped.label_names)],
            ["longest text", f"{shipped.max_tokens} tokens; the rest is cut off"],
            *([["ticket", _ticket(shipped.ticket)]] if shipped.ticket else []),
            *([["pruned after training", _pruning(shipped.scores.pruning)]] if shipped.scores.pruning else []),
            *([["cost", cost]] if (cost := _cost(shipped.scores)) else []),
            ["searched values", ", ".join(f"{k} = {v}" for k, v in shipped.params.items()) or "none"],
        ],
    )


def _cost(scores: PointRecord) -> str | None:
    if scores.inference_flops is None or scores.n_parameters is None:
        return None
    return (
        f"{scores.n_parameters:,} parameters; {scores.inference_flops:,} floating-point operations for a text of "
        "validation's mean number of tokens"
    )


def _pruning(pruning: PruningRecord) -> str:
    share = f"{100 * pruning.zeros:.1f} % of the weights of the encoder's linear maps are 0"
    return f"{pruning.kind}, {pruning.units}: {share}, as scored"


def _ticket(ticket: TicketRecord) -> str:
    return (
        f"{ticket.kind}: {100 * ticket.head_density:.1f} % of the heads and {100 * ticket.neuron_density:.1f} % of the "
        f"feed-forward neurons of the base model are kept; {ticket.n_removed:,} parameters are removed"
    )


def _form(shipped: Shipped, onnx: bool) -> str:
    one = "The adapters are folded into the weights: this is "
    if onnx:
        return f"{one}one network for ONNX Runtime, and robusweep is not needed to run it."
    if shipped.form == "plain":
        return f"{one}a plain sequence classifier of `transformers`, and robusweep is not needed to run it."
    code = (
        "The folder holds the code that runs it, which needs `torch`, `transformers` and `safetensors`, and no "
        "robusweep."
    )
    if shipped.form == "merged":
        return f"{one}one network, whose layers differ in size, as no configuration of `transformers` can say. {code}"
    how = "their weights are mixed anew for each text" if shipped.scores.per_text else "they are no plain weights"
    return f"It is a base model with adapters beside it: {how}. {code}"


def _use_of_onnx(shipped: Shipped) -> Iterator[str]:
    t = shipped.temperature
    yield "## Use\n"
    yield (
        f"The network is `{ONNX}`: `input_ids` and `attention_mask` [texts, tokens] in, `logits` [texts, classes] out, "
        "for any number of texts and tokens. It needs `onnxruntime`; the tokenizer is one of `transformers`.\n"
    )
    yield (
        "```python\n"
        "import onnxruntime\nfrom transformers import AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        f'session = onnxruntime.InferenceSession("FOLDER/{ONNX}", providers=["CPUExecutionProvider"])\n'
        'batch = tokenizer(["a text"], truncation=True, padding=True, return_tensors="np")\n'
        '(logits,) = session.run(None, {name: batch[name] for name in ("input_ids", "attention_mask")})\n'
        "```\n"
    )
    if t is None:
        yield "No temperature was fitted: probabilities may be over-confident.\n"
    else:
        yield (
            f"The calibration temperature is {t!r} (`{SHIPPED}`): probabilities are softmax(logits / {t:.6g}). The "
            "network gives the logits of training, **not** divided by it. Dividing never changes the label.\n"
        )


def _use(shipped: Shipped) -> Iterator[str]:
    yield "## Use\n"
    if shipped.form != "plain":
        yield (
            "```python\n"
            "import sys\n\n"
            'sys.path.insert(0, "FOLDER")\n'
            "from robusweep_model import load\n\n"
            'labels, probabilities, weights = load("FOLDER")(["a text"])\n'
            "```\n"
        )
        yield (
            "`weights` are those of the adapters for each text, or None where all texts have the same. "
            f"{_temperature_said(shipped)} `robusweep predict FOLDER` does the same for files.\n"
        )
        return
    t = shipped.temperature
    yield (
        "```python\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForSequenceClassification.from_pretrained("FOLDER").eval()\n'
        'logits = model(**tokenizer(["a text"], truncation=True, padding=True, return_tensors="pt")).logits\n'
        f"probabilities = {'logits' if t is None else f'(logits / {t!r})'}.softmax(-1)\n"
        "```\n"
    )
    if t is None:
        yield "No temperature was fitted: probabilities may be over-confident.\n"
    else:
        yield (
            f"The calibration temperature is {t:.6g} (`{SHIPPED}`). The weights give the logits of training, **not** "
            "divided by it. Dividing changes probabilities and never the label. `robusweep predict FOLDER` divides; "
            "a plain pipeline of `transformers` does not.\n"
        )


def _temperature_said(shipped: Shipped) -> str:
    t = shipped.temperature
    if t is None:
        return "No temperature was fitted: probabilities may be over-confident."
    return f"Probabilities are of logits divided by the calibration temperature {t:.6g}."


def _scores(shipped: Shipped) -> Iterator[str]:
    scores = shipped.scores
    rows = [
        _row("clean accuracy", scores.clean_accuracy),
        _row("robust accuracy, under all known attacks", scores.robust_accuracy),
        *_attack_rows("known", scores.attacks),
        *_attack_rows("held out", scores.held_out),
        *(
            _row(f"accuracy under {name}, without texts that break single adapters", rate)
            for name, rate in scores.unaided.items()
        ),
        *(_row(f"right on texts with which {name} broke the clean adapter", r) for name, r in scores.static.items()),
    ]
    yield "## Scores\n"
    yield _table(["measure", "value, 95 % interval", "n"], rows)
    meant = "; ".join(f"{name}: {DEFINITIONS[name]}" for name in ("clean accuracy", "robust accuracy"))
    yield (
        f"On validation texts, with logits divided by the temperature. {meant}. Intervals are Wilson's. Known attacks "
        "selected this point"
        f"{'; held-out attacks selected nothing.' if scores.held_out else '. No attack was held out.'}\n"
    )
    rules = ", ".join(f"{key} {value}" for key, value in shipped.protocol.items() if value is not None)
    yield f"Protocol hash `{shipped.protocol_hash}`: numbers compare only under the same hash. Rules: {rules}.\n"


def _attack_rows(which: str, attacks: dict[str, AttackScore]) -> list[list[str]]:
    return [_row(f"accuracy under {name} ({which})", score.accuracy_under_attack) for name, score in attacks.items()]


def _row(name: str, rate: Rate) -> list[str]:
    return [name, percent(rate), str(rate.n)]


def _because(stopped: Stopped) -> str:
    if stopped.reason == "race":
        return f"because {stopped.by} was better (p = {stopped.p_value:.3g})"
    return f"where it had fallen behind other trials' points ({stopped.why})"


def _doubts(shipped: Shipped) -> Iterator[str]:
    yield "## Reasons for doubt\n"
    for flag in shipped.scores.flags:
        yield f"- `{flag.name}`: {FLAGS.get(flag.name, '')} ({flag.detail})"
    stopped = shipped.scores.stopped
    if stopped is not None:
        yield (
            f"- `stopped`: {stopped.stopper} stopped this point {stopped.when}, "
            f"{_because(stopped)}. Its rates are over fewer examples, held-out attacks did not run, and it was not "
            "checked for the other reasons."
        )
    if shipped.scores.replay:
        yield "- `replay`: texts that broke other points of the trial were tried, too; rates compare with such only."
    yield (
        "- The numbers are from the split that the point was picked on, so they are optimistic until it has been "
        "scored on fresh data.\n"
    )


def _limits(shipped: Shipped) -> Iterator[str]:
    yield "## Intended use and limits\n"
    yield (
        f"To label texts like those of {shipped.data.get('name', 'its data')}, and to study robustness. The rates "
        "say how it stood under these attacks, these rules and these budgets; other attacks may break more, and no "
        "text is certified. Other domains, languages and much longer texts were not measured. It has whatever bias "
        "its base model and data have. A derived work: the terms of the base model and of the data apply.\n"
    )


def _training(shipped: Shipped) -> Iterator[str]:
    adapter = shipped.recipe.get("adapter", {})
    yield "## Training\n"
    yield (
        f"Adapter: `{json.dumps(adapter)}`. Mix: "
        f"{'none, the one adapter as it is' if shipped.mix is None else f'`{json.dumps(shipped.mix)}`'}.\n"
    )
    rows = [[a.view, a.method, str(a.n_steps), f"{a.final_loss:.4f}", a.precision] for a in shipped.adapters]
    yield _table(["adapter of", "method", "steps", "last loss", "precision"], rows)


def _origin(shipped: Shipped) -> Iterator[str]:
    yield "## Origin\n"
    yield _table(
        ["what", "is"],
        [
            ["made by", f"`{shipped.command}`"],
            ["run, point", f"{shipped.run}, {shipped.point}"],
            ["recipe digest", f"`{shipped.recipe_digest}`"],
            ["model digest", f"`{shipped.scores.model_digest}`"],
            ["data digest", f"`{shipped.data.get('digest', '')}`"],
            [
                "checked",
                f"loaded again, logits on {shipped.n_compared} validation texts differ from those of the trained "
                f"point by at most {shipped.largest_difference:.1e}",
            ],
            ["trained with", _versions(shipped.trained_with)],
            ["exported with", _versions(shipped.exported_with)],
        ],
    )
    recipe = yaml.safe_dump(shipped.recipe, sort_keys=False, allow_unicode=True)
    yield f"The recipe, with every default:\n\n```yaml\n{recipe}```\n"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"
