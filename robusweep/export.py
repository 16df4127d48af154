"""A scored point as a model folder that plain ``transformers`` loads, checked before it is put in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from robusweep import data as data_stage
from robusweep import defended
from robusweep import model as model_stage
from robusweep.environment import environment
from robusweep.errors import StageError, UsageError, nearest
from robusweep.mixing import Fixed
from robusweep.model import TextModel
from robusweep.onnx_folder import check_packages, onnx_logits, write_onnx
from robusweep.pruned import masks_of
from robusweep.record import write_json, write_text
from robusweep.report.card import model_card
from robusweep.restored import Restored, restored
from robusweep.shipped import SHIPPED, Shipped
from robusweep.shipping import code_in, form_of, write_model, write_system
from robusweep.sweep.status import find_run

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMATS = ("hf", "mlflow", "onnx")
N_COMPARED = 200  # validation texts, at most
LARGEST_DIFFERENCE = 1e-5  # of a logit, or of the largest one: float32 rounds 2e-5 where logits reach 4
TEXTS_PER_BATCH = 16
EMBEDDED_LICENCES = {"minilm_l6": "Apache-2.0"}  # docs/resources.md
Say = Callable[[str], None]


def export(
    root: Path,
    run: str,
    rule: str = "knee",
    *,
    out: Path,
    form: str = "hf",
    register: str | None = None,
    command: str = "",
    say: Say = lambda _text: None,
) -> Shipped:
    """Write the point that ``rule`` picks to the folder ``out``, and return what is said of it there.

    Raises ``UsageError`` and ``EmptyFrontError`` for a point, folder or form that can't be, ``MissingError`` for
    adapters, masks, data or a base that are gone, and ``StageError`` when the weights are not those that were scored,
    or the folder, loaded again, answers otherwise.
    """
    _check(form, register)
    target = _free(out)
    run_dir = find_run(root, run)
    point = restored(run_dir, rule, say=say)
    texts = _texts(point, say)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder, difference = _written(Path(temporary), point, form, texts)
        shipped = _shipped(
            point, folder, run=run_dir.name, n_compared=len(texts), difference=difference, command=command
        )
        write_json(folder / SHIPPED, shipped.model_dump(mode="json"))
        write_text(folder / "README.md", model_card(shipped, onnx=form == "onnx"))
        if form == "mlflow":
            from robusweep.tracking import save_model

            folder = save_model(Path(temporary) / "mlflow", folder, texts[:2])
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for its owner alone
        folder.rename(target)
    if register is not None:
        from robusweep.tracking import register_model, store_uri

        tags = {"robusweep.point": point.scored.id}
        version = register_model(store_uri(root), register, target, root=root, tags=tags)
        say(f"registered as models:/{register}/{version}, with a copy of the files")
    return shipped


def _check(form: str, register: str | None) -> None:
    if form not in FORMATS:
        near = nearest(form, FORMATS)
        raise UsageError(
            f"--format {form!r} (allowed: {', '.join(FORMATS)})", hint=f"did you mean {near!r}?" if near else None
        )
    if register is not None and form != "mlflow":
        raise UsageError("--register takes a model of MLflow", hint="add --format mlflow")
    if form == "onnx":
        check_packages()


def _free(out: Path) -> Path:
    """Where the folder goes. Raises ``UsageError`` when something is there, or it can't be written."""
    target = out.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--out {out}: exists{' and is not empty' if target.is_dir() else ' and is no folder'}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--out {out}: can't be made: {e.strerror}") from None
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"--out {out}: {target.parent} can't be written")
    return target


def _texts(point: Restored, say: Say) -> list[str]:
    """The validation texts that the folder is checked on."""
    dataset = data_stage.load(point.recipe.data, point.recipe.seed)
    if dataset.digest() != point.trial.data.get("digest"):
        say("NOTICE the data are not what they were: the folder is checked on other texts than the point was scored on")
    return [example.text for example in dataset.validation[:N_COMPARED]]


# ------------------------------------------------------------------------------------------------ written, checked
def _written(temporary: Path, point: Restored, form: str, texts: Sequence[str]) -> tuple[Path, float]:
    """(the model's folder, the largest difference of a logit between it and the scored system).

    One set of weights is a plain folder of ``transformers``, unless units were removed: its configuration can't say so.
    Units that pruning has left unread are removed here.
    """
    from robusweep.tickets.removal import removed

    folder, system, adapter = temporary / "model", point.system, point.recipe.adapter
    one = system if isinstance(system, Fixed) and adapter.folds else None
    if form == "onnx" and one is None:
        raise UsageError("--format onnx holds one plain network, and this point is more", hint="--format hf")
    plain, masks = point.plain, point.masks
    if one is not None and masks is None:
        filled: Any = model_stage.filled(plain, one.parameters)
        masks = masks_of(one.parameters, plain.network) if point.prune is not None else None
        plain, system = replace(plain, network=removed(filled, masks) if masks else filled), Fixed({})
    if one is not None and masks is None:
        model, network = folder, write_model(folder, plain)
        difference = _checked_difference(network, point.base, folder, texts)
    else:
        temperature = point.scored.temperature
        network = write_system(folder, system, plain, adapter, temperature=temperature, masks=masks)
        model, difference = folder / "base", _checked_system(point, folder, texts)
    if form != "onnx":
        return folder, difference
    folder = write_onnx(temporary / "onnx", model, network)
    return folder, _checked_onnx(network, point.base, folder, texts)


