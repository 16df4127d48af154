"""What goes with a shipped model: where it comes from, what it scored, and what to divide its logits by."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from robusweep.record import AdapterRecord, PointRecord, StandIn, TicketRecord
from robusweep.spec import Spec

SHIPPED = "robusweep.json"  # its name in the model's folder
ONNX = "model.onnx"  # the network, where the folder is for ONNX


class Shipped(Spec):
    """``robusweep.json``.

    ``form``: one plain model; one network that code in the folder builds, as units were removed (``merged``); or
    adapters beside a base, with code that mixes them (``system``). ``temperature``: what the logits are to be divided
    by; the weights give them undivided. ``largest_difference``: between logits of the folder, loaded again, and of the
    trained point, over ``n_compared`` validation texts.
    """

    schema_version: Literal[1] = 1
    form: Literal["plain", "merged", "system"] = "plain"
    run: str
    point: str
    params: dict[str, Any]  # of the search
    temperature: float | None = Field(gt=0)
    label_names: list[str]
    max_tokens: int
    base: str
    base_licence: str | None
    data: dict[str, Any]  # as in the trial's record
    data_licence: str
    recipe: dict[str, Any]
    recipe_digest: str
    mix: dict[str, Any] | None  # the mixer with this point's values
    protocol: dict[str, Any]
    protocol_hash: str
    stand_ins: list[StandIn]
    ticket: TicketRecord | None = None
    adapters: list[AdapterRecord]
    scores: PointRecord
    n_compared: int
    largest_difference: float
    trained_with: dict[str, str]  # versions and commit
    exported_with: dict[str, str]
    command: str
