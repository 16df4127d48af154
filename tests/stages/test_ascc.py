from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from lending import Lending

from robusweep.adapters import Full, Lora
from robusweep.errors import StageError
from robusweep.training.ascc import Ascc

if TYPE_CHECKING:
    from torch import Tensor

    from robusweep.training.step import Step

Load, MakeStep = Callable[..., Any], Callable[..., "Step"]
TABLE = {f"w{i}": [f"w{i + k}" for k in range(1, 2 + i % 5)] for i in range(60)} | {"w9": ["nowhere", "w9"]}
TABLE |= {"good": ["w97"]}


def table_of(base: Any, *, most: int = 3, network: Any = None) -> Any:
    from robusweep.training.base import Setting

    setting = Setting(network or base.network, [[2, 3]], [0], seed=0, texts=["a"], lent=Lending(base, TABLE))
    return Ascc(n_synonyms=most).companion(setting)


def step_of(base: Any, make_step: MakeStep, *, seed: int = 0, most: int = 3) -> Any:
    step = make_step(base.network, [9, 4, 7, 6], seed=seed)
    step.companion = table_of(base, most=most)
    return step


@contextmanager
def perturbations(step: Any) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    plain = step._pass

    def watched(delta: Tensor | None, space: str) -> Tensor:
        if delta is not None:
            seen.append(delta.detach().clone())
        return plain(delta, space)  # type: ignore[no-any-return]

    step._pass = watched
    yield seen
    del step._pass


def test_the_table_holds_each_word_and_then_its_synonyms_of_one_token(load_tiny: Load) -> None:
    base = load_tiny()
    ids = base.tokenizer.get_vocab()
    table = table_of(base, most=3)
    for word, names in {"w4": ["w5", "w6", "w7"], "w1": ["w2", "w3"], "good": ["w97"], "w9": [], "[CLS]": []}.items():
        assert table.ids[ids[word]][table.valid[ids[word]]].tolist() == [ids[word], *(ids[name] for name in names)]
    assert table.ids.shape == (base.network.config.vocab_size, 4)
    assert table.state_dict() == {}  # it follows from the vocabulary: a checkpoint need not hold it


def test_words_that_are_only_begun_and_padding_do_not_move(load_tiny: Load) -> None:
    import torch

    base = load_tiny()
    vocabulary = base.tokenizer.get_vocab()
    ids = torch.tensor([[vocabulary[word] for word in row] for row in [
        ["[CLS]", "w1", "w97", "w2", "w9", "[SEP]"], ["[CLS]", "w1", "w2", "[SEP]", "w1", "w2"]]])  # fmt: skip
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    places = table_of(base).places(ids, mask)
    assert places.tolist() == [[False, False, False, True, False, False], [False, True, True, False, False, False]]


@pytest.mark.parametrize("n_steps", [0, 1, 10])
@pytest.mark.parametrize("family", ["bert", "electra"])
def test_weights_are_convex_and_each_word_stays_inside_the_hull_of_its_synonyms(
    family: str, n_steps: int, load_tiny: Load, make_step: MakeStep
) -> None:
    import torch

    from robusweep.training.hull import climb, moved

    base = load_tiny(family)
    step = step_of(base, make_step)
    table = step.companion
    places = table.places(step.ids, step.mask)
    assert places.any()
    assert (~places & step.mask).any()
    weights = climb(step, places, step.logits().detach(), n_steps=n_steps, rate=1.0, sparsity=1.0)
    valid = table.valid[step.ids]
    assert weights[~valid].eq(0).all()
    assert weights.ge(0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(step.ids.shape))
    delta = moved(step, places, weights)
    assert delta[~places].eq(0).all()  # exactly, padding included
    embedded = base.network.get_input_embeddings().weight
    new = embedded[step.ids] + delta
    assert new[~places].equal(embedded[step.ids][~places])
    hull = embedded[table.ids[step.ids]]
    by_hand = (weights[..., None] * hull).sum(dim=2)
    torch.testing.assert_close(new[places], by_hand[places], rtol=0, atol=1e-6)
    lowest = hull.masked_fill(~valid[..., None], torch.inf).amin(dim=2)
    highest = hull.masked_fill(~valid[..., None], -torch.inf).amax(dim=2)
    assert ((new >= lowest - 1e-6) & (new <= highest + 1e-6))[places].all()
    if n_steps == 0:
        torch.testing.assert_close(weights[valid], (1 / valid.sum(dim=2, keepdim=True)).expand_as(valid)[valid])


def test_the_divergence_is_never_negative_and_rises_over_the_steps(load_tiny: Load, make_step: MakeStep) -> None:
    from robusweep.training.divergence import kl
    from robusweep.training.hull import climb, moved

    base = load_tiny(dropout=0.0)
    rises = []
    for seed in range(10):
        step = step_of(base, make_step, seed=seed)
        places = step.companion.places(step.ids, step.mask)
        clean = step.logits().detach()
        apart = []
        for n_steps in (0, 2, 10):
            weights = climb(step, places, clean, n_steps=n_steps, rate=0.3, sparsity=0.0)
            apart.append(float(kl(clean, step.logits(moved(step, places, weights))).mean().detach()))
        assert min(apart) >= 0
        rises.append(apart == sorted(apart))
    assert sum(rises) >= 9


