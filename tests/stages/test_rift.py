from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from jaxtyping import install_import_hook

from robusweep.adapters import Adapter, Lora, Oft
from robusweep.catalogue import kinds
from robusweep.training import Pgd, Radius, Standard, TrainingMethod
from robusweep.training.regularisers import AnyRegulariser, Regulariser, Rift

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.training.regularisers.projection import Projections
    from robusweep.training.step import Step

install_import_hook(["robusweep.training.regularisers.projection"], "beartype.beartype")

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
Texts = tuple[list[list[int]], list[int]]
SMALL = Rift(projection_hidden=16, projection_size=8)
ADAPTERS: list[Adapter] = [Lora(rank=2), Oft(block_size=8)]
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=["lora", "oft"])


def adapted(adapter: Adapter, load_tiny: Load, *, shake: float = 0.1, **fields: Any) -> Any:
    """A tiny network whose adapter has moved away from where it starts."""
    import torch

    from robusweep.model import head_names

    model = load_tiny(**fields)
    network = adapter.attach(model.network, head=head_names(model.network), seed=0)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += shake * torch.randn(parameter.shape, generator=rng)
    return network


def step_on(network: Module, make_step: MakeStep, labels: list[int], companion: Module) -> Step:
    """A step with RIFT at work on texts with these labels, after one pass."""
    import torch

    step = make_step(network, [5 + i for i in range(len(labels))])
    step.labels = torch.tensor(labels)
    step._regularisers = [(SMALL, companion)]
    step.logits()
    return step


def projections(n_classes: int = 2) -> Projections:
    made: Any = SMALL.companion(hidden_size=32, n_classes=n_classes, seed=0)
    return made  # type: ignore[no-any-return]


def test_info_nce_by_hand() -> None:
    """Vectors at right angles at temperature 1/2: cosines are 1 or 0, scores 2 or 0."""
    import math

    import torch

    from robusweep.training.regularisers.projection import info_nce

    students = torch.tensor([[3.0, 0.0], [0.0, 0.1]])  # lengths don't count
    right, wrong = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 5.0], [2.0, 0.0]])
    low, high = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert info_nce(students, right, 0.5).tolist() == pytest.approx([low, low])
    assert info_nce(students, wrong, 0.5).tolist() == pytest.approx([high, high])
    both_first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert info_nce(students, both_first, 0.5).tolist() == pytest.approx([low, high])  # softmax over students
    assert info_nce(both_first, students, 0.5).tolist() == pytest.approx([math.log(2)] * 2)


def test_the_contrast_is_a_mean_over_classes_of_a_weighted_mean_within_each() -> None:
    import torch

    from robusweep.training.regularisers.projection import info_nce

    maps = projections(3)
    rng = torch.Generator().manual_seed(1)
    students, teachers = torch.randn(6, 32, generator=rng), torch.randn(6, 32, generator=rng)
    labels = torch.tensor([2, 0, 2, 2, 0, 1])
    found = maps.contrast(students, teachers, labels, temperature=0.2)
    weights = torch.tensor([1.0, 1, 0, 3, 1, 1])
    weighed = maps.contrast(students, teachers, labels, temperature=0.2, weights=weights)

    def of(label: int, rows: list[int]) -> Tensor:
        one: Tensor = info_nce(maps.students[label](students[rows]), maps.teachers[label](teachers[rows]), 0.2)
        return one

    two, zero = of(2, [0, 2, 3]), of(0, [1, 4])
    torch.testing.assert_close(found, (two.mean() + zero.mean() + 0) / 3)
    torch.testing.assert_close(weighed, ((two[0] + 3 * two[2]) / 3 + zero.mean()) / 3)


def test_projections_depend_on_their_seed_alone() -> None:
    import torch

    state = torch.get_rng_state()
    one, same = projections().state_dict(), projections().state_dict()
    assert torch.get_rng_state().equal(state)
    assert all(one[name].equal(same[name]) for name in one)
    other: Any = SMALL.companion(hidden_size=32, n_classes=2, seed=1)
    assert not any(one[name].equal(value) for name, value in other.state_dict().items())
    assert [tuple(value.shape) for value in one.values()][:4] == [(16, 32), (16,), (8, 16), (8,)]
    assert len(one) == 2 * 2 * 4  # student and teacher, classes, weights and biases


@each_adapter
def test_the_teacher_does_not_depend_on_the_adapter_the_perturbation_or_dropout(
    adapter: Adapter, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    steps = [
        step_on(adapted(adapter, load_tiny, shake=shake, dropout=0.1).train(), make_step, [0, 1, 0], projections())
        for shake in (0.1, 0.5)
    ]
    first = steps[0].teacher()
    steps[1].logits(torch.full((3, 7, 32), 0.3))
    assert steps[1].teacher().equal(first)
    hidden = [step.hidden for step in steps]
    assert hidden[0] is not None
    assert hidden[1] is not None
    assert not hidden[0].allclose(hidden[1], atol=0.01)
    assert not first.requires_grad
    assert steps[0].network.training
    plain = load_tiny().network.eval()
    expected = plain.bert(input_ids=steps[0].ids, attention_mask=steps[0].mask.long())[0][:, 0]
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)


