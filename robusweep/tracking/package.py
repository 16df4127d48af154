"""An exported model as a folder of MLflow, and its entry in the model registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from robusweep.errors import StageError
from robusweep.tracking.store import is_server, opened

SERVED = Path(__file__).with_name("served.py")
REQUIREMENTS = ("mlflow", "transformers", "torch", "safetensors", "pandas")
LIMITS = ("max_texts", "max_characters")  # of a request: keys of MLflow's model configuration
REGISTERED = "robusweep.registered"  # the experiment that holds the files of registered models


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

        shares = [f"probability_{name}" for name in names] + [f"weight_{name}" for name in _weighted(model)]
        outputs = [ColSpec("string", "label"), *(ColSpec("double", share) for share in shares)]
        pyfunc.save_model(
            path=str(folder),
            python_model=str(SERVED),
            artifacts={"model": str(model)},
            model_config=dict.fromkeys(LIMITS),
            signature=ModelSignature(inputs=Schema([ColSpec("string", "text")]), outputs=Schema(outputs)),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )
        labels = list(pyfunc.load_model(str(folder)).predict(pd.DataFrame({"text": list(texts)}))["label"])
    if len(labels) != len(texts) or not set(labels) <= set(names):
        raise StageError(f"export: MLflow's model answers {labels} for {len(texts)} texts")
    return folder


def _weighted(model: Path) -> list[str]:
    """The adapters of a model that weights them for each text."""
    path = model / "system.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(about["names"]) if about.get("kind") == "per_text" else []


def register_model(uri: str, name: str, folder: Path, *, root: Path, tags: Mapping[str, str]) -> str:
    """A new version of the registered model ``name`` with a copy of ``folder``; returns the version.

    The copy is an artifact of MLflow's own: under ``root/mlruns``, or where a tracking server keeps its artifacts.
    Raises ``MissingError`` when the store can't be written.
    """
    with opened(uri) as client:
        found = client.get_experiment_by_name(REGISTERED)
        place = None if is_server(uri) else (root.resolve() / "mlruns" / REGISTERED).as_uri()
        experiment = found.experiment_id if found else client.create_experiment(REGISTERED, artifact_location=place)
        logged = client.create_logged_model(experiment, name=name, tags=dict(tags), model_type="text-classification")
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        if name not in {model.name for model in client.search_registered_models(f"name = '{name}'")}:
            client.create_registered_model(name)
        made = client.create_model_version(name, logged.artifact_location, tags=dict(tags))
        return str(made.version)
