"""Start MLflow's pages for a project folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from robusweep.errors import MissingError, UsageError
from robusweep.tracking.store import database_file, is_server, opened, store_uri
from robusweep.tracking.view import links


def experiments(root: Path, tracking_uri: str | None = None) -> dict[str, str]:
    """Recipe name -> MLflow experiment id, of every recipe that was synced.

    Raises ``MissingError`` when there is no database yet or it can't be read.
    """
    uri = store_uri(root, tracking_uri)
    file = database_file(uri)
    if file is not None and not file.exists():
        raise MissingError(f"{file} does not exist: no sweep was tracked here", hint="robusweep run RECIPE comes first")
    with opened(uri) as client:
        found = client.search_experiments(filter_string="name LIKE 'robusweep/%'")
        return {experiment.tags["robusweep.recipe"]: experiment.experiment_id for experiment in found}


def ui(root: Path, *, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Print the links to every recipe's front, then serve MLflow's pages until Ctrl-C; returns the exit code.

    Where ``MLFLOW_TRACKING_URI`` names a server, that server's links are printed and nothing is started.
    Raises ``MissingError`` when nothing was tracked yet, ``UsageError`` when the port is taken.
    """
    uri = store_uri(root)
    if not is_server(uri):
        _check_free(host, port)
    address = uri if is_server(uri) else f"http://{host}:{port}"
    for name, experiment in experiments(root).items():
        found = links(address, experiment)
        print(f"{name}\n  charts  {found['view']}\n  front   {found['table']}\n  plain   {found['front']}", flush=True)
    return 0 if is_server(uri) else _serve(root, uri, host, port)


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"port {port} of {host} can't be used: {error.strerror}", hint=f"try --port {port + 1}"
            ) from error


def _serve(root: Path, uri: str, host: str, port: int) -> int:
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # One reader needs one worker (each holds some 250 MB), no job processes, and nothing sent to anyone.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(command, cwd=root, env=quiet | dict(os.environ))
    before = signal.signal(signal.SIGTERM, lambda *_: server.terminate())  # or the server would outlive this process
    try:
        return server.wait()
    except KeyboardInterrupt:  # a terminal sends Ctrl-C to the server too; a plain signal reaches this process only
        server.send_signal(signal.SIGINT)
        server.wait()
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
