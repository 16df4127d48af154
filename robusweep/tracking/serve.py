"""Serve an exported model on this machine with MLflow's own model server."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from robusweep.errors import MissingError, UsageError
from robusweep.shipped import ONNX, SHIPPED
from robusweep.tracking.package import LIMITS, save_model
from robusweep.tracking.server import ASKED, application
from robusweep.tracking.store import ENVIRONMENT

TERMINATED = 143  # exit code behind SIGTERM
LOOK_SECONDS = 0.1  # between two looks whether the server answers
SETTINGS = ENVIRONMENT | {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "600",
}


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 5001,
    max_texts: int = 256,
    max_characters: int = 20_000,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> int:
    """Answer requests until Ctrl-C, and return the exit code; ``say`` hears the address when it answers.

    ``model`` is a folder of ``robusweep export``, in either format. Nothing is downloaded, and the packages are this
    environment's. Raises ``MissingError`` for another folder, ``UsageError`` when the port can't be used.
    """
    folder = Path(model)
    served = _is_served(folder)
    _check_free(host, port)
    with _on_sigterm(), _settings(), TemporaryDirectory(prefix="robusweep-serve-") as temporary:
        made = folder.resolve() if served else save_model(Path(temporary) / "mlflow", folder.resolve(), ["a text"])
        limits = dict(zip(LIMITS, (max_texts, max_characters), strict=True))
        os.environ[ASKED] = json.dumps({"folder": str(made), "limits": limits, "workers": workers})
        app = _loaded(folder)
        threading.Thread(target=_announce, args=(model, host, port, say), daemon=True).start()
        _run(app if workers == 1 else None, host, port, workers)
    return 0


def _is_served(folder: Path) -> bool:
    """Whether this export is MLflow's already. Raises ``MissingError`` when it is none."""
    if not folder.is_dir():
        raise MissingError(f"MODEL: there is no folder {folder}", hint="robusweep export RUN --out FOLDER makes one")
    if (folder / ONNX).is_file():
        raise MissingError(
            f"MODEL: {folder} is an export for ONNX", hint="robusweep export RUN --format mlflow --out FOLDER"
        )
    if (folder / SHIPPED).is_file():
        return False
    none = MissingError(
        f"MODEL: {folder} is no export of robusweep: it holds no {SHIPPED}",
        hint="robusweep export RUN --out FOLDER makes one; for any other classifier there is robusweep predict",
    )
    try:
        about = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
        inner = folder / about["artifacts"]["model"]["path"] / SHIPPED
        limited = {*LIMITS} <= {*(about.get("config") or {})}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise none from None
    if not inner.is_file():
        raise none
    if not limited:
        raise MissingError(f"MODEL: {folder} was made by an older robusweep, without limits", hint="export it again")
    return True


def _check_free(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as e:
        hint = None if isinstance(e, socket.gaierror) else f"try --port {port + 1}"
        raise UsageError(f"port {port} of {host} can't be used: {e.strerror}", hint=hint) from None


@contextmanager
def _on_sigterm() -> Iterator[None]:
    """A plain kill, too, removes what is temporary."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _settings() -> Iterator[None]:
    """What the server and its workers find in the environment, where the user has not set it."""
    added = {key: value for key, value in SETTINGS.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in [*added, ASKED]:
            os.environ.pop(key, None)


def _loaded(folder: Path) -> Any:
    """The application. Raises ``MissingError`` for files that don't make one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return application()
    except Exception as e:  # the folder's own code runs here
        cause = str(e).strip().splitlines() or [type(e).__name__]
        raise MissingError(f"MODEL: {folder} can't be loaded: {cause[0]}") from e


def _run(app: Any, host: str, port: int, workers: int) -> None:
    """Serve in this process, or in workers of its own that make the application themselves."""
    import uvicorn

    quiet: dict[str, Any] = {"host": host, "port": port, "log_level": "warning", "access_log": False}
    if app is not None:
        uvicorn.run(app, **quiet)
    else:
        uvicorn.run("robusweep.tracking.server:application", factory=True, workers=workers, **quiet)


def _announce(model: str, host: str, port: int, say: Callable[[str], None]) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                break
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    body = json.dumps({"inputs": ["a text"]})
    say(
        f"{model} is served at {url}; ask: curl {url}/invocations -H 'Content-Type: application/json' "
        f"-d {shlex.quote(body)}"
    )