@each_adapter
def test_the_gradient_reaches_adapter_and_projections_but_not_the_base(
    adapter: Adapter, load_tiny: Load, make_step: MakeStep
) -> None:
    network, maps = adapted(adapter, load_tiny, dropout=0.0), projections()
    step = step_on(network, make_step, [0, 1, 0, 1], maps)
    SMALL.penalty(step, maps).backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved
    assert all(".lora_" in name or ".oft_R." in name for name in moved)  # the term stands before the head
    assert all(p.grad is not None and p.grad.any() for p in maps.parameters())


def test_a_text_that_is_alone_in_its_class_adds_nothing(load_tiny: Load, make_step: MakeStep) -> None:
    network, maps = adapted(Lora(rank=2), load_tiny), projections(3)
    step = step_on(network, make_step, [2, 0, 1], maps)
    alone = SMALL.penalty(step, maps)
    assert float(alone.detach()) == 0
    alone.backward()
    gradients = [p.grad for p in [*network.parameters(), *maps.parameters()] if p.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)
    step = step_on(network, make_step, [2, 2, 1], maps)
    assert float(SMALL.penalty(step, maps).detach()) > 0


def test_the_penalty_contrasts_the_last_pass_that_learns_with_the_teacher(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network, maps = adapted(Lora(rank=2), load_tiny, dropout=0.0), projections()
    step = step_on(network, make_step, [0, 1, 0, 1], maps)
    step.weights = torch.tensor([1.0, 1.0, 0.5, 2.0])
    step.logits(torch.full((4, 8, 32), 0.3))
    perturbed = step.hidden
    assert perturbed is not None
    with step.searching():
        step.logits()  # doesn't count
    expected = maps.contrast(perturbed, step.teacher(), step.labels, temperature=0.2, weights=step.weights)
    torch.testing.assert_close(SMALL.penalty(step, maps), 0.1 * expected)


def test_weight_scales_the_penalty_that_learn_adds(load_tiny: Load, make_step: MakeStep) -> None:
    network, maps = adapted(Lora(rank=2), load_tiny, dropout=0.0), projections()
    step = step_on(network, make_step, [0, 1, 0, 1], maps)
    fit = float(step.loss().detach())
    tenth = float(SMALL.penalty(step, maps).detach())
    heavy = SMALL.model_copy(update={"weight": 0.7})
    assert float(heavy.penalty(step, maps).detach()) == pytest.approx(7 * tenth)
    step._regularisers = [(heavy, maps)]
    assert step.learn(step.loss()) == pytest.approx(fit + 7 * tenth)


METHODS: list[TrainingMethod] = [
    Standard(n_epochs=2, batch_size=8, learning_rate=1e-2),
    Pgd(radius=Radius(value=0.1), n_steps=2, n_epochs=2, batch_size=8, learning_rate=1e-2),
]
REGULARISERS: dict[str, Any] = kinds(AnyRegulariser)


@pytest.mark.parametrize("kind", sorted(REGULARISERS))
@pytest.mark.parametrize("method", METHODS, ids=["standard", "pgd"])
@each_adapter
def test_every_regulariser_trains_with_every_adapter_that_can_be_switched_off(
    kind: str, method: TrainingMethod, adapter: Adapter, load_tiny: Load, separable: Texts
) -> None:
    from robusweep.training.loop import fit

    assert len(REGULARISERS) >= 2
    regulariser: Regulariser = SMALL if kind == "rift" else REGULARISERS[kind]()
    found, losses = [], []
    for chosen in ([], [regulariser], [regulariser]):
        network = adapted(adapter, load_tiny, shake=0.0, dropout=0.1)
        fitted = fit(
            network, method.model_copy(update={"regularisers": chosen}), *separable, pad_id=1, seed=0, bf16=False
        )
        found.append(adapter.extract(network))
        losses.append(fitted.final_loss)
    assert all(found[1][name].equal(found[2][name]) for name in found[1])
    assert losses[1] == losses[2] != losses[0]
    inner = [name for name in found[0] if "classifier" not in name]
    assert inner
    assert not any(found[0][name].equal(found[1][name]) for name in inner)


def test_rift_brings_the_contrast_down(load_tiny: Load, separable: Texts) -> None:
    """Its loss beyond plain training's falls well below chance, log(texts of the class in the batch)."""
    from robusweep.training.loop import fit

    strong = SMALL.model_copy(update={"weight": 1.0})
    method = Standard(n_epochs=8, batch_size=10, learning_rate=1e-2, regularisers=[strong])
    losses: list[float] = []
    fit(
        adapted(Lora(rank=2), load_tiny, shake=0.0, dropout=0.0), method, *separable, pad_id=1, seed=0, bf16=False,
        on_epoch=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]


def test_bfloat16_leaves_the_projections_in_float32(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network, maps = adapted(Lora(rank=2), load_tiny), projections()
    step = make_step(network, [5, 6, 7], bf16=True)
    step._regularisers = [(SMALL, maps)]
    step.labels = torch.tensor([0, 0, 0])
    step.learn(step.loss())
    assert step.hidden is not None
    assert step.hidden.dtype == step.teacher().dtype == torch.float32
    assert {p.grad.dtype for p in maps.students[0].parameters() if p.grad is not None} == {torch.float32}
