"""A small recipe on a CSV file, for sweeps whose workers train nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robusweep.recipe import SweepPlan, load_recipe

RECIPE = """\
# A sweep for tests.
version: 1
name: small
data: {kind: csv, path: data.csv, text: text, label: label, n_train: 20, n_validation: 10, n_calibration: 4, n_test: 4}
model: {base: minilm_l6}
adapter: {kind: lora, rank: 4}
train: {kind: standard, n_epochs: 1}
adversarial: [{kind: pgd, radius: 0.3, n_epochs: 1}]
mix: {kind: adpmixup}
attacks: {known: [deepwordbug], n_examples: 10}
search:
  space: space.yaml
  budget: {n_trials: 4}
resources: {executor: local, max_concurrent: 2}
"""
SPACE = """\
# The space of a sweep for tests.
mix.weight: {grid: [0.0, 0.5, 1.0], after: training}
adversarial.0.radius: {log_uniform: [0.1, 0.6]}
adapter.rank: {choice: [4, 8]}
"""

Declare = Callable[..., SweepPlan]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a recipe, a space and a CSV of two classes."""
    rows = "".join(
        f"a text about {'cats' if i % 2 else 'dogs'} number {i},{'cat' if i % 2 else 'dog'}\n" for i in range(60)
    )
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


@pytest.fixture
def declare(project: Path) -> Declare:
    """The project's plan, with overrides and a search space of the test's own."""

    def make(*overrides: str, space: str | None = None) -> SweepPlan:
        if space is not None:
            (project / "space.yaml").write_text(f"# A space of one test.\n{space}")
        return load_recipe(project / "recipe.yaml", list(overrides))

    return make
