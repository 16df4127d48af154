"""The adapter of one view of a trial: trained at most once for the same inputs, whoever asks, and resumed when cut.

A training that halts at rungs of epochs leaves its state after each in the cache, apart from whole ones. Whoever trains
the same view further goes on from there, and ends with the weights of a training that has never halted.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from robusweep import model as model_stage
from robusweep.assignment import PointPlan
from robusweep.attacks import Attack, resolve
from robusweep.attacks.evaluation import ATTACK_CODE
from robusweep.errors import StageError
from robusweep.examples import Example
from robusweep.ground import Ground
from robusweep.halving import Halving
from robusweep.lent import Lender, lexicon_identity
from robusweep.mixing import PerText, TrainedSet
from robusweep.recipe import Recipe
from robusweep.record import AdapterRecord, write_json
from robusweep.seeds import derive
from robusweep.spec import digest_of
from robusweep.training import AnyTraining, TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.training.checkpoint import Checkpoint

CLEAN = "clean"  # the view of the unchanged texts
WHOLE, HALTED = "train", "halted"  # stages of the cache: trainings that are over, and states on the way
ADAPTER, STATE = "adapter.safetensors", "state.safetensors"  # files of an entry; only a halted one has a state
TRAIN_CODE = 4  # raise it when training the same block would give other weights: old cache entries are then not used


T = TypeVar("T")


def views_of(recipe: Recipe) -> dict[str, AnyTraining]:
    """What trains each view's adapter, the clean one first."""
    return {CLEAN: recipe.train} | {adversarial_view(i): method for i, method in enumerate(recipe.adversarial)}


def adversarial_view(i: int) -> str:
    """The view of the adversarial method at this place, from 0."""
    return f"adversarial.{i}"


def rotated(items: Sequence[T], number: int) -> list[T]:
    """The items from a start that depends on the trial, so that trials which share work don't wait for each other."""
    start = number % len(items)
    return [*items[start:], *items[:start]]


def train_views(
    views: Iterable[str], ground: Ground, *, first: int = 0, rungs: Sequence[float] = (), whole: bool = True
) -> dict[str, AdapterRecord]:
    """The adapters of these views, as ``train`` makes them. ``first``: the place of the view to begin with."""
    methods, trained = views_of(ground.recipe), {}
    for view in rotated(list(views), first):
        with ground.progress.stage(f"train {view}"):
            trained[view] = train(view, methods[view], ground, rungs=rungs, whole=whole)
    return {view: trained[view] for view in methods if view in trained}


def train(
    view: str, method: TrainingMethod, ground: Ground, *, rungs: Sequence[float] = (), whole: bool = True
) -> AdapterRecord:
    """The record of this view's adapter, whose tensors are copied into the trial's folder.

    ``rungs``: of epochs, where the training halts and leaves its state. Without ``whole`` it ends at the last of them,
    unless the method has no more epochs.
    """
    halts = _halts(method, rungs, whole=whole)
    entry, cached, reference_seconds = _trained(view, method, ground, halts, rungs)
    copied = ground.folder / "adapters" / f"{view}.safetensors"
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry / ADAPTER, copied)
    fitted = _fitted(entry)
    return AdapterRecord(
        view=view,
        method=method.kind,
        cache_key=entry.name,
        cached=cached,
        train_seconds=fitted.pop("seconds"),
        reference_seconds=reference_seconds,
        precision="bf16" if ground.bf16 and not method.needs_float32 else "fp32",
        epochs=halts[-1] if halts[-1] < method.n_epochs else None,
        **fitted,
    )


def is_whole(method: TrainingMethod, ground: Ground) -> bool:
    """Whether the cache holds what this method trains, whole."""
    return (ground.cache.root / WHOLE / digest_of(_key(method, ground))).is_dir()


def tensors_of(adapter: AdapterRecord, ground: Ground) -> dict[str, Tensor]:
    """A trained adapter, from the cache."""
    return _tensors(ground.cache.root / (HALTED if adapter.epochs else WHOLE) / adapter.cache_key)


def trained_set(records: Sequence[AdapterRecord], ground: Ground) -> TrainedSet:
    """The adapters of these records, as mixers take them."""
    adapter, base = ground.recipe.adapter, dict(ground.base.network.named_parameters())
    tensors = [tensors_of(record, ground) for record in records]
    return TrainedSet(
        names=[record.view for record in records],
        base=base,
        folded=[adapter.fold(base, t) for t in tensors],
        members=[adapter.member(base, t) for t in tensors],
        ranges=[(record.entropy_range[0], record.entropy_range[1]) for record in records],
    )


def check_mixable(plans: Sequence[PointPlan], ground: Ground) -> None:
    """Try to mix untrained adapters for two texts, where a point has weights of its own for each.

    Raises ``StageError`` for a network that can't be mixed like that, before anything is trained.
    """
    if all(plan.mix is None or plan.mix.one_network for plan in plans):
        return
    untrained = _untrained_set(ground)
    for plan in plans:
        system = plan.mix.mix(untrained) if plan.mix and not plan.mix.one_network else None
        if isinstance(system, PerText):
            try:
                _mixed_once(system, ground)
            except ValueError as e:
                raise StageError(
                    f"mix: {ground.recipe.model.base!r} can't be mixed for each text: {e}",
                    hint="weights that are the same for all texts, and mixes of logits, work with every model",
                ) from None
            return


