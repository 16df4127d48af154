"""The base of every YAML block: strict, frozen, and with a digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A YAML block whose fields are its keys. Unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all fields, defaults included."""
        return digest_of(self.model_dump(mode="json"))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-like value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
