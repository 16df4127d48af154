from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from lending import Lending
from pydantic import ValidationError

from robusweep.adapters import Full, Lora
from robusweep.training.mixada import MixAda

if TYPE_CHECKING:
    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
places = pytest.mark.parametrize("at", ["features", "layer:1", "layer:2"])


@places
def test_a_text_mixed_with_itself_or_by_nothing_is_the_text(
    at: str, family: str, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    from robusweep.training.mixup import mixed_logits, mixed_loss

    step = make_step(load_tiny(family, dropout=0.0).network, [9, 4, 7])
    plain, own = step.logits(), torch.arange(3)
    torch.testing.assert_close(mixed_logits(step, 0.7, own, at=at), plain, rtol=1e-4, atol=1e-5)
    alone = mixed_logits(step, 1.0, own.flip(0), at=at)
    torch.testing.assert_close(alone, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed_loss(step, plain, 0.7, own), step.cross_entropy(plain))
    assert not torch.allclose(mixed_logits(step, 0.6, own.flip(0), at=at), plain, atol=1e-4)


def test_features_mix_what_the_classifier_reads(family: str, load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    from robusweep.training.mixup import mixed_logits

    network = load_tiny(family, dropout=0.0).network
    step = make_step(network, [6, 6])
    read: list[torch.Tensor] = []
    handle = network.classifier.register_forward_pre_hook(lambda _m, args: read.append(args[0]))
    step.logits()
    handle.remove()
    mixture = 0.6 * read[0] + 0.4 * read[0].flip(0)
    with torch.no_grad():
        expected = network.classifier(mixture)
    torch.testing.assert_close(mixed_logits(step, 0.6, torch.tensor([1, 0]), at="features"), expected)
    assert not network.classifier._forward_pre_hooks


def test_what_a_partner_has_at_padding_counts_as_zero(load_tiny: Load, make_step: MakeStep) -> None:
    """The states behind a layer: l times the text's own, plus those of the partner's real tokens."""
    import torch

    from robusweep.training.mixup import mixed_logits
    from robusweep.training.places import layers_of
    from robusweep.training.step import Step

    network = load_tiny(dropout=0.0).network
    step = make_step(network, [8, 3])
    states: list[torch.Tensor] = []
    layers = layers_of(network)

    def keep(_module: Any, _args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handle = layers[0].register_forward_hook(keep)
    step.logits()
    handle.remove()
    handle = layers[1].register_forward_pre_hook(lambda _m, args: states.append(args[0]))
    swap = torch.tensor([1, 0])
    logits = mixed_logits(step, 0.75, swap, at="layer:1")
    handle.remove()
    real = step.mask[swap][..., None]
    torch.testing.assert_close(states[1], 0.75 * states[0] + 0.25 * states[0][swap] * real)
    assert states[1][0, 3:].equal(0.75 * states[0][0, 3:])
    wider = Step(network, torch.nn.functional.pad(step.ids, (0, 4), value=1),
                 torch.nn.functional.pad(step.mask, (0, 4)), step.labels, draws=step.draws)  # fmt: skip
    torch.testing.assert_close(mixed_logits(wider, 0.75, swap, at="layer:1"), logits, rtol=1e-4, atol=1e-5)


def test_shares_are_folded_and_partners_are_a_permutation(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    from robusweep.training.mixup import draw

    step = make_step(load_tiny().network, [3, 3, 3, 3])
    state = torch.get_rng_state()
    drawn = [draw(step, 0.2) for _ in range(200)]
    shares = [share for share, _ in drawn]
    assert all(0.5 <= share <= 1 for share in shares)
    assert len(set(shares)) == 200
    assert all(sorted(partner.tolist()) == [0, 1, 2, 3] for _, partner in drawn)
    assert len({tuple(partner.tolist()) for _, partner in drawn}) == 24
    even = [draw(step, 50.0)[0] for _ in range(200)]
    assert sum(even) / 200 < 0.6 < sum(shares) / 200
    assert torch.get_rng_state().equal(state)


def test_the_loss_is_that_of_both_labels_by_their_shares(load_tiny: Load, make_step: MakeStep) -> None:
    import torch
    from torch.nn import functional as F

    from robusweep.training.mixup import draw, mixed_logits

    step = make_step(load_tiny(dropout=0.0).network, [5, 5, 4, 6], seed=3)
    state = step.draws.get_state()
    loss = MixAda(alpha=4.0).backward(step)
    step.draws.set_state(state)
    share, partner = draw(step, 4.0)
    logits = mixed_logits(step, share, partner, at="features")
    both = share * F.cross_entropy(logits, step.labels) + (1 - share) * F.cross_entropy(logits, step.labels[partner])
    assert loss == pytest.approx(float(both.detach()))
    assert not torch.equal(partner, torch.arange(4))


@places
@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2)], ids=["full", "lora"])
def test_it_learns_and_leaves_no_hook(at: str, adapter: Full | Lora, load_tiny: Load, separable: Any) -> None:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    base = load_tiny(dropout=0.1)
    network = adapter.attach(base.network, head=head_names(base.network), seed=0)
    losses: list[float] = []
    fitted = fit(network, MixAda(n_epochs=8, batch_size=8, learning_rate=1e-2, mix_at=at), *separable, pad_id=1, seed=0,
                 bf16=False, on_epoch=lambda _, loss: losses.append(loss))  # fmt: skip
    assert losses[-1] < losses[0]
    assert fitted.n_forward == fitted.n_backward == fitted.n_steps == 40
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_changed_texts_are_among_those_that_are_mixed(load_tiny: Load, separable: Any) -> None:
    from robusweep.training.base import Setting

    base = load_tiny()
    texts = [f"w{i} good" for i in range(40)]
    lent = Lending(base)
    setting = Setting(base.network, separable[0], separable[1], seed=0, texts=texts, lent=lent)
    method = MixAda(source="attack", attack="pwws", share=0.25)
    extras = method.extras(setting, 0)
    assert extras is not None
    assert len(extras) == 10
    assert method.reference is not None
    assert MixAda().extras(setting, 0) is None
    assert not MixAda().needs_lexicon
    assert MixAda().more_texts == 0


@pytest.mark.parametrize("at", ["layer:0", "layer", "word", "layer:01"])
def test_a_place_that_is_none_is_refused(at: str) -> None:
    with pytest.raises(ValidationError, match="mix_at"):
        MixAda(mix_at=at)
