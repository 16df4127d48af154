"""Early stopping, checkpoints and cost counters of a training run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robusweep.adapters import Lora
from robusweep.errors import StageError
from robusweep.training import Pgd, Radius, Standard, TrainingMethod
from robusweep.training.base import Extra, Setting

Load = Callable[..., Any]
Texts = tuple[list[list[int]], list[int]]


def train(model: Any, method: TrainingMethod, texts: Texts, **options: Any) -> Any:
    """(trained tensors, how it went)."""
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    network = Lora(rank=2).attach(model.network, head=head_names(model.network), seed=0)
    fitted = fit(network, method, *texts, pad_id=1, **({"seed": 0, "bf16": False} | options))
    return Lora(rank=2).extract(network), fitted


def test_a_run_ends_when_validation_no_longer_improves_and_keeps_its_best_epoch(
    load_tiny: Load, separable: Texts
) -> None:
    fields: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "warmup": 0.0}
    patient = Standard(n_epochs=12, patience=2, **fields)
    _, fitted = train(load_tiny(dropout=0.0), patient, separable, validation=separable)
    seen = fitted.validation_accuracy
    assert fitted.kept_epoch == seen.index(max(seen)) + 1
    assert len(seen) in (12, fitted.kept_epoch + 2)
    assert max(seen) > 0.9
    states: list[Any] = []
    _, all_epochs = train(
        load_tiny(dropout=0.0), patient.model_copy(update={"patience": 12}), separable, validation=separable,
        on_epoch=lambda epoch, _loss: states.append(epoch),
    )  # fmt: skip
    assert all_epochs.validation_accuracy[: len(seen)] == seen
    assert states == list(range(12))


def test_patience_without_validation_texts_fails_before_training(load_tiny: Load, separable: Texts) -> None:
    with pytest.raises(StageError, match="patience needs validation texts"):
        train(load_tiny(), Standard(patience=1), separable)


def test_the_accuracy_is_that_of_the_network_in_use(load_tiny: Load, separable: Texts) -> None:
    from robusweep.training.measured import accuracy

    model = load_tiny(dropout=0.5)
    texts = model.tokenizer.batch_decode(separable[0], skip_special_tokens=True)
    from robusweep.model import victim

    right = victim(model, {}, precision="fp32")(texts).argmax(axis=1) == separable[1]
    model.network.train()
    assert accuracy(model.network, *separable, pad_id=1, bf16=False) == right.mean()
    assert model.network.training


def test_what_a_run_costs_is_counted(load_tiny: Load, separable: Texts) -> None:
    fields: dict[str, Any] = {"n_epochs": 2, "batch_size": 16}
    _, plain = train(load_tiny(), Standard(**fields), separable)
    _, pgd = train(load_tiny(), Pgd(radius=Radius(value=0.1), n_steps=3, **fields), separable)
    assert (plain.n_steps, plain.n_forward, plain.n_backward) == (6, 6, 6)
    assert (pgd.n_steps, pgd.n_forward, pgd.n_backward) == (6, 24, 24)
    assert pgd.n_tokens == 4 * plain.n_tokens
    n_real = 2 * sum(map(len, separable[0]))
    assert plain.token_efficiency == pytest.approx(n_real / plain.n_tokens)
    assert plain.peak_memory_bytes > 1 << 20
    assert plain.seconds > 0


@pytest.mark.parametrize("damage", ["cut", "another run's", "no file"])
def test_a_checkpoint_that_is_none_is_not_read(damage: str, load_tiny: Load, separable: Texts, tmp_path: Path) -> None:
    from robusweep.training.checkpoint import Checkpoint

    method = Standard(n_epochs=1, batch_size=16)
    whole, _ = train(load_tiny(), method, separable)
    path = tmp_path / "run.safetensors"
    train(load_tiny(), method, separable, checkpoint=Checkpoint(path, "mine", seconds=0), seed=9)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "no file":
        path.unlink()
    key = "other" if damage == "another run's" else "mine"
    again, fitted = train(load_tiny(), method, separable, checkpoint=Checkpoint(path, key, seconds=1e9))
    assert fitted.n_steps == 3
    assert all(whole[name].equal(again[name]) for name in whole)


def test_a_checkpoint_is_replaced_whole_and_holds_no_pickle(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open

    from robusweep.training.checkpoint import Checkpoint

    kept = Checkpoint(tmp_path / "a" / "run.safetensors", "k", seconds=0)
    assert kept.read() is None
    kept.write({"x": torch.ones(2)}, {"epoch": 1})
    kept.write({"x": torch.zeros(2)}, {"epoch": 2})
    found = kept.read()
    assert found is not None
    assert found[0]["x"].tolist() == [0.0, 0.0]
    assert found[1] == {"epoch": 2}
    assert [p.name for p in kept.path.parent.iterdir()] == ["run.safetensors"]
    with safe_open(kept.path, "pt") as file:
        assert json.loads(file.metadata()["rest"]) == {"epoch": 2}
    kept.remove()
    kept.remove()
    assert kept.read() is None


class MoreTexts(Standard):
    """Adds one text in its second epoch, which counts twice."""

    def extras(self, setting: Setting, epoch: int) -> list[Extra] | None:
        return [Extra(list(setting.tokens[0]), setting.labels[0], 2.0)] if epoch == 1 else None


def test_more_texts_stay_until_others_come_and_count_by_their_weight(load_tiny: Load, separable: Texts) -> None:
    _, fitted = train(load_tiny(), MoreTexts(n_epochs=3, batch_size=41), separable)
    n_padded = max(map(len, separable[0]))
    assert fitted.n_tokens == (40 + 41 + 41) * n_padded


def test_a_text_that_counts_twice_teaches_twice(load_tiny: Load, make_step: Callable[..., Any]) -> None:
    import torch

    network = load_tiny(dropout=0.0).network
    step = make_step(network, [5, 4])
    step.weights = torch.tensor([1.0, 3.0])
    both = torch.nn.functional.cross_entropy(step.logits(), step.labels, reduction="none").detach()
    assert float(step.loss().detach()) == pytest.approx(float((both[0] + 3 * both[1]) / 2), rel=1e-6)
    step.weights = torch.tensor([1.0, 1.0])
    assert float(step.loss().detach()) == pytest.approx(float(both.mean()), rel=1e-6)


def test_batches_of_real_lengths_hold_next_to_no_padding() -> None:
    import numpy as np

    from robusweep.training.batches import grouped_batches, token_efficiency

    rng = np.random.default_rng(0)
    for mean in (2.9, 3.9, 5.0):  # film reviews, news, long reviews
        lengths = np.clip(rng.lognormal(mean, 0.45, 4000).round(), 3, 256).astype(int).tolist()
        batches = grouped_batches(lengths, batch_size=16, rng=np.random.default_rng(1))
        assert token_efficiency(lengths, batches) >= 0.97
