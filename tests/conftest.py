"""For every test: no hub, one thread, and a lexicon cache that goes with the test run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _own_lexicon_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lexical resources are built once, in a folder that goes with the test run."""
    before = os.environ.get("ROBUSWEEP_CACHE")
    os.environ["ROBUSWEEP_CACHE"] = str(tmp_path_factory.mktemp("lexicon"))
    yield
    if before is None:
        del os.environ["ROBUSWEEP_CACHE"]
    else:
        os.environ["ROBUSWEEP_CACHE"] = before
