"""What MLflow runs to serve an exported model: copied into the model's folder, it needs ``transformers`` alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TEXTS_PER_BATCH = 32


class TextClassifier(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """A column ``text`` in; ``label`` and ``probability_<label>`` out. Logits are divided by the temperature.

    Where adapters are weighted for each text, ``weight_<adapter>`` comes out, too. ``max_texts`` and ``max_characters``
    of MLflow's model configuration bound a request; null, the default, does not.
    """

    _skip_type_hint_validation = True  # MLflow's: the folder holds the signature; no advice on hints

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        about = json.loads((folder / "robusweep.json").read_text(encoding="utf-8"))
        self.names: list[str] = about["label_names"]
        self.members: list[str] = []
        if (folder / "system.json").is_file():  # several adapters: the folder has its own code
            self.answer = _code_in(folder).load(folder)
            self.members = self.answer.member_names
        else:
            self.answer = _Plain(folder, about["temperature"] or 1.0)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """A table with a row for each text."""
        texts = list(model_input["text"])
        _check(texts, context.model_config or {})
        labels, found, weights = self.answer(texts)
        table = pd.DataFrame(found.double().numpy(), columns=[f"probability_{name}" for name in self.names])
        table.insert(0, "label", labels)
        if weights is not None:
            table[[f"weight_{name}" for name in self.members]] = weights.double().numpy()
        return table


class _Plain:
    """A folder of ``transformers``."""

    def __init__(self, folder: Path, temperature: float) -> None:
        self.tokenizer, self.temperature = AutoTokenizer.from_pretrained(folder), temperature
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> tuple[list[str], Tensor, None]:
        """(labels, probabilities [n_texts, n_classes], nothing)."""
        names = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        found = torch.empty(len(texts), len(names))
        for begin in range(0, len(texts), TEXTS_PER_BATCH):
            places = order[begin : begin + TEXTS_PER_BATCH]
            batch = self.tokenizer([texts[i] for i in places], truncation=True, padding=True, return_tensors="pt")
            found[places] = (self.model(**batch).logits / self.temperature).softmax(-1)
        return [names[i] for i in found.argmax(1).tolist()], found, None


def _check(texts: Sequence[Any], config: Mapping[str, Any]) -> None:
    most, longest = config.get("max_texts"), config.get("max_characters")
    says = f"{len(texts)} texts; a request may hold {most}" if most is not None and len(texts) > most else None
    for i, text in enumerate(texts, start=1):
        if says is None and not isinstance(text, str):
            says = f"text {i} is no text but {type(text).__name__}"
        elif says is None and longest is not None and len(text) > longest:
            says = f"text {i} has {len(text)} characters; a text may have {longest}"
    if says is not None:
        raise MlflowException(says, INVALID_PARAMETER_VALUE)


def _code_in(folder: Path) -> Any:
    """The package that the folder brings."""
    source = folder / "robusweep_model"
    name = f"robusweep_model_{abs(hash(str(folder))):x}"
    spec = importlib.util.spec_from_file_location(
        name, source / "__init__.py", submodule_search_locations=[str(source)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mlflow.models.set_model(TextClassifier())
