"""A scored point as a model folder that plain ``transformers`` loads, checked before it is put in place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from robusweep import data as data_stage
from robusweep import defended
from robusweep import model as model_stage
from robusweep.assignment import trial_id
from robusweep.environment import environment
from robusweep.errors import EmptyFrontError, MissingError, StageError, UsageError, nearest
from robusweep.front import Objective, Point, assess
from robusweep.mixing import AnyMixer, Fixed, Mixer, System, TrainedSet
from robusweep.model import TextModel
from robusweep.onnx_folder import check_packages, onnx_logits, write_onnx
from robusweep.pick import pick
from robusweep.recipe import Recipe
from robusweep.record import AdapterRecord, PointRecord, TrialRecord, read_trial, read_trials, write_json, write_text
from robusweep.report.card import model_card
from robusweep.seeds import derive
from robusweep.shipped import SHIPPED, Shipped
from robusweep.shipping import code_in, is_system, write_model, write_system
from robusweep.space import SearchSpace
from robusweep.sweep.status import find_run, read_points
from robusweep.yaml_source import assign, split_key

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMATS = ("hf", "mlflow", "onnx")
N_COMPARED = 200  # validation texts, at most
LARGEST_DIFFERENCE = 1e-5  # of a logit
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
    adapters, data or a base that are gone, and ``StageError`` when the weights are not those that were scored, or the
    folder, loaded again, answers otherwise.
    """
    _check(form, register)
    target = _free(out)
    run_dir = find_run(root, run)
    trial, scored = _recorded(run_dir, rule)
    clean, robust = scored.clean_accuracy.value, scored.robust_accuracy.value
    say(f"{run_dir.name} {scored.id}: clean accuracy {clean:.3f}, robust accuracy {robust:.3f}")
    for doubt in [*(flag.name for flag in scored.flags), *(["stopped"] if scored.stopped else [])]:
        say(f"NOTICE {scored.id} carries the flag {doubt!r}; the model card says why")
    recipe = _recipe_of(trial)
    if recipe.ticket is not None:
        raise UsageError(
            f"{scored.id} stands on a ticket, and a network with units removed can't be exported yet",
            hint="its masks and adapters are in the trial's folder",
        )
    dataset = data_stage.load(recipe.data, recipe.seed)
    if dataset.digest() != trial.data.get("digest"):
        say("NOTICE the data are not what they were: the folder is checked on other texts than the point was scored on")
    plain = _base(recipe, trial)
    base = replace(plain, network=recipe.adapter.host(plain.network))
    mixer = _mixer(recipe, scored, _space(run_dir))
    adapters = _trained_set(run_dir, recipe, trial, base)
    system = mixer.mix(adapters) if mixer else Fixed(adapters.folded[0])
    _check_digest(recipe, scored, system, base)
    from robusweep.mixture import Member

    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary) / "model"
        texts = [example.text for example in dataset.validation[:N_COMPARED]]
        if isinstance(system, Fixed) and recipe.adapter.folds:
            network = write_model(folder, replace(plain, network=model_stage.filled(plain, system.parameters)))
            difference = _checked_difference(network, base, folder, texts)
            if form == "onnx":
                folder = write_onnx(Path(temporary) / "onnx", folder)
                difference = _checked_onnx(network, base, folder, texts)
        elif form == "onnx":
            raise UsageError("--format onnx holds one plain network, and this point is more", hint="--format hf")
        else:
            members = [Member(system.parameters)] if isinstance(system, Fixed) else list(system.adapters.members)
            write_system(folder, system, members, plain, recipe.adapter, temperature=scored.temperature)
            difference = _checked_system(system, recipe, base, folder, texts)
        shipped = Shipped(
            form="system" if is_system(str(folder)) else "plain",
            run=run_dir.name,
            point=scored.id,
            params=scored.params,
            temperature=scored.temperature,
            label_names=list(base.label_names),
            max_tokens=base.max_tokens,
            base=recipe.model.base,
            base_licence=_licence(recipe.model.base),
            data=trial.data,
            data_licence=recipe.data.licence,
            recipe=trial.recipe,
            recipe_digest=trial.recipe_digest,
            mix=mixer.model_dump(mode="json") if mixer else None,
            protocol=recipe.attacks.constraints.model_dump(mode="json"),
            protocol_hash=trial.protocol_hash,
            stand_ins=trial.stand_ins,
            adapters=trial.adapters,
            scores=scored,
            n_compared=len(texts),
            largest_difference=difference,
            trained_with=trial.environment,
            exported_with=environment(),
            command=command,
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

        version = register_model(store_uri(root), register, target, root=root, tags={"robusweep.point": scored.id})
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


# --------------------------------------------------------------------------------------------- what was scored
def _recorded(run_dir: Path, rule: str) -> tuple[TrialRecord, PointRecord]:
    """The trial and the point that the rule picks."""
    named = run_dir / "trials" / rule.partition(".")[0] / "record.json"
    if named.is_file() and read_trial(named).status == "failed":
        raise UsageError(f"trial {named.parent.name} failed, so it has no point to export", hint=f"see {named}")
    chosen = pick(_points(run_dir), rule)
    path = run_dir / "trials" / trial_id(chosen.trial) / "record.json"
    if not path.is_file():
        raise MissingError(f"the record of {chosen.id} is gone: {path}")
    trial = read_trial(path)
    scored = next((point for point in trial.points if point.id == chosen.id), None)
    if scored is None:
        raise MissingError(f"{path} holds no point {chosen.id}", hint=f"robusweep report {run_dir.name}")
    return trial, scored


def _points(run_dir: Path) -> list[Point]:
    """The points of a sweep, or of a trial by itself, which leaves no front."""
    if (run_dir / "front.json").is_file():
        return read_points(run_dir)
    points = assess(read_trials(run_dir), [Objective(metric=name) for name in ("clean_accuracy", "robust_accuracy")])
    if not points:
        raise EmptyFrontError(f"{run_dir} has no completed point yet", hint=f"robusweep status {run_dir.name}")
    return points


def _recipe_of(trial: TrialRecord) -> Recipe:
    try:
        return Recipe.model_validate_json(json.dumps(trial.recipe))
    except ValidationError as e:
        raise MissingError(f"the record's recipe is none of this version: {e.errors()[0]['msg']}") from None


def _space(run_dir: Path) -> SearchSpace:
    """The search space, with the blocks behind the names in a point's params; empty without a sweep."""
    path = run_dir / "sweep.json"
    dimensions = json.loads(path.read_text(encoding="utf-8")).get("space", {}) if path.is_file() else {}
    return SearchSpace.model_validate_json(json.dumps({"dimensions": dimensions}))


def _mixer(recipe: Recipe, point: PointRecord, space: SearchSpace) -> Mixer | None:
    """The recipe's mixer with the values of this point."""
    tree: dict[str, Any] = {"mix": recipe.mix.model_dump(mode="json") if recipe.mix else None}
    for key, value in space.in_recipe(point.params).items():
        if split_key(key)[0] == "mix":
            tree = assign(tree, split_key(key), value)
    if point.chosen_weight is not None:
        tree["mix"] |= {"weighting": "fixed", "weight": point.chosen_weight}
    found: Mixer | None = TypeAdapter(AnyMixer | None).validate_python(tree["mix"])
    return found


# ---------------------------------------------------------------------------------------------------- weights
def _base(recipe: Recipe, trial: TrialRecord) -> TextModel:
    """The base as the trial had it, on the same kind of device: an adapter may be folded with other rounding there."""
    device = "cpu" if recipe.resources.device == "cpu" else model_stage.device_of("auto")
    names = trial.data.get("label_names", [])
    return model_stage.load(recipe.model, names, seed=derive(recipe.seed, "head"), device=device)


def _trained_set(run_dir: Path, recipe: Recipe, trial: TrialRecord, base: TextModel) -> TrainedSet:
    frozen, adapter = dict(base.network.named_parameters()), recipe.adapter
    tensors = [_tensors(run_dir, trial, record) for record in trial.adapters]
    return TrainedSet(
        names=[record.view for record in trial.adapters],
        base=frozen,
        folded=[adapter.fold(frozen, t) for t in tensors],
        members=[adapter.member(frozen, t) for t in tensors],
        ranges=[(record.entropy_range[0], record.entropy_range[1]) for record in trial.adapters],
    )


def _tensors(run_dir: Path, trial: TrialRecord, adapter: AdapterRecord) -> dict[str, Tensor]:
    """A trained adapter: the trial's own copy, or the cache's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    own = run_dir / "trials" / trial_id(trial.number) / "adapters" / f"{adapter.view}.safetensors"
    cached = run_dir.parent.parent / "cache" / "train" / adapter.cache_key / "adapter.safetensors"
    path = next((path for path in (own, cached) if path.is_file()), None)
    if path is None:
        raise MissingError(
            f"the trained adapter {adapter.view!r} is gone: neither {own} nor {cached} is there",
            hint=f"remove {own.parent.parent} and give the run's command again: that trial is made anew",
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as e:
        raise MissingError(f"{path} can't be read: {e}") from None
    return tensors


def _check_digest(recipe: Recipe, point: PointRecord, system: System, base: TextModel) -> None:
    """Refuse weights that are not those that were scored."""
    found = defended.digest(system, base, model_stage.identity(recipe.model))
    if found != point.model_digest:
        raise StageError(
            f"export: the weights of {point.id} are not those that were scored "
            f"(digest {found[:16]}, recorded {point.model_digest[:16]})",
            hint="the base model or an adapter has changed; or it was scored on another kind of processor, whose "
            "rounding differs: then export it there",
        )


def _checked_system(system: System, recipe: Recipe, base: TextModel, folder: Path, texts: Sequence[str]) -> float:
    """The largest difference of a logit between the folder, loaded by the code inside it, and the scored system.

    Raises ``StageError`` above ``LARGEST_DIFFERENCE``.
    """
    _, victim = defended.victims(system, base, model_stage.identity(recipe.model), bf16=False)
    found, _ = code_in(folder).load(folder).logits(texts)
    return _largest(found.numpy() - victim(texts))


def _largest(differences: Any) -> float:
    largest = float(abs(differences).max(initial=0.0))
    if not largest <= LARGEST_DIFFERENCE:  # NaN, too
        raise StageError(f"export: the folder answers otherwise than the trained point: a logit by {largest:.1e}")
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
            largest = max(largest, _largest((found - network(**_padded(base, batch)).logits).numpy()))
    return largest


def _checked_onnx(network: Module, base: TextModel, folder: Path, texts: Sequence[str]) -> float:
    """The largest difference of a logit between ONNX Runtime and the point's network. Raises as for other folders."""
    import torch

    found, largest = onnx_logits(folder, texts), 0.0
    with torch.inference_mode():
        for i in range(0, len(texts), TEXTS_PER_BATCH):
            batch = slice(i, i + TEXTS_PER_BATCH)
            expected = network(**_padded(base, texts[batch])).logits.numpy()
            largest = max(largest, _largest(found[batch] - expected))
    return largest


def _padded(base: TextModel, texts: Sequence[str]) -> dict[str, Tensor]:
    import torch

    rows = base.tokens(texts)
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[base.pad_id] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


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
