"""The adapter of one view of a trial: trained at most once for the same inputs, whoever asks, and resumed when cut."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusweep import model as model_stage
from robusweep.attacks import Attack, resolve
from robusweep.attacks.evaluation import ATTACK_CODE
from robusweep.examples import Example
from robusweep.ground import Ground
from robusweep.lent import Lender, lexicon_identity
from robusweep.record import AdapterRecord, write_json
from robusweep.seeds import derive
from robusweep.spec import digest_of
from robusweep.training import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.training.checkpoint import Checkpoint

TRAIN_CODE = 4  # raise it when training the same block would give other weights: old cache entries are then not used


def train(view: str, method: TrainingMethod, ground: Ground) -> AdapterRecord:
    """The record of this view's adapter, whose tensors are copied into the trial's folder."""
    entry, cached, reference_seconds = _trained(view, method, ground)
    copied = ground.folder / "adapters" / f"{view}.safetensors"
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry / "adapter.safetensors", copied)
    fitted = _fitted(entry)
    return AdapterRecord(
        view=view,
        method=method.kind,
        cache_key=entry.name,
        cached=cached,
        train_seconds=fitted.pop("seconds"),
        reference_seconds=reference_seconds,
        precision="bf16" if ground.bf16 and not method.needs_float32 else "fp32",
        **fitted,
    )


def tensors_of(cache_key: str, ground: Ground) -> dict[str, Tensor]:
    """A trained adapter, from the cache."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(ground.cache.root / "train" / cache_key / "adapter.safetensors")
    return tensors


def _trained(view: str, method: TrainingMethod, ground: Ground) -> tuple[Path, bool, float]:
    """(the entry in the cache, whether it was there already, seconds that a network of its own to attack took)."""
    from robusweep.training.checkpoint import Checkpoint

    reference, reference_seconds = None, 0.0
    if method.reference is not None:
        entry, _, _ = _trained(f"{view}.reference", method.reference, ground)
        reference = entry.name
        reference_seconds = 0.0 if method.reference == ground.recipe.train else _fitted(entry)["seconds"]
    key = _key(method, reference, ground)
    checkpoint = Checkpoint(ground.folder / "checkpoints" / f"{view}.safetensors", key=digest_of(key))
    make = partial(_fit, view=view, method=method, reference=reference, checkpoint=checkpoint, ground=ground)
    entry, cached = ground.cache.get_or_make("train", key, make)
    checkpoint.remove()
    took = f"{_fitted(entry)['seconds']:.0f} s of training"
    ground.progress.say(f"{view}: {'from the cache' if cached else 'trained'} ({took})")
    return entry, cached, reference_seconds


def _fitted(entry: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((entry / "fitted.json").read_text(encoding="utf-8"))
    return found


def _key(method: TrainingMethod, reference: str | None, ground: Ground) -> dict[str, Any]:
    """Everything that training this method reads."""
    recipe, base = ground.recipe, ground.base
    key: dict[str, Any] = {
        "code": TRAIN_CODE,
        "base": ground.base_identity,
        "max_tokens": base.max_tokens,
        "dropout": recipe.model.dropout,
        "attention": recipe.model.attention,
        "labels": list(base.label_names),
        "train": _columns(ground.dataset.train),
        "adapter": recipe.adapter.model_dump(mode="json"),
        "method": method.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    if method.patience is not None:
        key["validation"] = _columns(ground.dataset.validation)
    if method.needs_lexicon:
        key["lexicon"] = lexicon_identity()
    if method.attacks_with:
        protocol = recipe.attacks.constraints
        attacks = [_attack_for_training(kind, ground).identity(protocol) for kind in method.attacks_with]
        key |= {"attacks": [ATTACK_CODE, attacks, protocol.model_dump(mode="json")], "reference": reference}
    return key | ground.terms.hardware


def _columns(examples: Sequence[Example]) -> tuple[list[str], list[int]]:
    """(texts, labels)."""
    return [example.text for example in examples], [example.label for example in examples]


def _attack_for_training(kind: str, ground: Ground) -> Attack:
    return resolve(ground.recipe.attack_named(kind), ground.recipe.attacks.constraints)[0]


def _fit(
    folder: Path,
    *,
    view: str,
    method: TrainingMethod,
    reference: str | None,
    checkpoint: Checkpoint,
    ground: Ground,
) -> None:
    """Train, and leave the adapter and what it cost in the folder."""
    from safetensors.torch import save_file

    from robusweep.training.loop import fit

    recipe, base, progress = ground.recipe, ground.base, ground.progress
    progress.say(f"{view}: training ({method.kind})")
    network = copy.deepcopy(base.network)
    adapted = recipe.adapter.attach(network, head=model_stage.head_names(network), seed=derive(recipe.seed, "adapter"))
    frozen = dict(base.network.named_parameters())
    lent = Lender(
        base,
        identity=ground.base_identity,
        adapter=recipe.adapter,
        attacks=partial(_attack_for_training, ground=ground),
        terms=ground.terms,
        cache=ground.cache,
        reference=recipe.adapter.fold(frozen, tensors_of(reference, ground)) if reference else None,
        say=lambda what: progress.say(f"{view}: {what}"),
    )
    texts, labels = _columns(ground.dataset.train)
    unseen, answers = _columns(ground.dataset.validation)
    fitted = fit(
        adapted,
        method,
        base.tokens(texts),
        labels,
        pad_id=base.pad_id,
        seed=derive(recipe.seed, "train"),
        bf16=ground.bf16,
        texts=texts,
        lent=lent,
        validation=(base.tokens(unseen), answers) if method.patience is not None else None,
        checkpoint=checkpoint,
        on_epoch=lambda epoch, loss: progress.say(f"{view}: epoch {epoch + 1}/{method.n_epochs}, loss {loss:.4f}"),
        on_step=lambda share: progress.share(f"train {view}", share),
    )
    progress.share(f"train {view}", 1.0)
    save_file(recipe.adapter.extract(adapted), folder / "adapter.safetensors")
    write_json(folder / "fitted.json", vars(fitted))
