"""Sequence classifiers and their tokenizers, read from safetensors: with a fresh head, or with the one they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusweep.errors import MissingError
from robusweep.memory import keep_few_kernels
from robusweep.model.encoder import EMBEDDED, BaseEncoder, check_classifier, embedded_folder

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    from transformers import AutoConfig

    source = str(embedded_folder(model.base)) if model.base in EMBEDDED else model.base
    with _readable(f"model.base: {model.base!r}"):
        config = AutoConfig.from_pretrained(
            source,
            id2label=dict(enumerate(label_names)),
            label2id={name: i for i, name in enumerate(label_names)},
        )
        if model.dropout is not None:
            config.update({name: model.dropout for name in config.to_dict() if "dropout" in name})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            attention = {} if model.attention == "auto" else {"attn_implementation": model.attention}
            tokenizer, network, found = _read(source, config, ignore_mismatched_sizes=True, **attention)  # a new head
            torch.manual_seed(seed)
            _reset_head(network, model.base)
    _check_encoder(network, found, model.base)
    max_tokens = min(model.max_tokens, _n_positions(network) or model.max_tokens)
    return TextModel(network.to(device).eval(), tokenizer, tuple(label_names), max_tokens, device)


def load_classifier(name: str, *, device: str, max_tokens: int = 512) -> TextModel:
    """A trained sequence classifier as it was saved, head and label names included, in float32 and in eval mode.

    ``name`` is a folder saved by ``save_pretrained``, or a hub name. Texts are cut where the model or its tokenizer
    says, and at ``max_tokens``. A folder with masks beside its config.json holds a network that has lost units.
    Raises ``MissingError`` when it can't be read, or holds no trained classifier.
    """
    check_classifier(name, what="MODEL")
    with _readable(repr(name)):
        tokenizer, network, drawn = _saved(name)
    if drawn:
        raise MissingError(
            f"{name!r} is no trained classifier: it holds no weights for {len(drawn)} tensors, first {min(drawn)}",
            hint="fine-tune it first, or give a folder saved by AutoModelForSequenceClassification",
        )
    if network.config.num_labels < 2:
        raise MissingError(f"{name!r} has one output, so it is no classifier")
    label_names = tuple(str(network.config.id2label[i]) for i in range(network.config.num_labels))
    limits = [max_tokens, _n_positions(network), tokenizer.model_max_length]
    return TextModel(network.to(device).eval(), tokenizer, label_names, min(n for n in limits if n), device)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """What goes wrong inside is the fault of the files: one line about it, and no notes from transformers."""
    from safetensors import SafetensorError
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # "newly initialized: classifier" is what we ask for
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise MissingError(f"{what} can't be loaded: {reason}") from e
    finally:
        hf_logging.set_verbosity(verbosity)


def _read(source: str, config: Any, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    """(tokenizer, network, loading info)."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    keep_few_kernels()
    network, found = AutoModelForSequenceClassification.from_pretrained(
        source,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        torch_dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    return tokenizer, network, found


def _saved(name: str) -> tuple[Any, Any, set[str]]:
    """(tokenizer, network, tensors that were drawn for want of weights)."""
    from transformers import AutoConfig, AutoTokenizer

    from robusweep.units import TICKET, rebuilt

    if (Path(name) / TICKET).is_file():
        return AutoTokenizer.from_pretrained(name), rebuilt(Path(name)), set()
    tokenizer, network, found = _read(name, AutoConfig.from_pretrained(name))
    return tokenizer, network, {*found["missing_keys"], *found["mismatched_keys"]}


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


def network_digest(model_identity: str, parameters: Mapping[str, Tensor], max_tokens: int) -> str:
    """A digest of a victim: the base model's identity and the exact bytes of the parameters put into it."""
    sha = hashlib.sha256(json.dumps([model_identity, max_tokens]).encode())
    for name in sorted(parameters):
        sha.update(name.encode())
        sha.update(parameters[name].detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
