"""The model stage: a pre-trained encoder or a trained classifier with its tokenizer, and the victim made from it."""

from __future__ import annotations

from robusweep.model.combined import of_logits_victim, per_text_victim
from robusweep.model.encoder import (
    EMBEDDED,
    BaseEncoder,
    Precision,
    bf16_pays,
    check_classifier,
    device_of,
    embedded_folder,
    identity,
    resolve,
    uses_bf16,
)
from robusweep.model.loading import TextModel, head_names, load, load_classifier, network_digest
from robusweep.model.shared_trunk import answers_of_all
from robusweep.model.victim import ModelVictim, filled, key_of, victim, victims

__all__ = [
    "EMBEDDED",
    "BaseEncoder",
    "ModelVictim",
    "Precision",
    "TextModel",
    "answers_of_all",
    "bf16_pays",
    "check_classifier",
    "device_of",
    "embedded_folder",
    "filled",
    "head_names",
    "identity",
    "key_of",
    "load",
    "load_classifier",
    "network_digest",
    "of_logits_victim",
    "per_text_victim",
    "resolve",
    "uses_bf16",
    "victim",
    "victims",
]
