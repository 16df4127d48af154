"""Adapters of a trial that learn from texts an attack has found: end to end, cached, cut and resumed, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from robusweep.assignment import resolved, single_assignment
from robusweep.cache import OutcomeLog
from robusweep.errors import RecipeError
from robusweep.progress import Progress, read_share
from robusweep.recipe import load_recipe
from robusweep.record import AdapterRecord, TrialRecord
from robusweep.trial import run_trial

FIELDS = "n_epochs: 6, learning_rate: 2.0e-2, batch_size: 8"
RECIPE = f"""\
# A trial for tests.
version: 1
name: tiny
data: {{kind: csv, path: data.csv, text: text, label: label,
       n_train: 48, n_validation: 12, n_calibration: 8, n_test: 8}}
model: {{base: ./model, max_tokens: 32}}
adapter: {{kind: lora, rank: 2}}
train: {{kind: standard, {FIELDS}}}
adversarial: [{{kind: augment, source: attack, attack: deepwordbug, share: 0.5, {FIELDS}}}]
mix: {{kind: adpmixup}}
attacks: {{known: [deepwordbug], n_examples: 4, calibrate: false}}
resources: {{precision: fp32}}
"""
LIVE = f"adversarial.0={{kind: text_attack, attack: deepwordbug, n_queries: 60, {FIELDS.replace('6', '3')}}}"


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def run(project: Path, root: Path, *overrides: str) -> TrialRecord:
    recipe = load_recipe(project / "recipe.yaml", list(overrides)).recipe
    return run_trial(single_assignment(recipe, name="tiny", root=root, stand_ins=[]))


def adapter_of(root: Path, record: TrialRecord, view: str = "adversarial.0") -> dict[str, Any]:
    from safetensors.torch import load_file

    (found,) = (a for a in record.adapters if a.view == view)
    tensors: dict[str, Any] = load_file(root / "cache/train" / found.cache_key / "adapter.safetensors")
    return tensors


def log_of(root: Path) -> str:
    return (root / "runs/tiny/trials/t000/log.txt").read_text()


def attacked_on_the_way(root: Path) -> int:
    """Texts whose outcomes are kept, of the training split or not."""
    return sum(len(OutcomeLog(path).done) for path in (root / "cache/attack").glob("*.jsonl"))


def test_texts_made_against_the_clean_network_train_another_which_shares_it(project: Path, tmp_path: Path) -> None:
    record = run(project, tmp_path)
    assert record.status == "complete"
    assert len(list((tmp_path / "cache/train").glob("*/manifest.json"))) == 2  # the reference is the clean adapter
    assert "adversarial.0.reference: from the cache" in log_of(tmp_path)
    clean, other = record.adapters
    assert other.reference_seconds == 0.0
    assert clean.n_steps == 6 * 6 < other.n_steps <= 6 * 9
    assert other.n_forward == other.n_backward == other.n_steps
    assert other.n_tokens > clean.n_tokens > 0
    assert other.peak_memory_bytes > 0
    assert {p.name for p in (tmp_path / "runs/tiny/trials/t000/adapters").iterdir()} == {
        "clean.safetensors", "adversarial.0.safetensors"}  # fmt: skip


def test_a_reference_of_its_own_is_trained_once_and_counted(project: Path, tmp_path: Path) -> None:
    record = run(project, tmp_path, "adversarial.0.n_epochs=4")
    assert len(list((tmp_path / "cache/train").glob("*/manifest.json"))) == 3
    other = record.adapters[1]
    assert other.reference_seconds > 0
    assert record.train_seconds == sum(a.train_seconds for a in record.adapters) + other.reference_seconds
    n_texts = attacked_on_the_way(tmp_path)
    again = run(project, tmp_path, "adversarial.0.n_epochs=4", "adversarial.0.loss_weight=2.0")
    assert [a.cached for a in again.adapters] == [True, False]
    assert len(list((tmp_path / "cache/train").glob("*/manifest.json"))) == 4
    made = attacked_on_the_way(tmp_path) - n_texts
    assert made <= 4 + 24  # the new point's own four examples and flags: no training text was attacked again


def test_no_share_trains_the_very_same_adapter_as_plain_training(project: Path, tmp_path: Path) -> None:
    record = run(project, tmp_path, "adversarial.0.share=0.0")
    assert attacked_on_the_way(tmp_path) <= 4 + 24
    clean, other = (adapter_of(tmp_path, record, view) for view in ("clean", "adversarial.0"))
    assert all(clean[name].equal(other[name]) for name in clean)


def test_texts_found_while_training_give_the_same_adapter_in_every_place(project: Path, tmp_path: Path) -> None:
    record = run(project, tmp_path / "a", LIVE)
    again = run(project, tmp_path / "b", LIVE)
    one, other = adapter_of(tmp_path / "a", record), adapter_of(tmp_path / "b", again)
    assert all(one[name].equal(other[name]) for name in one)
    assert log_of(tmp_path / "a").count("adversarial.0: deepwordbug turned") >= 2  # after one clean epoch, each epoch
    assert 6 + 7 + 7 <= record.adapters[1].n_steps <= 6 + 8 + 8


def test_a_cut_run_ends_as_if_it_had_not_been(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robusweep.training.checkpoint import Checkpoint

    whole = adapter_of(tmp_path / "whole", run(project, tmp_path / "whole", LIVE))
    root, told = tmp_path / "cut", Progress.share
    saved = root / "runs/tiny/trials/t000/checkpoints/adversarial.0.safetensors"

    def cut_off(self: Progress, what: str, done: float) -> None:
        if what == "train adversarial.0" and done > 0.8:
            raise KeyboardInterrupt
        told(self, what, done)

    monkeypatch.setattr(Checkpoint, "is_due", lambda _self: True)
    monkeypatch.setattr(Progress, "share", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(project, root, LIVE)
    assert saved.is_file()
    n_attacks = log_of(root).count("turned")
    monkeypatch.setattr(Progress, "share", told)
    record = run(project, root, LIVE)
    assert record.adapters[0].cached
    assert not record.adapters[1].cached
    assert log_of(root).count("turned") == n_attacks  # the texts of the last epoch were saved with the run
    rest = adapter_of(root, record)
    assert all(whole[name].equal(rest[name]) for name in whole)
    assert not saved.exists()


def test_early_stopping_looks_at_the_validation_texts(project: Path, tmp_path: Path) -> None:
    record = run(project, tmp_path, "train.patience=1", "train.n_epochs=30", "adversarial.0.share=0.0")
    clean, other = record.adapters
    assert 2 <= len(clean.validation_accuracy) < 30
    assert clean.kept_epoch == len(clean.validation_accuracy) - 1
    assert clean.validation_accuracy[clean.kept_epoch - 1] == max(clean.validation_accuracy)
    assert (other.validation_accuracy, other.kept_epoch) == ([], 6)


def test_a_cache_key_holds_what_a_method_reads_and_no_more(project: Path, tmp_path: Path) -> None:
    overrides = ["train.n_epochs=1", "adversarial.0={kind: augment, n_epochs: 1}", "attacks.n_examples=1"]
    attack = "adversarial.0={kind: text_attack, attack: deepwordbug, n_epochs: 2}"
    plain = run(project, tmp_path, *overrides)
    assert [a.cached for a in run(project, tmp_path, *overrides, "attacks.protocol=strict_v1").adapters] == [True, True]
    assert [a.cached for a in run(project, tmp_path, *overrides, attack).adapters] == [True, False]
    assert [a.cached for a in run(project, tmp_path, *overrides, attack).adapters] == [True, True]
    other = run(project, tmp_path, *overrides, attack, "attacks.protocol=strict_v1")
    assert [a.cached for a in other.adapters] == [True, False]
    keys = {name: json.loads((tmp_path / "cache/train" / name / "manifest.json").read_text())["key"]
            for name in (a.cache_key for a in [*plain.adapters, *other.adapters])}  # fmt: skip
    held = [set(key) & {"lexicon", "attacks", "validation"} for key in keys.values()]
    assert held == [set(), {"lexicon"}, {"attacks"}]


def refused(project: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        resolved(load_recipe(project / "recipe.yaml", list(overrides)).recipe)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_attack_that_is_held_out_trains_nothing(project: Path) -> None:
    held_out = "attacks.held_out=[pwws, textfooler]"
    for override in ("adversarial.0.attack=pwws", "train={kind: text_attack, attack: pwws}",
                     "adversarial.0={kind: mixada, source: attack, attack: pwws}"):  # fmt: skip
        message = refused(project, held_out, override)
        assert f"{override.split('=')[0].removesuffix('.attack')}.attack" in message
        assert "is listed under attacks.held_out" in message
    message = refused(project, held_out, "adversarial.0.attack=textfooler_wordnet")
    assert "'textfooler_wordnet', which is held out" in message  # it stands in for textfooler here
    load_recipe(project / "recipe.yaml", [held_out])


def test_an_attack_that_is_none_or_turns_nothing_is_refused(project: Path) -> None:
    message = refused(project, "adversarial.0.attack=deepwordbugs")
    assert "adversarial.0.attack" in message
    assert "did you mean 'deepwordbug'" in message
    assert "nothing to train on" in refused(project, "adversarial.0.attack=input_reduction")


def test_a_stand_in_of_an_attack_in_training_is_told(project: Path) -> None:
    recipe, stand_ins = resolved(load_recipe(project / "recipe.yaml", ["adversarial.0.attack=a2t"]).recipe)
    assert [(s.asked, s.used) for s in stand_ins] == [("a2t", "a2t_wordnet")]
    assert recipe.adversarial[0].attacks_with == ["a2t"]


def test_an_attack_in_training_is_that_of_the_suite(project: Path) -> None:
    listed = "attacks.known=[{kind: deepwordbug, max_edit_distance: 3}]"
    recipe = load_recipe(project / "recipe.yaml", [listed]).recipe
    assert recipe.attack_named("deepwordbug") == recipe.attacks.known[0]
    assert recipe.attack_named("pwws").kind == "pwws"


def test_a_record_of_an_earlier_version_reads() -> None:
    old = {"view": "clean", "method": "standard", "cache_key": "k", "cached": False, "train_seconds": 1.0,
           "final_loss": 0.1, "n_steps": 3, "token_efficiency": 1.0, "precision": "fp32"}  # fmt: skip
    record = AdapterRecord.model_validate(old)
    assert record.kept_epoch is None
    assert record.readings == {}


def test_a_share_is_told_at_most_twice_a_second_and_not_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robusweep import progress

    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = Progress(tmp_path)
    assert read_share(tmp_path) is None
    for moment, done in [(100.0, 0.1), (100.2, 0.2), (100.6, 0.3), (100.9, 0.4)]:
        now[0] = moment
        told.share("train clean", done)
        assert read_share(tmp_path) == ("train clean", {100.0: 0.1, 100.2: 0.1}.get(moment, 0.3))
    told.share("train clean", 1.0)
    assert read_share(tmp_path) is None


@pytest.mark.parametrize(
    "block",
    [
        "{kind: augment, source: attack, attack: deepwordbug}",
        "{kind: text_attack, attack: deepwordbug, clean_epochs: 0}",
        "{kind: ascc}",
        "{kind: mixada, source: eda}",
    ],
)
def test_a_forecast_counts_what_attacks_in_training_ask(project: Path, block: str) -> None:
    from robusweep.plan import predict

    forecast = predict(load_recipe(project / "recipe.yaml", [f"adversarial.0={block}"]))
    assert ("queries in training" in forecast["assumed"]) == ("deepwordbug" in block)
    assert forecast["adapter_trainings"] == 2
