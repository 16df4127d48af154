from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from robusweep.data import AnyData
from robusweep.data.base import DataSource

AG_WORDS = ("minister", "goal", "profit", "chip")


@pytest.fixture
def parse() -> Callable[..., DataSource]:
    """A data block as the recipe would parse it, with sizes that tiny files can give."""

    def parsed(**block: object) -> DataSource:
        sizes = {"n_train": 4, "n_validation": 2, "n_calibration": 2, "n_test": 2}
        return TypeAdapter(AnyData).validate_python(sizes | block)

    return parsed


@pytest.fixture
def no_ag_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no AG News and cannot reach the hub."""
    monkeypatch.delenv("ROBUSWEEP_DATA", raising=False)
    monkeypatch.setattr("robusweep.hub.hub_reachable", lambda: False)


@pytest.fixture
def ag_folder(tmp_path: Path) -> Path:
    """Ten train and five test rows of each AG News class, in the two formats that are published."""
    folder = tmp_path / "ag_news"
    folder.mkdir()
    train = [f'"{word} story {i}, told",{label}' for i in range(10) for label, word in enumerate(AG_WORDS)]
    test = [f'"{label + 1}","{word} title {i}","Its body"' for i in range(5) for label, word in enumerate(AG_WORDS)]
    (folder / "train_5k.csv").write_text("\n".join(train) + "\n")
    (folder / "test.csv").write_text("\n".join(test) + "\n")
    return folder
