"""A training that halts after epochs and goes on from there; and the adapters that a mix does not depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_mixers import drawn, put
from test_runs import MoreTexts, train

from robusweep.mixing import AdpMixup, Fixed, Logits, Mixer, OfLogits, PerText, Ties, Uniform
from robusweep.training import Pgd, Radius, Standard, TrainingMethod
from robusweep.training.r3f import R3f
from robusweep.training.tavat import Tavat
from robusweep.training.updates.dps import Dps
from robusweep.training.updates.last import Last

Load = Callable[..., Any]
Texts = tuple[list[list[int]], list[int]]
FIELDS: dict[str, Any] = {"n_epochs": 3, "batch_size": 8, "learning_rate": 1e-2}
METHODS: dict[str, TrainingMethod] = {
    "standard": Standard(**FIELDS),
    "accumulated": Standard(**FIELDS | {"accumulate": 2}),
    "patient": Standard(**FIELDS | {"n_epochs": 4, "patience": 4}),
    "more texts": MoreTexts(**FIELDS),
    "pgd": Pgd(radius=Radius(value=0.1), n_steps=2, **FIELDS),
    "r3f": R3f(**FIELDS),
    "tavat": Tavat(radius=Radius(value=0.1), **FIELDS),
    "dps": Standard(update=Dps(), **FIELDS),
    "last": Pgd(radius=Radius(value=0.1), n_steps=1, update=Last(), **FIELDS),
}
SPENT = ("seconds", "peak_memory_bytes")


def same(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(one[name].equal(other[name]) for name in one)


def against(texts: Texts) -> Texts:
    """With the other labels: what learns gets worse on these, and its best epoch is not its last."""
    return texts[0], [1 - label for label in texts[1]]


def halted(model: Any, method: TrainingMethod, texts: Texts, folder: Path, *halts: int | None) -> list[Any]:
    """(tensors, how it went, steps made for it) after each halt, every one begun with the file of the one before."""
    from robusweep.training.checkpoint import Checkpoint

    found, begun = [], None
    for i, until in enumerate(halts):
        checkpoint = Checkpoint(folder / f"{i}.safetensors", "mine")
        checkpoint.begun = begun
        steps: list[float] = []
        given: dict[str, Any] = {"checkpoint": checkpoint, "validation": against(texts), "on_step": steps.append}
        found.append((*train(model(), method, texts, until=until, **given), len(steps)))
        begun = checkpoint.path
    return found


@pytest.mark.parametrize("kind", METHODS)
def test_a_training_that_has_halted_ends_with_the_very_weights(
    kind: str, load_tiny: Load, separable: Texts, tmp_path: Path
) -> None:
    method = METHODS[kind]
    whole, fitted = train(load_tiny(dropout=0.1), method, separable, validation=against(separable))
    first, second, last = halted(lambda: load_tiny(dropout=0.1), method, separable, tmp_path, 1, 2, None)
    assert same(last[0], whole)
    assert {k: v for k, v in vars(last[1]).items() if k not in SPENT} == {
        k: v for k, v in vars(fitted).items() if k not in SPENT
    }
    assert same(first[0], whole) == (kind == "patient"), "whose best epoch is the first"
    assert 0 < first[1].n_steps < second[1].n_steps <= fitted.n_steps
    assert first[2] + second[2] + last[2] == fitted.n_steps, "none is made twice"
    assert first[1].seconds < second[1].seconds < last[1].seconds


def test_a_halt_comes_after_its_epoch_and_says_the_share_of_the_whole(
    load_tiny: Load, separable: Texts, tmp_path: Path
) -> None:
    from robusweep.training.checkpoint import Checkpoint

    shares: list[float] = []
    checkpoint = Checkpoint(tmp_path / "a.safetensors", "mine")
    _, fitted = train(load_tiny(), METHODS["standard"], separable, until=1, checkpoint=checkpoint,
                      on_step=shares.append)  # fmt: skip
    assert fitted.n_steps == len(shares) == 5
    assert shares[-1] == pytest.approx(1 / 3)
    saved = checkpoint.read()
    assert saved is not None
    assert (saved[1]["epoch"], saved[1]["n_in_epoch"]) == (1, 0)


def test_of_a_cut_run_and_what_it_was_begun_with_the_further_one_is_taken(tmp_path: Path) -> None:
    import torch

    from robusweep.training.checkpoint import Checkpoint

    own, other = (Checkpoint(tmp_path / f"{name}.safetensors", "mine") for name in ("own", "other"))
    own.begun = other.path
    assert own.read() is None
    for mine, others, taken in ((None, 5, 5), (3, 5, 5), (7, 5, 7)):
        other.write({"x": torch.ones(1)}, {"n_steps": others})
        if mine:
            own.write({"x": torch.ones(1)}, {"n_steps": mine})
        found = own.read()
        assert found is not None
        assert found[1]["n_steps"] == taken
    Checkpoint(other.path, "another run's").write({"x": torch.ones(1)}, {"n_steps": 99})
    found = own.read()
    assert found is not None
    assert found[1]["n_steps"] == 7


# ------------------------------------------------------------------------------------------------- mixers
def made_of(mixer: Mixer, *places: int) -> Any:
    """What of the members at these places the system holds."""
    system = mixer.mix(put(drawn(4), *places))
    if isinstance(system, Fixed):
        return system.parameters
    assert isinstance(system, PerText | OfLogits)
    return {f"{i} {name}": value for i, part in enumerate(system.adapters.folded) for name, value in part.items()}


@pytest.mark.parametrize(
    ("mixer", "takes"),
    [
        (AdpMixup(weight=0.0), set()),
        (AdpMixup(weight=0.0, space="factors"), set()),
        (AdpMixup(weight=0.3), {0, 1}),
        (AdpMixup(weight=1.0), {0, 1}),
        (AdpMixup(weight=1.0, leave_out=0), {1}),
        (AdpMixup(weight=0.0, leave_out=0), set()),
        (AdpMixup(weight=0.0, weighting="entropy_ratio"), {0, 1}),
        (AdpMixup(weighting="entropy_ratio", leave_out=1), {0}),
        (Uniform(leave_out=0), {1}),
        (Logits(weight=0.0), {0, 1}),
        (Logits(leave_out=1), {0}),
        (Ties(), {0, 1}),
    ],
)  # fmt: skip
def test_a_mix_is_the_same_with_others_in_the_place_of_adapters_that_it_does_not_take(
    mixer: Mixer, takes: set[int]
) -> None:
    assert mixer.takes(2) == takes
    for i in (0, 1):
        places = [0, 1, 2]
        places[i + 1] = 3
        assert same(made_of(mixer, 0, 1, 2), made_of(mixer, *places)) == (i not in takes)
