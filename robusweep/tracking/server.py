"""MLflow's model server within limits: the application that ``robusweep serve`` runs in each worker."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from threading import Lock
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ASKED = "ROBUSWEEP_SERVED"  # the environment's word to a worker: model folder, limits and number of workers
BYTES_PER_CHARACTER = 12  # of JSON, at most: two escapes
BYTES_BESIDES = 2**16
CODES = {411: "BAD_REQUEST", 413: "INVALID_PARAMETER_VALUE", 415: "BAD_REQUEST", 404: "ENDPOINT_NOT_FOUND"}


def application() -> Any:
    """The application of one worker. Raises what MLflow raises for a folder that it can't load."""
    import torch
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server

    asked = json.loads(os.environ[ASKED])
    limits = asked["limits"]
    torch.set_num_threads(max(1, torch.get_num_threads() // asked["workers"]))
    model = pyfunc.load_model(asked["folder"], model_config=limits)
    n_bytes = limits["max_texts"] * limits["max_characters"] * BYTES_PER_CHARACTER + BYTES_BESIDES
    return Guarded(scoring_server.init(OneAtATime(model)), n_bytes)


class OneAtATime:
    """A model of MLflow that answers one request after the other: each has all threads, and memory is bounded."""

    def __init__(self, model: Any) -> None:
        self.metadata, self._model, self._turn = model.metadata, model, Lock()

    def predict(self, data: Any, params: Any = None) -> Any:
        with self._turn:
            return self._model.predict(data, params=params)


class Guarded:
    """An application whose refusals are JSON, without tracebacks or texts, and that takes no body of any size."""

    def __init__(self, inner: Any, n_bytes: int) -> None:
        self._inner, self._n_bytes = inner, n_bytes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        refused = self._refused(dict(scope["headers"])) if scope["method"] == "POST" else None
        if refused is not None:
            await _answer(send, *refused)
            return
        begun: list[Message] = []
        body = bytearray()

        async def passed_on(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                begun.append(message)
            elif not begun:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _answer(send, begun[0]["status"], _plain(bytes(body)))

        await self._inner(scope, receive, passed_on)

    def _refused(self, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "the request does not say how long it is (Content-Length)"
        if int(length) > self._n_bytes:
            return 413, f"the request has {int(length)} bytes; it may have {self._n_bytes}"
        if b"content-type" not in headers:
            return 415, "the request does not say what it is (Content-Type: application/json)"
        return None


def _plain(body: bytes) -> str:
    """What a refusal of MLflow says, in one piece, without the data that it repeats."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        text = str(found.get("message", found.get("detail", text)))
    except (ValueError, AttributeError):
        pass
    return text.rpartition("\nError: ")[2].partition(" IMPORTANT: The MLflow Model scoring")[0].strip()


async def _answer(send: Send, status: int, says: str) -> None:
    code = CODES.get(status, "INVALID_PARAMETER_VALUE" if status < 500 else "INTERNAL_ERROR")
    body = json.dumps({"error_code": code, "message": says}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