def _untrained_set(ground: Ground) -> TrainedSet:
    adapter, base = ground.recipe.adapter, dict(ground.base.network.named_parameters())
    network = copy.deepcopy(ground.base.network)
    tensors = adapter.extract(adapter.attach(network, head=model_stage.head_names(network), seed=0))
    names = list(views_of(ground.recipe))
    return TrainedSet(
        names=names,
        base=base,
        folded=[adapter.fold(base, tensors)] * len(names),
        members=[adapter.member(base, tensors)] * len(names),
        ranges=[(0.0, 1.0)] * len(names),
    )


def _mixed_once(system: PerText, ground: Ground) -> None:
    import numpy as np
    import torch

    from robusweep.mixture import Blend, Mixture
    from robusweep.model.victim import padded_to_longest

    rows = ground.base.tokens([example.text for example in ground.dataset.train[:2]])
    blend = Blend(ground.base.network, system.adapters.members, factored=system.factored)
    with torch.no_grad():
        Mixture(blend, system.rule, system.keys)(**padded_to_longest([np.array(row) for row in rows], ground.base))


def _halts(method: TrainingMethod, rungs: Sequence[float], *, whole: bool) -> list[int]:
    """After how many epochs the training halts, in order; the last is where it ends."""
    halts = {Halving.finished(rung, method.n_epochs) for rung in rungs}
    return sorted(halts | {method.n_epochs} if whole else halts)


def _trained(
    view: str, method: TrainingMethod, ground: Ground, halts: Sequence[int], rungs: Sequence[float]
) -> tuple[Path, bool, float]:
    """(the entry in the cache after the last halt, whether it was there already, seconds that a network of its own to
    attack took)."""
    reference, reference_seconds = None, 0.0
    if method.reference is not None:
        is_clean = method.reference == ground.recipe.train
        at = _halts(method.reference, rungs if is_clean else [], whole=True)  # only what is mixed meets rungs
        reference, _, _ = _trained(f"{view}.reference", method.reference, ground, at, rungs)
        reference_seconds = 0.0 if is_clean else _fitted(reference)["seconds"]
    entry, cached = _Training(view, method, reference, _key(method, ground), ground).entry(halts)
    return entry, cached, reference_seconds


@dataclass(frozen=True)
class _Training:
    """One view's training. ``key`` is all that it reads, ``reference`` the entry of a network that it attacks."""

    view: str
    method: TrainingMethod
    reference: Path | None
    key: dict[str, Any]
    ground: Ground

    def entry(self, halts: Sequence[int]) -> tuple[Path, bool]:
        """(the entry after the last halt, whether it was there already); it is made by way of those before."""
        from robusweep.training.checkpoint import Checkpoint

        n, of, digest = halts[-1], self.method.n_epochs, digest_of(self.key)
        stage, key, name = WHOLE, self.key, self.view
        if n < of:
            stage, key, name = HALTED, {"training": digest, "epochs": n}, f"{self.view}.epoch_{n}"
        checkpoint = Checkpoint(self.ground.folder / "checkpoints" / f"{name}.safetensors", key=digest)
        make = partial(self._make, halts=halts, checkpoint=checkpoint)
        entry, cached = self.ground.cache.get_or_make(stage, key, make)
        checkpoint.remove()
        how = ("from the cache" if cached else "trained") + (f", to epoch {n}/{of}" if n < of else "")
        self.ground.progress.say(f"{self.view}: {how} ({_fitted(entry)['seconds']:.0f} s of training)")
        return entry, cached

    def _make(self, folder: Path, *, halts: Sequence[int], checkpoint: Checkpoint) -> None:
        if len(halts) > 1:
            checkpoint.begun = self.entry(halts[:-1])[0] / STATE
        until = halts[-1] if halts[-1] < self.method.n_epochs else None
        _fit(folder, training=self, until=until, checkpoint=checkpoint)
        if until is not None:
            shutil.move(checkpoint.path, folder / STATE)


def _tensors(entry: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(entry / ADAPTER)
    return tensors


def _fitted(entry: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((entry / "fitted.json").read_text(encoding="utf-8"))
    return found


def _key(method: TrainingMethod, ground: Ground) -> dict[str, Any]:
    """Everything that training this method reads; where it halts changes nothing."""
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
        reference = digest_of(_key(method.reference, ground)) if method.reference is not None else None
        key |= {"attacks": [ATTACK_CODE, attacks, protocol.model_dump(mode="json")], "reference": reference}
    return key | ground.terms.hardware


def _columns(examples: Sequence[Example]) -> tuple[list[str], list[int]]:
    """(texts, labels)."""
    return [example.text for example in examples], [example.label for example in examples]


def _attack_for_training(kind: str, ground: Ground) -> Attack:
    return resolve(ground.recipe.attack_named(kind), ground.recipe.attacks.constraints)[0]


def _fit(folder: Path, *, training: _Training, until: int | None, checkpoint: Checkpoint) -> None:
    """Train to the end, or ``until`` so many epochs are over; leave the adapter and what it cost in the folder."""
    from safetensors.torch import save_file

    from robusweep.training.loop import fit

    view, method, ground = training.view, training.method, training.ground
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
        reference=recipe.adapter.fold(frozen, _tensors(training.reference)) if training.reference else None,
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
        until=until,
        on_epoch=lambda epoch, loss: progress.say(f"{view}: epoch {epoch + 1}/{method.n_epochs}, loss {loss:.4f}"),
        on_step=lambda share: progress.share(f"train {view}", share),
    )
    progress.share(f"train {view}", 1.0)
    save_file(recipe.adapter.extract(adapted), folder / ADAPTER)
    write_json(folder / "fitted.json", vars(fitted))
