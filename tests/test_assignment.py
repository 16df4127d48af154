"""What a sweep needs that its recipe alone does not: resources of the named blocks of its space."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from robusweep.assignment import resolved, resolved_sweep
from robusweep.errors import MissingError
from robusweep.recipe import SweepPlan, load_recipe
from robusweep.record import write_text

RECIPE = """\
version: 1
name: small
data: {kind: csv, path: data.csv, n_train: 20, n_validation: 12, n_calibration: 6, n_test: 6}
model: {base: ./encoder}
adapter: {kind: lora}
train: {kind: standard}
attacks: {known: [deepwordbug], n_examples: 4}
search: {space: space.yaml}
"""


def plan(folder: Path, blocks: str) -> SweepPlan:
    files = {
        "recipe.yaml": RECIPE,
        "space.yaml": f"train: {{grid: {{plain: {{kind: standard}}, {blocks}}}}}\n",
        "data.csv": "text,label\n",
        "encoder/config.json": "{}",
        "encoder/model.safetensors": "",
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return load_recipe(folder / "recipe.yaml")


def test_a_stand_in_that_only_a_named_block_needs_is_told_once(tmp_path: Path) -> None:
    methods = [f"{name}: {{kind: text_attack, attack: a2t, share: {name[1:]}.0}}" for name in ("s0", "s1")]
    loaded = plan(tmp_path, ", ".join(methods))
    assert resolved(loaded.recipe)[1] == []
    recipe, stand_ins = resolved_sweep(loaded)
    assert [(s.asked, s.used) for s in stand_ins] == [("a2t", "a2t_wordnet")]
    assert recipe == loaded.recipe


def test_what_a_named_block_lacks_is_told_before_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = plan(tmp_path, "hulls: {kind: ascc}")
    resolved_sweep(loaded)
    monkeypatch.setattr("robusweep.assignment.WORDNET", SimpleNamespace(missing=lambda: "wordnet: pip install it"))
    with pytest.raises(MissingError, match="'ascc' lacks wordnet"):
        resolved_sweep(loaded)


def test_a_large_model_that_is_not_here_is_named_by_its_key(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"""\
# A large model.
version: 1
name: large
data: {{kind: csv, path: {tiny}/data.csv, text: text, label: label, n_train: 32, n_validation: 12, n_calibration: 8,
  n_test: 8}}
model: {{base: {tiny}/model}}
adapter: {{kind: lora}}
train: {{kind: standard}}
adversarial: [{{kind: pgd, radius: 0.1}}]
mix: {{kind: emulated, large: ./none}}
attacks: {{known: [deepwordbug], n_examples: 8}}
"""
    )
    with pytest.raises(MissingError, match=r"mix\.large: there is no folder .*/none"):
        resolved(load_recipe(tmp_path / "recipe.yaml").recipe)
