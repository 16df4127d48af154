from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from robusweep.training import Pgd, Radius

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]

VALUE = 0.3
KINDS = {
    "l2 of the sentence": Radius(value=VALUE),
    "l2 of each token": Radius(value=VALUE, scope="token"),
    "linf of each coordinate": Radius(value=VALUE, norm="linf", scope="coordinate"),
    "sentence, times the root of its tokens": Radius(value=VALUE, length_scale="sqrt_tokens"),
    "after LayerNorm": Radius(value=VALUE, space="post_ln"),
    "without the special tokens": Radius(value=VALUE, special_tokens=False),
    "root of the inner tokens": Radius(value=VALUE, special_tokens=False, length_scale="sqrt_tokens"),
}
each_kind = pytest.mark.parametrize("radius", KINDS.values(), ids=KINDS.keys())
LENGTHS = (9, 4, 7, 2)


def iterates(step: Step, radius: Radius, *, n_steps: int = 4, init_size: float = 0.0, **fields: Any) -> list[Tensor]:
    """The perturbation at k = 0, 1, ..., n_steps."""
    from robusweep.training.embedding import ascend

    seen: list[Tensor] = []
    size = fields.get("step_size")
    ascend(
        step, radius, n_steps=n_steps, step_size=size, init_size=init_size, on_delta=lambda d: seen.append(d.clone())
    )
    return seen


def lengths_over_radius(delta: Tensor, radius: Radius, step: Step) -> Tensor:
    """How much of its ball each perturbation fills, written apart from the code under test."""
    import torch

    places = {"sentence": (1, 2), "token": (2,), "coordinate": ()}[radius.scope]
    length = (delta**2).sum(places, keepdim=True).sqrt() if places else delta.abs()
    n_tokens = step.mask.sum(1) - (0 if radius.special_tokens else 2)
    scale = n_tokens.clamp_min(1).sqrt() if radius.length_scale == "sqrt_tokens" else torch.ones(len(delta))
    assert radius.value is not None
    return length / (radius.value * scale[:, None, None])


@each_kind
@pytest.mark.parametrize("init_size", [0.0, 40.0], ids=["zero start", "start outside the ball"])
def test_every_iterate_stays_in_its_ball_and_off_padding(
    radius: Radius, init_size: float, load_tiny: Load, make_step: MakeStep
) -> None:
    step = make_step(load_tiny().network, LENGTHS)
    seen = iterates(step, radius, init_size=init_size)
    assert len(seen) == 5
    for delta in seen:
        assert delta.isfinite().all()
        assert lengths_over_radius(delta, radius, step).max() <= 1 + 1e-5
        assert (delta[~step.mask] == 0).all()
    assert lengths_over_radius(seen[-1], radius, step).max() > 0.9  # the ball is used, not only respected
    assert bool(seen[0].any()) == bool(init_size)


@each_kind
def test_first_and_last_token_stay_clean_when_special_tokens_are_excluded(
    radius: Radius, load_tiny: Load, make_step: MakeStep
) -> None:
    step = make_step(load_tiny().network, LENGTHS)
    inner = radius.model_copy(update={"special_tokens": False})
    for delta in iterates(step, inner, init_size=1.0):
        for row, length in zip(delta, LENGTHS, strict=True):
            assert not row[0].any()
            assert not row[length - 1 :].any()
            assert row[1 : length - 1].any() == (length > 2)


@each_kind
def test_a_text_of_one_token_gives_a_finite_perturbation(radius: Radius, load_tiny: Load, make_step: MakeStep) -> None:
    for delta in iterates(make_step(load_tiny().network, [1]), radius, init_size=1.0):
        assert delta.isfinite().all()


