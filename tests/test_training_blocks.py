"""Training blocks that no run could carry out end ``validate`` with exit code 2 and a line that says why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robusweep import cli

ROOT = Path(__file__).resolve().parents[1]
RECIPE = str(ROOT / "recipes/agnews_mixup.yaml")

REFUSED = {
    "negative radius": (
        ["adversarial.0.radius=-1"],
        "adversarial.0.radius: must be greater than or equal to 0, given -1",
    ),
    "no steps": (["adversarial.0.n_steps=0"], "adversarial.0.n_steps"),
    "unbounded without a step": (["adversarial.0={kind: freelb, radius: null}"], "an unbounded radius (null) needs"),
    "unknown norm": (["adversarial.0.radius={value: 0.1, norm: l3}"], "adversarial.0.radius.norm"),
    "unknown space": (["adversarial.0.radius={value: 0.1, space: layer:0}"], "adversarial.0.radius.space"),
    "unknown method": (["adversarial.0={kind: freelbb}"], "freelb"),
    "asa without masks": (
        ["adversarial.0={kind: asa}", "model.attention=flash_attention_2"],
        "model.attention: flash_attention_2 takes no masks (allowed: auto, sdpa, eager)",
    ),
    "rift without adapter": (
        ["adapter={kind: full}", "train.regularisers=[{kind: rift}]"],
        "train.regularisers.0: compares with the network without its adapter",
    ),
    "self-regularisation without adapter": (
        ["adapter={kind: full}", "adversarial.0.regularisers=[{kind: rift}, {kind: self_regularisation}]"],
        "adversarial.0.regularisers.0",
    ),
    "a regulariser twice": (["train.regularisers=[{kind: rift}, {kind: rift}]"], "one is listed twice"),
    "r-drop without dropout": (["train={kind: rdrop}"], "model.dropout is 0.0"),
    "more parts than examples": (["train.accumulate=64"], "64 parts of a batch of 16 examples"),
    "last with a search of its own": (
        ["train={kind: vat, radius: 0.1, update: {kind: last}}"],
        "last learns at other weights",
    ),
    "a held-out attack in training": (
        ["adversarial.0={kind: text_attack, attack: pwws}", "attacks.held_out=[pwws]"],
        "an attack is used in training or held out, not both",
    ),
    "an unknown attack in training": (["adversarial.0={kind: text_attack, attack: pwsw}"], "did you mean 'pwws'?"),
}


@pytest.mark.parametrize(("overrides", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_training_block_that_can_not_run_is_refused(
    overrides: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space_free = ["search=null"]  # the space names keys that these methods have not
    monkeypatch.setattr(sys, "argv", ["robusweep", "validate", RECIPE, *overrides, *space_free])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_same_keys_with_allowed_values_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = [
        "adapter={kind: oft}",
        "train={kind: standard, regularisers: [{kind: rift}], update: {kind: dps}, accumulate: 2, patience: 1}",
        'adversarial.0={kind: pgd, radius: {value: 0.1, space: "layer:2"}, update: {kind: last}}',
        "search=null",
    ]
    monkeypatch.setattr(sys, "argv", ["robusweep", "validate", RECIPE, *allowed])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
