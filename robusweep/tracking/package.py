"""An exported model as a folder of MLflow, and its entry in the model registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from robusweep.errors import StageError
from robusweep.tracking.store import opened

SERVED = Path(__file__).with_name("served.py")
REQUIREMENTS = ("mlflow", "transformers", "torch", "safetensors", "pandas")


def save_model(folder: Path, model: Path, texts: Sequence[str]) -> Path:
    """Write the MLflow model ``folder`` from an exported one, and return it. No object is pickled.

    Raises ``StageError`` when it does not give these texts a label that is the model's.
    """
    names = json.loads((model / "robusweep.json").read_text(encoding="utf-8"))["label_names"]
    with opened(f"sqlite:///{folder.with_suffix('.db')}"):  # quiet; nothing is tracked
        import pandas as pd  # type: ignore[import-untyped]
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        shares = [ColSpec("double", f"probability_{name}") for name in names]
        pyfunc.save_model(
            path=str(folder),
            python_model=str(SERVED),
            artifacts={"model": str(model)},
            signature=ModelSignature(
                inputs=Schema([ColSpec("string", "text")]), outputs=Schema([ColSpec("string", "label"), *shares])
            ),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )
        labels = list(pyfunc.load_model(str(folder)).predict(pd.DataFrame({"text": list(texts)}))["label"])
    if len(labels) != len(texts) or not set(labels) <= set(names):
        raise StageError(f"export: MLflow's model answers {labels} for {len(texts)} texts")
    return folder


def register_model(uri: str, name: str, folder: Path, *, tags: Mapping[str, str]) -> str:
    """A new version of the registered model ``name`` whose files are ``folder``; returns the version.

    Raises ``MissingError`` when the store can't be written.
    """
    with opened(uri) as client:
        if name not in {model.name for model in client.search_registered_models(f"name = '{name}'")}:
            client.create_registered_model(name)
        return str(client.create_model_version(name, folder.as_uri(), tags=dict(tags)).version)
