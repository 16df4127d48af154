"""The only user of MLflow: a projection of a sweep's records that can be thrown away and written again."""

from __future__ import annotations

from robusweep.tracking.package import register_model, save_model
from robusweep.tracking.serve import serve
from robusweep.tracking.store import store_uri
from robusweep.tracking.sync import sync
from robusweep.tracking.ui import experiments, ui
from robusweep.tracking.view import links

__all__ = ["experiments", "links", "register_model", "save_model", "serve", "store_uri", "sync", "ui"]
