"""Laws that hold for every training method, over the whole union."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lending import Lending

from robusweep.adapters import Adapter, Full, Lora
from robusweep.catalogue import kinds
from robusweep.training import AnyTraining, TrainingMethod
from robusweep.training.perturbed import Perturbed

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
Texts = tuple[list[list[int]], list[int]]

METHODS = kinds(AnyTraining)
FEW: dict[str, Any] = {"n_epochs": 1, "batch_size": 16}
OWN: dict[str, dict[str, Any]] = {  # what a kind needs beside the defaults to be at work in a few steps
    "pgd": {"radius": 0.3, "n_steps": 2, "init_size": 0.1},
    "freelb": {"radius": 0.3, "init_size": 0.1},
    "freelb_pp": {"radius": 0.3},
    "smart": {"radius": {"value": 0.02, "norm": "linf", "scope": "coordinate"}, "step_size": 0.02},
    "vat": {"radius": 0.3},
    "r3f": {"radius": {"value": 0.02, "norm": "linf", "scope": "coordinate"}},
    "tavat": {"radius": 0.3},
}
LEXICAL = {"augment", "text_attack", "ascc", "mixada"}  # their laws are in files of their own
RANDOM = {"r3f", "vat", "smart", "tavat", "pgd", "freelb", "freelb_pp", "rdrop", "asa"}  # draw by the shape of a batch


def made(kind: str, **fields: Any) -> TrainingMethod:
    return METHODS[kind].model_validate(FEW | OWN.get(kind, {}) | fields)  # type: ignore[return-value]


PLAIN_KINDS = sorted(set(METHODS) - LEXICAL)
PERTURBED = sorted(kind for kind in PLAIN_KINDS if issubclass(METHODS[kind], Perturbed))
CLIMBING = sorted(set(PERTURBED) - {"r3f"})
each_kind = pytest.mark.parametrize("kind", PLAIN_KINDS)
each_perturbed = pytest.mark.parametrize("kind", PERTURBED)
each_climbing = pytest.mark.parametrize("kind", CLIMBING)


def train(model: Any, method: TrainingMethod, rows: Texts, *, adapter: Adapter | None = None, **options: Any) -> Any:
    """(trained tensors, how it went) of the model with an adapter on it."""
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    adapter = adapter or Lora(rank=2)
    network = adapter.attach(model.network, head=head_names(model.network), seed=0)
    fitted = fit(network, method, *rows, pad_id=1, **({"seed": 0, "bf16": False} | options))
    return adapter.extract(network), fitted


def companion_of(method: TrainingMethod, network: Any) -> Any:
    from robusweep.training.base import Setting

    return method.companion(Setting(network, [[2, 3]], [0], seed=0))


@contextmanager
def perturbations(step: Step) -> Iterator[list[Tensor]]:
    """Every perturbation that a pass of this step carries, in order."""
    seen: list[Tensor] = []
    plain = step._pass

    def watched(delta: Tensor | None, space: str) -> Tensor:
        if delta is not None:
            seen.append(delta.detach().clone())
        return plain(delta, space)

    step._pass = watched  # type: ignore[method-assign]
    yield seen
    del step._pass


def test_the_lists_cover_the_union() -> None:
    assert {"standard", "pgd", "freelb", "smart", "vat", "r3f", "rdrop", "tavat", "asa"} <= set(PLAIN_KINDS)
    assert len(PERTURBED) >= 7
    assert set(OWN) <= set(METHODS)


@each_perturbed
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_every_perturbation_stays_in_its_ball_and_off_padding(
    kind: str, family: str, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    network = load_tiny(family, dropout=0.1).network.train()
    for radius in [{"value": 0.3}, {"value": 0.3, "length_scale": "sqrt_tokens", "special_tokens": False}]:
        far: dict[str, Any] = {} if kind in ("r3f", "vat") else {"init_size": 5.0}
        method: Any = made(kind, radius=radius, **far)
        step = make_step(network, [9, 4, 7, 2])
        step.companion = companion_of(method, network)
        if kind == "tavat":
            step.companion.table.normal_()
        for _ in range(2):
            with perturbations(step) as seen:
                method.backward(step)
            n_tokens = step.mask.sum(1) - (0 if method.radius.special_tokens else 2)
            scale = n_tokens.clamp_min(1).sqrt() if method.radius.length_scale == "sqrt_tokens" else torch.ones(4)
            assert seen
            for delta in seen:
                filled = delta.flatten(1).norm(dim=1) / (0.3 * scale)
                assert float(filled.max()) <= 1 + 1e-5
                assert not delta[~step.mask].any()
                if not method.radius.special_tokens:
                    assert not delta[~step.inner].any()


@each_perturbed
def test_radius_zero_is_standard_training_bit_for_bit_with_dropout_on(
    kind: str, load_tiny: Load, separable: Texts
) -> None:
    plain, fitted = train(load_tiny(dropout=0.1), made("standard"), separable)
    zero, _ = train(load_tiny(dropout=0.1), made(kind, radius=0.0), separable)
    some, _ = train(load_tiny(dropout=0.1), made(kind), separable)
    assert fitted.n_steps == 3
    assert all(plain[name].equal(zero[name]) for name in plain)
    assert not all(plain[name].equal(some[name]) for name in plain)


@each_climbing
def test_the_perturbed_loss_exceeds_the_clean_one(kind: str, load_tiny: Load, make_step: MakeStep) -> None:
    """For ``vat`` and ``smart``, which don't see labels, what exceeds is the change of the prediction over noise's."""
    import torch

    from robusweep.training.divergence import kl

    network = load_tiny(dropout=0.0).network
    method: Any = made(kind, radius={"value": 1.0}, **({"init_size": 0.0} if kind in ("pgd", "freelb") else {}))
    rises = []
    for seed in range(20):
        step = make_step(network, [12, 8, 5, 3], seed=seed)
        step.companion = companion_of(method, network)
        with perturbations(step) as seen:
            method.backward(step)
        delta = seen[-1]
        with torch.no_grad():
            if kind in ("vat", "smart"):
                noise = torch.randn(delta.shape, generator=step.draws) * step.mask[..., None]
                noise *= delta.flatten(1).norm(dim=1)[:, None, None] / noise.flatten(1).norm(dim=1)[:, None, None]
                change = [float(kl(step.logits(), step.logits(d)).mean()) for d in (delta, noise)]
                rises.append(change[0] >= change[1])
            else:
                rises.append(bool(step.loss(delta) >= step.loss()))
    assert sum(rises) >= 0.95 * len(rises)


@each_perturbed
def test_a_loss_scale_changes_no_perturbation(kind: str, load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = load_tiny(dropout=0.1).network.train()
    method = made(kind)
    seen: list[list[Tensor]] = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        step = make_step(network)
        step.companion, step.part = companion_of(method, network), scale
        plain = step.gradient
        step.gradient = lambda loss, at, s=scale, g=plain: g(loss * s, at)  # type: ignore[method-assign]
        with perturbations(step) as found:
            method.backward(step)
        seen.append(found)
    assert len(seen[0]) == len(seen[1]) > 0
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@each_kind
@pytest.mark.parametrize("lengths", [[1, 1], [2, 1, 5]], ids=["one token", "mixed"])
@pytest.mark.parametrize("blind", [True, False], ids=["zero gradient", "gradient"])
def test_nothing_is_nan_without_a_gradient_or_for_a_text_of_one_token(
    kind: str, lengths: list[int], blind: bool, load_tiny: Load, make_step: MakeStep
) -> None:
    import math

    import torch

    network = load_tiny(dropout=0.0).network
    if blind:
        with torch.no_grad():
            network.classifier.weight.zero_()
    step = make_step(network, lengths)
    method = made(kind)
    step.companion = companion_of(method, network)
    with perturbations(step) as seen:
        assert math.isfinite(method.backward(step))
    assert all(bool(delta.isfinite().all()) for delta in seen)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("kind", [*sorted(set(PLAIN_KINDS) - RANDOM), "pgd", "freelb", "asa"])
def test_a_batch_in_parts_teaches_what_the_whole_does(kind: str, load_tiny: Load, separable: Texts) -> None:
    import torch

    start = {"init_size": 0.0} if kind in ("pgd", "freelb") else {}
    extra: dict[str, Any] = {"max_grad_norm": None, "learning_rate": 1e-3}
    whole, one = train(load_tiny(dropout=0.0), made(kind, **start, **extra), separable)
    parts, two = train(load_tiny(dropout=0.0), made(kind, accumulate=3, **start, **extra), separable)
    assert two.n_forward == 3 * one.n_forward
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=2e-5)


@each_kind
def test_what_a_method_draws_leaves_the_dropout_of_later_batches_alone(
    kind: str, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    network = load_tiny(dropout=0.1).network.train()

    def later(name: str) -> Tensor:
        shared = {"dropout": "shared"} if name == "asa" else {}
        method = made(name, **shared)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            step = make_step(network)
            step.companion = companion_of(method, network)
            method.backward(step)
            return torch.get_rng_state()

    if kind != "rdrop":  # the second set of masks is what it is about
        assert later(kind).equal(later("standard"))


@pytest.mark.parametrize("kind", sorted(METHODS))
@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2)], ids=["full", "lora"])
def test_every_method_trains_every_family(kind: str, adapter: Adapter, family: str, load_tiny: Load) -> None:
    import torch

    model = load_tiny(family, dropout=0.1)
    texts = [f"{'good' if i % 2 else 'bad'} {' '.join(f'w{i + j}' for j in range(i % 7))}".strip() for i in range(40)]
    labels = [i % 2 for i in range(40)]
    lent = Lending(model, {"good": ["w1", "w2"], "bad": ["w3"]} | {f"w{i}": [f"w{i + 40}"] for i in range(20)})
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    state = torch.get_rng_state()
    method = made(kind, n_epochs=2)
    tensors, fitted = train(model, method, (model.tokens(texts), labels), adapter=adapter, texts=texts, lent=lent)
    assert torch.get_rng_state().equal(state)
    assert fitted.n_steps >= 6
    assert fitted.n_backward >= 6
    assert 0 < fitted.final_loss < 20 * (10 if kind == "asa" else 1)
    folded = adapter.fold(before, tensors)
    moved = [name for name in folded if not folded[name].equal(before[name])]
    assert len(moved) > 4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


@each_kind
def test_padding_on_either_side_is_never_perturbed(kind: str, load_tiny: Load, make_step: MakeStep) -> None:
    """RoBERTa's head reads the first column, so answers differ with padding there: the loop pads on the right."""
    from robusweep.training.step import Step

    network = load_tiny("roberta", dropout=0.0).network
    right = make_step(network, [5, 5])
    method = made(kind)
    for ids, mask in [
        (right.ids, right.mask),
        (right.ids.new_tensor([[1, 1, 1, *row] for row in right.ids.tolist()]), None),
    ]:
        mask = ids != 1 if mask is None else mask
        step = Step(network, ids, mask, right.labels, draws=right.draws)
        step.companion = companion_of(method, network)
        with perturbations(step) as seen:
            method.backward(step)
        assert all(not delta[~mask].any() for delta in seen)
        assert int(step.inner.sum()) == 2 * 3


@each_kind
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    kind: str, load_tiny: Load, separable: Texts, tmp_path: Path
) -> None:
    from robusweep.training.checkpoint import Checkpoint

    class KilledError(Exception):
        pass

    def die(progress: float) -> None:
        if progress > 0.55:
            raise KilledError

    method = made(kind, n_epochs=2, patience=2)
    whole, uncut = train(load_tiny(dropout=0.1), method, separable, validation=separable)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        train(load_tiny(dropout=0.1), method, separable, validation=separable, on_step=die,
              checkpoint=Checkpoint(path, "k", seconds=0))  # fmt: skip
    assert path.is_file()
    rest, fitted = train(
        load_tiny(dropout=0.1), method, separable, validation=separable, checkpoint=Checkpoint(path, "k", seconds=0)
    )
    assert all(whole[name].equal(rest[name]) for name in whole)
    same = ("final_loss", "n_steps", "n_forward", "n_backward", "n_tokens", "validation_accuracy", "readings")
    assert [getattr(fitted, name) for name in same] == [getattr(uncut, name) for name in same]