def test_sparsity_leaves_fewer_synonyms_in_each_word(load_tiny: Load, make_step: MakeStep) -> None:
    from robusweep.training.hull import _entropy, climb

    base = load_tiny()
    step = step_of(base, make_step, seed=1)
    places = step.companion.places(step.ids, step.mask)
    valid = step.companion.valid[step.ids]
    clean = step.logits().detach()
    spread = []
    for sparsity in (0.0, 1.0, 100.0):
        weights = climb(step, places, clean, n_steps=10, rate=1.0, sparsity=sparsity)
        spread.append(float(_entropy(weights, valid)[places].mean()))
    assert 0 <= max(spread[1:]) < 0.8 * spread[0]


def test_the_search_leaves_gradients_and_the_generator_alone(load_tiny: Load, make_step: MakeStep) -> None:
    import torch

    base = load_tiny(dropout=0.1)
    base.network.train()
    step = step_of(base, make_step)
    before = step.draws.get_state()
    Ascc(n_steps=2).backward(step)
    assert step.draws.get_state().equal(before)
    from robusweep.training.hull import climb

    gradients = {name: p.grad.clone() for name, p in base.network.named_parameters() if p.grad is not None}
    state = torch.get_rng_state()
    climb(step, step.companion.places(step.ids, step.mask), step.logits().detach(), n_steps=2, rate=1.0, sparsity=1.0)
    assert torch.get_rng_state().equal(state)  # as the pass before it has left it: all passes share their masks
    assert gradients
    assert all(p.grad.equal(gradients[name]) for name, p in base.network.named_parameters() if name in gradients)


def test_the_loss_is_that_of_the_clean_texts_and_the_divergence_at_the_last_weights(
    load_tiny: Load, make_step: MakeStep
) -> None:
    from robusweep.training.divergence import kl

    base = load_tiny(dropout=0.1)
    base.network.train()
    step = step_of(base, make_step)
    with perturbations(step) as seen:
        loss = Ascc(n_steps=3, kl_weight=2.5).backward(step)
    assert len(seen) == 4
    assert (step.costs.n_forward, step.costs.n_backward) == (5, 4)
    clean = step.logits()
    by_hand = step.cross_entropy(clean) + 2.5 * kl(clean, step.logits(seen[-1])).mean()
    assert loss == pytest.approx(float(by_hand.detach()), rel=1e-6)


def test_embeddings_that_learn_get_the_gradient_of_every_candidate(load_tiny: Load, make_step: MakeStep) -> None:
    base = load_tiny(dropout=0.0)
    step = step_of(base, make_step)
    Ascc(n_steps=1).backward(step)
    gradient = base.network.get_input_embeddings().weight.grad
    table, places = step.companion, step.companion.places(step.ids, step.mask)
    others = set(table.ids[step.ids[places]][table.valid[step.ids[places]]].tolist()) - set(step.ids.flatten().tolist())
    assert others
    assert all(bool(gradient[token].ne(0).any()) for token in others)


def test_a_batch_without_synonyms_is_learnt_as_it_is(load_tiny: Load, make_step: MakeStep) -> None:
    base = load_tiny(dropout=0.0)
    step = make_step(base.network, [5, 3])
    step.ids[step.mask] = 5 + 99  # w97, which has none
    step.companion = table_of(base)
    loss = Ascc().backward(step)
    assert loss == float(step.loss().detach())
    assert step.costs.n_backward == 1


def test_it_learns_with_an_adapter_in_both_precisions(load_tiny: Load, separable: Any) -> None:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    for adapter, bf16 in [(Full(), False), (Lora(rank=2), False), (Lora(rank=2), True)]:
        base = load_tiny(dropout=0.1)
        network = adapter.attach(base.network, head=head_names(base.network), seed=0)
        losses: list[float] = []
        method = Ascc(n_epochs=6, n_steps=2, batch_size=8, learning_rate=3e-3, kl_weight=1.0)
        options: Any = {"texts": ["a"] * 40, "lent": Lending(base, TABLE)}
        options["on_epoch"] = lambda _, loss, to=losses: to.append(loss)
        fit(network, method, *separable, pad_id=1, seed=0, bf16=bf16, **options)
        assert losses[-1] < 0.7 * losses[0], (adapter.kind, bf16)


def test_without_a_lexicon_it_says_what_it_lacks(load_tiny: Load, separable: Any) -> None:
    from robusweep.training.loop import fit

    with pytest.raises(StageError, match="train ascc: needs the texts and a lexicon"):
        fit(load_tiny().network, Ascc(), *separable, pad_id=1, seed=0, bf16=False)
