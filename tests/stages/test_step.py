from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robusweep.adapters import Lora
from robusweep.training import Radius

if TYPE_CHECKING:
    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
each_space = pytest.mark.parametrize("space", ["word", "post_ln", "layer:1", "layer:2"])


def noise_of(step: Step, space: str = "word") -> Any:
    import torch

    rng = torch.Generator().manual_seed(5)
    return torch.randn(*step.mask.shape, step.hidden_size(space), generator=rng) * 0.3 * step.mask[..., None]


def test_all_forward_passes_of_a_step_share_their_dropout_masks(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny(dropout=0.1).network.train()
    step = make_step(network)
    first = step.logits()
    assert step.logits().equal(first)
    assert not make_step(network).logits().equal(first)  # the next step draws other masks


def test_drawing_a_perturbation_leaves_later_dropout_as_it_was(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    from robusweep.training.embedding import ascend

    network = load_tiny(dropout=0.1).network.train()

    def next_logits(init_size: float | None) -> Any:
        torch.manual_seed(0)
        step = make_step(network)
        if init_size is None:
            step.logits()
        else:
            ascend(step, Radius(value=0.3), n_steps=2, step_size=None, init_size=init_size)
        return make_step(network, seed=1).logits()

    with torch.random.fork_rng(devices=[]):
        plain = next_logits(None)
        assert next_logits(0.0).equal(plain)
        assert next_logits(0.5).equal(plain)


@each_space
def test_a_perturbation_of_zero_gives_the_clean_logits_bit_for_bit(
    space: str, family: str, load_tiny: Load, make_step: MakeStep
) -> None:
    network = load_tiny(family, dropout=0.1).network
    for mode in (True, False):
        step = make_step(network.train(mode))
        assert step.logits(0 * noise_of(step, space), space=space).equal(step.logits())
        assert not step.logits(noise_of(step, space), space=space).equal(step.logits())


def test_a_word_perturbation_equals_perturbed_input_embeddings(load_tiny: Load, make_step: MakeStep) -> None:
    network = load_tiny().network
    step = make_step(network)
    delta = noise_of(step)
    embedded = network.get_input_embeddings()(step.ids) + delta
    expected = network(inputs_embeds=embedded, attention_mask=step.mask.long()).logits
    assert step.logits(delta).equal(expected)


@each_space
def test_a_padded_text_answers_as_it_does_alone(space: str, family: str, load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    from robusweep.training.step import Step

    step = make_step(load_tiny(family).network, [9, 4])
    delta = noise_of(step, space)
    alone = Step(step.network, step.ids[1:, :4], step.mask[1:, :4], step.labels[1:], draws=step.draws)
    together = step.logits(delta, space=space)[1:]
    torch.testing.assert_close(together, alone.logits(delta[1:, :4], space=space), rtol=1e-5, atol=1e-5)


@each_space
def test_no_perturbation_outlives_its_forward_pass(
    space: str, load_tiny: Load, make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_tiny().network
    step = make_step(network)
    clean = step.logits()
    step.logits(noise_of(step, space), space=space)
    assert step.logits().equal(clean)

    def fails(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(network.bert.encoder, "forward", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            step.logits(noise_of(step, space), space=space)
    assert step.logits().equal(clean)


@each_space
def test_perturbations_reach_the_network_inside_an_adapter(
    space: str, family: str, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    plain = make_step(load_tiny(family).network)
    expected = plain.logits(noise_of(plain, space), space=space)
    adapted = make_step(Lora(rank=2).attach(load_tiny(family).network, head=[], seed=0))
    assert adapted.hidden_size() == (16 if family == "electra" else 32)
    assert adapted.hidden_size("layer:2") == 32
    torch.testing.assert_close(adapted.logits(noise_of(adapted, space), space=space), expected, rtol=0, atol=1e-6)


def test_inner_tokens_are_all_but_the_first_and_the_last(load_tiny: Load, make_step: MakeStep) -> None:
    step = make_step(load_tiny().network, [5, 3, 2, 1])
    expected = [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert step.inner.int().tolist() == expected


def test_logits_are_float32_in_bfloat16_arithmetic(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    network = load_tiny().network
    wide, narrow = make_step(network).logits(), make_step(network, bf16=True).logits()
    assert narrow.dtype == torch.float32
    assert not narrow.equal(wide)
    torch.testing.assert_close(narrow, wide, rtol=0.1, atol=0.1)
