"""Masks from coefficients, and the gap where they settle: synthetic records, no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from robusweep.errors import MissingError, StageError
from robusweep.tickets import AnyTicket, CoefficientRecord, EarlyBird, Magnitude, Masks, RandomTicket, SearchCosts
from robusweep.tickets.coefficients import Gaps
from robusweep.tickets.drawing import Size, apart, largest, rounded_up, settled_gap
from robusweep.tickets.masks import distance

N_LAYERS, N_HEADS, WIDTH = 4, 6, 50


def values(seed: int = 0, *shape: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(1, 0.01, shape or (N_LAYERS, WIDTH))
    return drawn.astype(np.float32)


def record(
    n_steps: int = 100, *, steps_per_epoch: int = 100, settles: int = 0, every: int = 1, stopped: bool = False
) -> CoefficientRecord:
    """Coefficients that are noise up to and with step ``settles`` and constant after it."""
    rng = np.random.default_rng(1)
    arrays = []
    for width in (N_HEADS, WIDTH):
        noise = rng.normal(1, 0.01, (n_steps, N_LAYERS, width))
        noise[settles:] = rng.normal(1, 0.01, (N_LAYERS, width))
        arrays.append(noise.astype(np.float32))
    gaps = Gaps(steps_per_epoch, 20)
    costs = SearchCosts(n_steps, 1.0, n_steps, n_steps, n_steps, stopped, 0.5, ())
    ends = {gaps.end(g) for g in range(1, n_steps + 1)}
    kept = [i for i in range(n_steps) if (i + 1) % every == 0 or i + 1 in ends]
    return CoefficientRecord(arrays[0][kept], arrays[1][kept], np.array(kept) + 1, gaps, costs)


# ------------------------------------------------------------------------------------------------ one mask
@pytest.mark.parametrize("density", [0.1, 0.35, 0.6, 5 / 6])
def test_kept_is_what_lies_above_the_quantile_of_signed_values(density: float) -> None:
    c = values() - 1  # half of them are negative
    assert np.array_equal(largest(c, density, scope="global", minimum=1), c > np.quantile(c, 1 - density))
    of_layer = np.quantile(c, 1 - density, axis=1, keepdims=True)
    assert np.array_equal(largest(c, density, scope="layer", minimum=1), c > of_layer)


def test_a_density_of_one_keeps_everything() -> None:
    assert largest(values(), 1.0, scope="global", minimum=1).all()
    assert largest(values(), 1.0, scope="layer", minimum=1).all()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_layer_keeps_its_minimum_of_largest_values_and_the_total_stays(scope: Any) -> None:
    c = values()
    c[2] -= 1  # no value of this layer is above any quantile of all values
    free, kept = (largest(c, 0.5, scope=scope, minimum=n) for n in (1, 7))
    assert kept.sum() == free.sum()
    assert kept.sum(axis=1).min() >= 7
    assert free[2].sum() == (1 if scope == "global" else 25)
    if scope == "global":
        assert set(np.flatnonzero(kept[2])) == set(np.argsort(c[2])[-7:])


def test_a_minimum_may_ask_for_more_than_the_density_and_than_there_is() -> None:
    assert largest(values(), 0.01, scope="global", minimum=3).sum(axis=1).tolist() == [3, 3, 3, 3]
    assert largest(values(), 0.01, scope="layer", minimum=3).sum(axis=1).tolist() == [3, 3, 3, 3]
    assert largest(values(), 0.01, scope="global", minimum=99).all()


def test_equal_values_are_kept_until_the_size_is_reached_and_always_alike() -> None:
    c = np.ones((N_LAYERS, WIDTH), dtype=np.float32)
    kept = largest(c, 0.6, scope="global", minimum=1)
    assert kept.sum() == largest(values(), 0.6, scope="global", minimum=1).sum()
    assert kept.sum(axis=1).min() > 15  # no layer comes first
    assert np.array_equal(kept, largest(c * 3, 0.6, scope="global", minimum=1))


def test_neurons_are_rounded_up_by_the_largest_of_those_dropped() -> None:
    c = values()
    size = Size(head_density=0.5, neuron_density=0.6, round_to=8)
    free = Size(head_density=0.5, neuron_density=0.6).masks(values(1, N_LAYERS, N_HEADS), c)
    kept = size.masks(values(1, N_LAYERS, N_HEADS), c).neurons
    assert (free.neurons <= kept).all()
    assert set(kept.sum(axis=1) % 8) <= {0, WIDTH % 8}
    for row, was, one in zip(kept, free.neurons, c, strict=True):
        assert one[row].min() > one[~row].max(initial=-np.inf)
        assert 0 <= row.sum() - was.sum() < 8
    assert rounded_up(free.neurons, c, 64).all()  # no more than there are
    assert np.array_equal(rounded_up(free.neurons, c, 1), free.neurons)


# ------------------------------------------------------------------------------------------------ distances
def test_the_distance_of_masks_is_the_share_of_entries_that_differ() -> None:
    a, b = values(0) > 1, values(1) > 1
    assert distance(a, a) == 0.0
    assert distance(a, ~a) == 1.0
    assert distance(a, b) == distance(b, a) == np.mean(a ^ b) > 0
    with pytest.raises(ValueError, match="no distance"):
        distance(a, b[:2])


def masks_of(*seeds: int) -> list[Masks]:
    size = Size(head_density=0.5, neuron_density=0.5)
    return [size.masks(values(seed, N_LAYERS, N_HEADS), values(seed)) for seed in seeds]


def test_settled_is_the_first_gap_that_is_near_all_of_its_window() -> None:
    assert settled_gap(masks_of(1, 1, 1, 1), threshold=0.1, window=3) == 1
    assert settled_gap(masks_of(1, 1, 1), threshold=0.1, window=3) is None  # not seen for long enough
    assert settled_gap(masks_of(2, 3, 1, 1, 1, 4), threshold=0.1, window=2) == 3
    assert settled_gap(masks_of(1, 2, 1, 2, 1, 2), threshold=0.1, window=2) is None
    assert settled_gap(masks_of(1, 2, 1, 2), threshold=1.0, window=2) == 1  # any masks are nearer than 1


def test_heads_and_neurons_must_both_settle() -> None:
    steady, other = masks_of(1, 2)
    heads_move = [steady, Masks(other.heads, steady.neurons), steady]
    neurons_move = [steady, Masks(steady.heads, other.neurons), steady]
    assert settled_gap(heads_move, threshold=0.1, window=1) is None
    assert settled_gap(neurons_move, threshold=0.1, window=1) is None


def test_asked_online_it_answers_as_soon_as_it_can_what_it_answers_in_the_end() -> None:
    masks = masks_of(5, 6, 7, *[1] * 9)
    answers = [settled_gap(masks[:n], threshold=0.1, window=5) for n in range(1, len(masks) + 1)]
    assert answers == [None] * 8 + [4] * 4


# ------------------------------------------------------------------------------------------------ gaps
def test_gaps_cut_an_epoch_evenly_and_are_a_step_at_least() -> None:
    imdb = Gaps(3125, 20)
    assert [imdb.end(g) for g in (1, 4, 20, 40)] == [157, 625, 3125, 6250]
    assert (imdb.within(1.0), imdb.within(0.2), imdb.within(0.01)) == (20, 4, 1)
    small = Gaps(7, 20)
    assert [small.end(g) for g in (1, 2, 7, 8)] == [1, 2, 7, 8]
    assert small.within(1.0) == 7
    for steps in (20, 21, 25, 39):
        ends = [Gaps(steps, 20).end(g) for g in range(1, 41)]
        assert ends == sorted(set(ends))
        assert ends[19] == steps


# ------------------------------------------------------------------------------------------------ a ticket
def test_a_constant_record_draws_at_the_first_gap_and_a_restless_one_declares_its_fallback() -> None:
    drawn = EarlyBird().draw(record(settles=0), seed=0)
    assert (drawn.gap, drawn.step, drawn.stop_step, drawn.fallback) == (1, 5, 30, None)
    assert set(drawn.distances) == {(0.0, 0.0)}
    restless = EarlyBird().draw(record(settles=100), seed=0)
    assert (restless.gap, restless.step, restless.stop_step, restless.fallback) == (20, 100, 100, "last")
    assert len(restless.distances) == 19
    assert min(map(max, restless.distances)) > 0.1


def test_the_masks_are_those_of_the_step_that_is_named() -> None:
    found = record(settles=33)
    for ticket in (EarlyBird(), EarlyBird(take="last"), EarlyBird(threshold=None, draw_epoch=0.35)):
        drawn = ticket.draw(found, seed=0)
        assert drawn.step is not None
        own = ticket.size.masks(found.heads[drawn.step - 1], found.neurons[drawn.step - 1])
        assert apart(own, drawn.masks) == (0.0, 0.0)
    steps = [(one.gap, one.step, one.stop_step) for one in (
        EarlyBird().draw(found, seed=0),
        EarlyBird(take="last").draw(found, seed=0),
        EarlyBird(threshold=None, draw_epoch=0.35).draw(found, seed=0),
    )]  # fmt: skip
    assert steps == [(7, 35, 60), (12, 60, 60), (7, 35, 35)]


def test_a_record_is_never_changed_and_any_density_is_drawn_from_it() -> None:
    found = record(settles=20)
    before = found.heads.copy(), found.neurons.copy()
    sizes = []
    for density in (0.05, 0.3, 0.6, 1.0):
        for scope in ("global", "layer"):
            ticket = EarlyBird(head_density=density, neuron_density=density, scope=scope, min_neurons=1)  # type: ignore[arg-type]
            drawn = ticket.draw(found, seed=0)
            assert drawn.masks.heads.any(axis=1).all()
            sizes.append(drawn.masks.neurons.sum())
    assert len(set(sizes)) > 4
    assert np.array_equal(found.heads, before[0])
    assert np.array_equal(found.neurons, before[1])
    with pytest.raises(ValueError, match="read-only"):
        found.heads[0, 0, 0] = 2


def test_a_record_of_fewer_steps_draws_the_same_ticket() -> None:
    whole, thin = (EarlyBird().draw(record(1000, steps_per_epoch=1000, settles=333, every=n), seed=0) for n in (1, 49))
    assert apart(whole.masks, thin.masks) == (0.0, 0.0)
    assert (whole.gap, whole.step, whole.distances) == (thin.gap, thin.step, thin.distances)


def test_a_record_that_ended_early_is_refused_unless_the_ticket_settles_in_it() -> None:
    short = record(50, settles=20, stopped=True)
    assert short.n_gaps == 10
    assert EarlyBird().suffices(short)
    assert EarlyBird().draw(short, seed=0).gap == 5  # the record is constant after step 20: gap 5 is the first
    strict = EarlyBird(window=9)
    assert not strict.suffices(short)
    with pytest.raises(StageError, match="not settled after the 10 gaps"):
        strict.draw(short, seed=0)
    assert EarlyBird(window=9, max_epochs=0.5).draw(short, seed=0).fallback == "last"
    assert EarlyBird(window=9).suffices(record(settles=20))


def test_more_of_a_search_than_a_ticket_asks_for_changes_nothing() -> None:
    shorter = EarlyBird(max_epochs=0.3)
    assert shorter.draw(record(100, settles=60), seed=0).step == 30
    assert shorter.draw(record(30, settles=30), seed=0).step == 30


def test_a_record_is_saved_and_read_without_pickle(tmp_path: Path) -> None:
    found = record(every=7)
    found.save(tmp_path / "record.npz")
    again = CoefficientRecord.load(tmp_path / "record.npz")
    assert np.array_equal(again.heads, found.heads)
    assert np.array_equal(again.neurons, found.neurons)
    assert (again.steps.tolist(), again.gaps, again.costs) == (found.steps.tolist(), found.gaps, found.costs)
    np.savez(tmp_path / "other.npz", heads=found.heads, about=np.array(object(), dtype=object))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "record.npz").read_bytes()[:900])
    for name in ("other.npz", "damaged.npz", "none.npz"):
        with pytest.raises(MissingError, match="no coefficient record"):
            CoefficientRecord.load(tmp_path / name)


# ------------------------------------------------------------------------------------------------ the blocks
def test_tickets_that_differ_in_drawing_alone_share_a_search() -> None:
    base = EarlyBird().search_digest
    assert base is not None
    same: list[dict[str, Any]] = [
        {"head_density": 0.5}, {"neuron_density": 0.5}, {"scope": "layer"}, {"round_to": 8}, {"min_neurons": 2},
        {"threshold": 0.02}, {"threshold": None}, {"window": 2}, {"take": "last"}, {"draw_epoch": 0.5},
    ]  # fmt: skip
    other: list[dict[str, Any]] = [
        {"adversary": "pgd"}, {"n_steps": 3}, {"step_size": 0.02}, {"init_magnitude": 0.0}, {"max_norm": 0.4},
        {"l1_heads": 0.0}, {"l1_neurons": 0.0}, {"learning_rate": 1e-4}, {"coefficient_rate": 1e-3},
        {"weight_decay": 0.0}, {"warmup": 0.0}, {"max_grad_norm": None}, {"batch_size": 4}, {"batches": "shuffled"},
        {"n_epochs": 2}, {"max_epochs": 0.5}, {"gaps_per_epoch": 10},
    ]  # fmt: skip
    assert {name for fields in same + other for name in fields} | {"kind"} == set(EarlyBird.model_fields)
    assert {EarlyBird(**fields).search_digest for fields in same} == {base}
    assert len({EarlyBird(**fields).search_digest for fields in other} | {base}) == len(other) + 1
    assert RandomTicket().search_digest is None
    assert not RandomTicket().needs_search
    assert EarlyBird().needs_search


@pytest.mark.parametrize("kind", [EarlyBird, RandomTicket, Magnitude])
def test_the_kinds_are_one_union_and_check_their_keys(kind: Any) -> None:
    union = TypeAdapter[Any](AnyTicket)
    name = kind.model_fields["kind"].default
    assert union.validate_python({"kind": name, "head_density": 0.5}) == kind(head_density=0.5)
    for wrong in ({"head_density": 0.0}, {"neuron_density": 1.1}, {"round_to": 0}, {"ratio": 0.4}):
        with pytest.raises(ValidationError):
            union.validate_python({"kind": name} | wrong)


def test_a_search_that_can_not_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="more than the 1 n_epochs"):
        EarlyBird(max_epochs=1.5)
    with pytest.raises(ValidationError, match="comes after max_epochs"):
        EarlyBird(threshold=None, draw_epoch=0.6, max_epochs=0.5)
    assert EarlyBird(max_epochs=1.5, n_epochs=2).max_epochs == 1.5


def test_sources_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(StageError, match="from a coefficient record"):
        EarlyBird().draw(None, seed=0)  # type: ignore[arg-type]
    for ticket in (RandomTicket(), Magnitude()):
        with pytest.raises(StageError, match="from a network"):
            ticket.draw(record(), seed=0)


def test_loading_the_blocks_loads_no_torch() -> None:
    code = "import sys, robusweep.tickets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
