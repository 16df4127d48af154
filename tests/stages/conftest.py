"""Two-layer encoders of width 32 with a vocabulary of a hundred words, and steps on random batches of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.model import TextModel
    from robusweep.training.step import Step

# The shapes in the types of these modules are checked at every call of the tests below.
install_import_hook(["robusweep.training.embedding", "robusweep.training.step"], "beartype.beartype")

SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]  # padding is 1, as RoBERTa's position numbers want it
WORDS = ["good", "bad", *(f"w{i}" for i in range(98))]
FAMILIES = ("bert", "roberta", "distilbert", "electra")

Load = Callable[..., "TextModel"]
MakeStep = Callable[..., "Step"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved tiny model of each family. Weights are large enough for a perturbation to matter."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        BertConfig,
        DistilBertConfig,
        ElectraConfig,
        RobertaConfig,
    )

    size: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 1, "initializer_range": 0.2}
    usual = size | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    configs = {
        "bert": BertConfig(**usual, max_position_embeddings=64),
        "roberta": RobertaConfig(**usual, max_position_embeddings=66, type_vocab_size=1),
        "distilbert": DistilBertConfig(
            **size, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64
        ),
        "electra": ElectraConfig(**usual, embedding_size=16, max_position_embeddings=64),
    }
    root = tmp_path_factory.mktemp("models")
    for family, config in configs.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(root / family)
        _tokenizer().save_pretrained(root / family)
    return {family: root / family for family in configs}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def load_tiny(folders: dict[str, Path]) -> Load:
    """A tiny model, loaded as a trial would: ``load_tiny("roberta", dropout=0.0)``. Every call gives one anew."""
    from robusweep.model import BaseEncoder, load

    known: dict[str, TextModel] = {}  # loading takes several times as long as a copy

    def loaded(family: str = "bert", *, seed: int = 0, labels: Sequence[str] = ("a", "b"), **fields: Any) -> TextModel:
        encoder = BaseEncoder(base=str(folders[family]), **fields)
        key = f"{seed} {labels} {encoder.model_dump_json()}"
        if key not in known:
            known[key] = load(encoder, labels, seed=seed, device="cpu")
        return copy.deepcopy(known[key])

    return loaded


@pytest.fixture
def make_step() -> MakeStep:
    """A step on random token ids: ``make_step(network, [9, 4])`` has texts of nine and of four tokens."""
    import torch

    from robusweep.training.step import Step

    def made(network: Module, lengths: Sequence[int] = (9, 4, 7), *, seed: int = 0, bf16: bool = False) -> Step:
        rng = torch.Generator().manual_seed(seed)
        ids = torch.randint(len(SPECIAL), len(SPECIAL) + len(WORDS), (len(lengths), max(lengths)), generator=rng)
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        labels = torch.randint(0, 2, (len(lengths),), generator=rng)
        return Step(network, ids.where(mask, 1), mask, labels, draws=rng, bf16=bf16)

    return made


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each model family in turn."""
    return str(request.param)


@pytest.fixture
def separable() -> tuple[list[list[int]], list[int]]:
    """(token ids, labels) of forty texts of different lengths whose first word tells the class."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = [i % 2 for i in range(40)]
    words = [rng.integers(7, 105, size=rng.integers(1, 10)).tolist() for _ in labels]
    return [[2, 5 + label, *others, 3] for label, others in zip(labels, words, strict=True)], labels


@pytest.fixture
def random_texts() -> list[str]:
    """Two hundred texts of one to forty known words."""
    import numpy as np

    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 41))) for _ in range(200)]
