"""For every test: no hub, one thread, and a lexicon cache that goes with the test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("COLUMNS", "140")  # tables are as wide on two processes, which have no terminal, as on one
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _own_lexicon_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lexical resources are built once, in a folder that goes with the test run."""
    before = os.environ.get("ROBUSWEEP_CACHE")
    os.environ["ROBUSWEEP_CACHE"] = str(tmp_path_factory.mktemp("lexicon"))
    yield
    if before is None:
        del os.environ["ROBUSWEEP_CACHE"]
    else:
        os.environ["ROBUSWEEP_CACHE"] = before


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model``, a tiny BERT with a vocabulary of its own, and ``data.csv``, which two words decide."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    nouns = ["film", "actor", "plot", "scene", "music", "story"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "was", "truly", "splendid", "dreadful", "and", *nouns]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder / "model")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder / "model")
    rows = [
        f"the {a} was truly {'splendid' if i % 2 else 'dreadful'} and the {b},{'good' if i % 2 else 'bad'}"
        for i, (a, b) in enumerate((a, b) for a in nouns for b in nouns for _ in range(2) for _ in range(1))
    ]
    more = [
        f"and the {a} the {b} was {'splendid' if i % 2 else 'dreadful'},{'good' if i % 2 else 'bad'}"
        for i, (a, b) in enumerate((a, b) for a in nouns for b in nouns for _ in range(2))
    ]
    (folder / "data.csv").write_text("text,label\n" + "\n".join(dict.fromkeys(rows + more)) + "\n")
    return folder


@pytest.fixture(scope="session")
def classifier(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT, fine-tuned: a plain ``save_pretrained`` folder that robusweep did not make."""
    import csv

    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    names = {0: "bad", 1: "good"}
    model = BertForSequenceClassification.from_pretrained(
        tiny / "model", id2label=names, label2id={name: i for i, name in names.items()}
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny / "model")
    with (tiny / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:48]
    batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([int(row["label"] == "good") for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        for _ in range(30):
            optimizer.zero_grad()
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
