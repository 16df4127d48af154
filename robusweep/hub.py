"""Can the model hub be reached? Asked once per process, with a short time limit and no download."""

from __future__ import annotations

import os
import socket
from functools import cache
from urllib.parse import urlsplit


@cache
def hub_reachable(seconds: float = 1.5) -> bool:
    """Whether a connection to the model hub opens. ``HF_HUB_OFFLINE=1`` answers no without trying."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        with socket.create_connection((endpoint.hostname or "huggingface.co", port), timeout=seconds):
            return True
    except OSError:
        return False
