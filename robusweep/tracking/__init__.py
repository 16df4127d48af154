"""The only user of MLflow: a projection of a sweep's records that can be thrown away and written again."""

from __future__ import annotations

from robusweep.tracking.store import store_uri
from robusweep.tracking.sync import sync
from robusweep.tracking.ui import experiments, ui
from robusweep.tracking.view import links

__all__ = ["experiments", "links", "store_uri", "sync", "ui"]
