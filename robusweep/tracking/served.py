"""What MLflow runs to serve an exported model: copied into the model's folder, it needs ``transformers`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
import torch
from mlflow.pyfunc import PythonModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TEXTS_PER_BATCH = 32


class TextClassifier(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """A column ``text`` in; ``label`` and ``probability_<label>`` out. Logits are divided by the temperature."""

    _skip_type_hint_validation = True  # MLflow's: the folder holds the signature; no advice on hints

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True).eval()
        self.temperature = json.loads((folder / "robusweep.json").read_text(encoding="utf-8"))["temperature"] or 1.0

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """A table with a row for each text."""
        texts = [str(text) for text in model_input["text"]]
        names = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        found = torch.empty(len(texts), len(names))
        for begin in range(0, len(texts), TEXTS_PER_BATCH):
            places = order[begin : begin + TEXTS_PER_BATCH]
            batch = self.tokenizer([texts[i] for i in places], truncation=True, padding=True, return_tensors="pt")
            found[places] = (self.model(**batch).logits / self.temperature).softmax(-1)
        table = pd.DataFrame(found.double().numpy(), columns=[f"probability_{name}" for name in names])
        table.insert(0, "label", [names[i] for i in found.argmax(1).tolist()])
        return table


mlflow.models.set_model(TextClassifier())