@each_kind
def test_zero_gradient_and_zero_delta_stay_zero(radius: Radius, load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = load_tiny().network
    torch.nn.init.zeros_(network.classifier.weight)  # the logits no longer depend on the text
    for delta in iterates(make_step(network), radius):
        assert (delta == 0).all()


@each_kind
def test_scaling_the_loss_does_not_change_the_trajectory(
    radius: Radius, load_tiny: Load, make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from robusweep.training.step import Step

    network = load_tiny().network
    once = iterates(make_step(network, LENGTHS), radius, init_size=0.2)
    plain = Step.loss
    monkeypatch.setattr(Step, "loss", lambda step, delta=None, *, space="word": 1024 * plain(step, delta, space=space))
    for a, b in zip(once, iterates(make_step(network, LENGTHS), radius, init_size=0.2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@each_kind
def test_a_gradient_that_is_not_finite_moves_nothing_there(radius: Radius, bad: float) -> None:
    import torch

    from robusweep.training.embedding import direction

    gradient = torch.ones(2, 3, 4)
    gradient[0, 0, 0] = bad
    moved = direction(gradient, radius)
    assert moved.isfinite().all()
    assert moved[0, 0, 0] == 0


@each_kind
def test_projection_is_the_nearest_point_and_keeps_what_is_inside(radius: Radius) -> None:
    import torch

    from robusweep.training.embedding import project

    delta = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)) * 0.3
    limit = torch.full((3, 1, 1), VALUE)
    once = project(delta, radius, limit)
    torch.testing.assert_close(project(once, radius, limit), once)
    tiny = delta * 1e-3
    assert torch.equal(project(tiny, radius, limit), tiny)
    assert torch.equal(project(torch.zeros_like(delta), radius, 0 * limit), torch.zeros_like(delta))
    if radius.norm == "linf":
        torch.testing.assert_close(once, delta.clamp(-VALUE, VALUE))
    else:  # on the ray through delta
        torch.testing.assert_close(torch.cosine_similarity(once, delta, dim=2), torch.ones(3, 5))


@pytest.mark.parametrize("n_tokens", [5, 40, 128])
def test_the_random_start_has_root_mean_square_norm_of_its_size_over_root_three(n_tokens: int) -> None:
    import torch

    from robusweep.training.embedding import start

    valid = torch.ones(64, n_tokens, dtype=torch.bool)
    valid[:32, n_tokens // 2 :] = False  # padding takes no share
    delta = start(valid, 64, size=0.7, draws=torch.Generator().manual_seed(0))
    for half in (delta[:32], delta[32:]):
        assert 0.55 <= float(half.flatten(1).norm(dim=1).mean()) / 0.7 <= 0.60


def test_the_random_start_depends_on_its_own_generator_alone() -> None:
    import torch

    from robusweep.training.embedding import start

    valid = torch.ones(2, 3, dtype=torch.bool)
    one, same, other = (start(valid, 4, size=1.0, draws=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)


def test_one_free_step_from_zero_has_the_length_of_the_step(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    unbounded = Radius(value=None)
    step = make_step(load_tiny().network, LENGTHS)
    delta = iterates(step, unbounded, n_steps=1, step_size=0.25)[-1]
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((4,), 0.25))


def test_an_unbounded_step_is_scaled_by_length_like_a_bounded_one(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    step = make_step(load_tiny().network, LENGTHS)
    for special_tokens in (True, False):
        unbounded = Radius(value=None, length_scale="sqrt_tokens", special_tokens=special_tokens)
        wide = unbounded.model_copy(update={"value": 1000.0})
        free = iterates(step, unbounded, step_size=0.25)[-1]
        assert free.isfinite().all()
        torch.testing.assert_close(free, iterates(step, wide, step_size=0.25)[-1])


def test_without_projection_the_start_may_lie_outside_and_the_first_step_returns(
    load_tiny: Load, make_step: MakeStep
) -> None:
    faithful = Radius(value=VALUE, project_init=False)
    step = make_step(load_tiny().network, LENGTHS)
    first, second, *_ = iterates(step, faithful, init_size=40.0)
    assert lengths_over_radius(first, faithful, step).min() > 1
    assert lengths_over_radius(second, faithful, step).max() <= 1 + 1e-5


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "linf"},
        {"scope": "coordinate"},
        {"scope": "token", "length_scale": "sqrt_tokens"},
        {"value": -0.1},
        {"value": float("inf")},
    ],
)
def test_a_radius_without_a_meaning_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Radius(**({"value": VALUE} | fields))


def test_an_unbounded_radius_needs_a_step_size() -> None:
    with pytest.raises(ValidationError, match="step_size"):
        Pgd.model_validate({"radius": None})
    assert Pgd.model_validate({"radius": None, "step_size": 0.1}).radius.value is None


def test_the_short_form_of_a_radius_sets_its_value() -> None:
    assert Pgd.model_validate({"radius": 0.3}).radius == Radius(value=0.3)
    with pytest.raises(ValidationError):
        Pgd.model_validate({"radius": True})


def test_a_tensor_of_the_wrong_shape_is_refused_by_its_type() -> None:
    import torch

    from robusweep.training.embedding import direction

    with pytest.raises(Exception, match="direction"):
        direction(torch.ones(3, 4), Radius(value=VALUE))
