"""A model folder for ONNX: the network in one file for any length and number of texts, beside its tokenizer."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusweep.errors import MissingError, StageError
from robusweep.shipped import ONNX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.nn import Module

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUTS = ("input_ids", "attention_mask")
WEIGHTS = (".safetensors", ".bin")
TEXTS_PER_BATCH = 16


def check_packages() -> None:
    """Raises ``MissingError`` when a package is absent that ONNX needs."""
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise MissingError(
            f"--format onnx needs {', '.join(absent)}", hint=f"pip install {' '.join(PACKAGES)}, or robusweep[onnx]"
        )


def write_onnx(folder: Path, model: Path, network: Module) -> Path:
    """Write the ONNX folder of a network, and return it. Nothing is compared yet.

    ``network`` is on the CPU and in eval mode; ``model`` is a folder with its tokenizer and configuration. Raises
    ``StageError`` when PyTorch can't translate the network.
    """
    import torch
    from transformers import AutoTokenizer

    shutil.copytree(model, folder, ignore=lambda _, names: [name for name in names if name.endswith(WEIGHTS)])
    examples = AutoTokenizer.from_pretrained(model)(["a text", "another one"], padding=True, return_tensors="pt")

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    axes = {0: "batch", 1: "sequence"}
    try:
        with _quiet():
            torch.onnx.export(
                Logits().eval(),
                tuple(examples[name] for name in INPUTS),
                folder / ONNX,
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(INPUTS, axes),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as e:  # whatever PyTorch's translator raises
        cause = str(e).strip().splitlines() or [type(e).__name__]
        raise StageError(f"export: PyTorch can't write this network as ONNX: {cause[0]}") from e
    return folder


def onnx_logits(folder: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """[n_texts, n_classes]: what ONNX Runtime answers, in batches of texts of different lengths."""
    import numpy as np
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for begin in range(0, len(texts), TEXTS_PER_BATCH):
        batch = tokenizer(
            list(texts[begin : begin + TEXTS_PER_BATCH]), truncation=True, padding=True, return_tensors="np"
        )
        found += session.run(None, {name: batch[name].astype(np.int64) for name in INPUTS})
    return np.concatenate(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's translator tells its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