def _checked_system(point: Restored, folder: Path, texts: Sequence[str]) -> float:
    """The largest difference of a logit between the folder, loaded by the code inside it, and the scored system.

    Raises ``StageError`` above ``LARGEST_DIFFERENCE``.
    """
    _, victim = defended.victims(point.system, point.base, point.identity, bf16=False)
    found, _ = code_in(folder).load(folder).logits(texts)
    return _largest(found.numpy(), victim(texts))


def _largest(found: Any, expected: Any) -> float:
    """The largest difference of a logit. Raises ``StageError`` where it is more than another order of sums makes."""
    largest, scale = float(abs(found - expected).max(initial=0.0)), float(abs(expected).max(initial=1.0))
    if not largest <= LARGEST_DIFFERENCE * scale:  # NaN, too
        raise StageError(
            f"export: the folder answers otherwise than the trained point: a logit by {largest:.1e}, while the largest "
            f"logit is {scale:.1f}"
        )
    return largest


def _checked_difference(network: Module, base: TextModel, folder: Path, texts: Sequence[str]) -> float:
    """The largest difference of a logit between the folder, loaded by ``transformers`` alone, and the point's network.

    Raises ``StageError`` above ``LARGEST_DIFFERENCE``.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True).eval()
    if [loaded.config.id2label[i] for i in range(len(base.label_names))] != list(base.label_names):
        raise StageError(f"export: the folder names its labels {loaded.config.id2label}, not {base.label_names}")
    largest = 0.0
    with torch.inference_mode():
        for i in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[i : i + TEXTS_PER_BATCH])
            found = loaded(**tokenizer(batch, truncation=True, padding=True, return_tensors="pt")).logits
            largest = max(largest, _largest(found.numpy(), network(**_padded(base, batch)).logits.numpy()))
    return largest


def _checked_onnx(network: Module, base: TextModel, folder: Path, texts: Sequence[str]) -> float:
    """The largest difference of a logit between ONNX Runtime and the point's network. Raises as for other folders."""
    import torch

    found, largest = onnx_logits(folder, texts), 0.0
    with torch.inference_mode():
        for i in range(0, len(texts), TEXTS_PER_BATCH):
            batch = slice(i, i + TEXTS_PER_BATCH)
            expected = network(**_padded(base, texts[batch])).logits.numpy()
            largest = max(largest, _largest(found[batch], expected))
    return largest


def _padded(base: TextModel, texts: Sequence[str]) -> dict[str, Tensor]:
    import torch

    rows = base.tokens(texts)
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[base.pad_id] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


# ------------------------------------------------------------------------------------------------- what is said
def _shipped(point: Restored, folder: Path, *, run: str, n_compared: int, difference: float, command: str) -> Shipped:
    trial, recipe = point.trial, point.recipe
    return Shipped(
        form=form_of(folder),
        run=run,
        point=point.scored.id,
        params=point.scored.params,
        temperature=point.scored.temperature,
        label_names=list(point.base.label_names),
        max_tokens=point.base.max_tokens,
        base=recipe.model.base,
        base_licence=_licence(recipe.model.base),
        data=trial.data,
        data_licence=recipe.data.licence,
        recipe=trial.recipe,
        recipe_digest=trial.recipe_digest,
        mix=point.mixer.model_dump(mode="json") if point.mixer else None,
        protocol=recipe.attacks.constraints.model_dump(mode="json"),
        protocol_hash=trial.protocol_hash,
        stand_ins=trial.stand_ins,
        ticket=trial.ticket,
        adapters=trial.adapters,
        scores=point.scored,
        n_compared=n_compared,
        largest_difference=difference,
        trained_with=trial.environment,
        exported_with=environment(),
        command=command,
    )


def _licence(base: str) -> str | None:
    """The licence that the base model's own files state."""
    card = Path(base) / "README.md"
    if base in EMBEDDED_LICENCES or not card.is_file():
        return EMBEDDED_LICENCES.get(base)
    _, _, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    try:
        head = yaml.safe_load(rest.partition("\n---")[0])
    except yaml.YAMLError:
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    return licence if isinstance(licence, str) else None
