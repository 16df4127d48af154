"""Victims made of several: what attacks query when adapters are mixed for each text, answers are mixed, or emulated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from test_mixture_laws import ADAPTERS, trained_on

from robusweep import defended
from robusweep.adapters import AnyAdapter
from robusweep.catalogue import kinds
from robusweep.errors import RecipeError
from robusweep.mixing import Emulated, Fixed, OfLogits, PerText, System, TrainedSet
from robusweep.queries import QueryMemory

if TYPE_CHECKING:
    from robusweep.model import ModelVictim, TextModel

Load = Callable[..., Any]
IDENTITY = "tiny"
RULED: dict[str, dict[str, Any]] = {
    "entropy_ratio": {},
    "entropy_minmax": {"ranges": [[0.0, 0.6], [0.1, 0.7], [0.0, 0.69]]},
    "entropy_softmax": {"sharpness": 2.0},
    "emea": {"n_steps": 2, "step_size": 0.5},
}
BEND = {"scale": 2.0, "exponent": 2.0, "shift": 0.5}


def trained_set(model: TextModel, name: str = "lora", *, n: int = 3) -> tuple[TextModel, TrainedSet]:
    """(the model as a trial has it, ``n`` adapters of a kind with noise on all that learns)."""
    import torch

    trained = trained_on(model.network, ADAPTERS[name], n=n)
    network = trained.network.float()
    base = dict(network.named_parameters())
    tensors = [{key: value.float() for key, value in t.items()} for t in trained.tensors]
    hosted: Any = replace(model, network=network)  # type: ignore[type-var]
    assert all(value.dtype == torch.float32 for value in base.values())
    return hosted, TrainedSet(
        names=["train", *(f"adversarial.{i}" for i in range(n - 1))],
        base=base,
        folded=[ADAPTERS[name].fold(base, t) for t in tensors],
        members=[ADAPTERS[name].member(base, t) for t in tensors],
        ranges=[(0.0, 0.6)] * n,
    )


def put(adapters: TrainedSet, *places: int) -> TrainedSet:
    parts = ("names", "folded", "members", "ranges")
    return replace(adapters, **{part: [getattr(adapters, part)[i] for i in places] for part in parts})


@pytest.fixture(scope="module")
def large(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of another family and width, with the same labels and vocabulary; not to be changed."""
    return saved(resized(load_tiny("distilbert"), dim=48), tmp_path_factory.mktemp("large"))


def resized(model: TextModel, **changed: int) -> TextModel:
    """A DistilBERT with other sizes and weights, and the same labels and tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, DistilBertConfig

    config = DistilBertConfig(**(model.network.config.to_dict() | changed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return replace(model, network=AutoModelForSequenceClassification.from_config(config))


def saved(model: TextModel, folder: Path) -> Path:
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


SYSTEMS = [*RULED, "factored", "of logits", "bent", "emulated"]
each_system = pytest.mark.parametrize("which", SYSTEMS)


def system_of(which: str, adapters: TrainedSet, large: Path) -> PerText | OfLogits | Emulated:
    if which in RULED:
        return PerText(adapters, which, RULED[which])
    if which == "factored":
        return PerText(adapters, "entropy_ratio", factored=True)
    if which == "emulated":
        return Emulated(put(adapters, 0, 1), str(large), 0.7)
    return OfLogits(adapters, (0.4, 0.3, 0.3), BEND if which == "bent" else None)


def exact(system: System, model: TextModel) -> ModelVictim:
    return defended.victims(system, model, IDENTITY, bf16=False)[1]


# ------------------------------------------------------------------------------------------------- what they answer
@each_system
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_a_text_is_answered_alike_alone_in_company_and_in_any_order(
    which: str, family: str, load_tiny: Load, random_texts: list[str], large: Path
) -> None:
    model, adapters = trained_set(load_tiny(family))
    system, texts = system_of(which, adapters, large), random_texts[:60]
    together = exact(system, model)(texts)
    assert together.shape == (60, 2)
    assert together.dtype == np.float32
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(exact(system, model)([texts[i] for i in order]), together[order], atol=1e-5)
    alone = exact(system, model)
    np.testing.assert_allclose(np.concatenate([alone([text]) for text in texts[:12]]), together[:12], atol=1e-5)
    assert together.std(axis=0).min() > 0.01


def test_an_empty_batch_and_an_empty_text_are_answered(load_tiny: Load, large: Path) -> None:
    model, adapters = trained_set(load_tiny())
    for which in SYSTEMS:
        ask = exact(system_of(which, adapters, large), model)
        assert ask([]).shape == (0, 2)
        assert np.isfinite(ask(["", "\u2603"])).all()


@pytest.mark.parametrize("name", list(kinds(AnyAdapter)))
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_systems_of_every_adapter_kind_are_the_blend_of_their_members(
    name: str, family: str, load_tiny: Load, random_texts: list[str]
) -> None:
    import torch

    from robusweep.mixture import Blend, Mixture

    model, adapters = trained_set(load_tiny(family), name)
    texts = random_texts[:12]
    batch = model.tokenizer(texts, truncation=True, max_length=model.max_tokens, padding=True, return_tensors="pt")
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    mixture = Mixture(Blend(model.network, adapters.members), "entropy_ratio")
    with torch.no_grad():
        logits, weights = mixture(**inputs)
        alone = [mixture.blend(mixture.blend.alone(i, 12), **inputs) for i in range(3)]
    for i, parameters in enumerate(adapters.folded):
        np.testing.assert_allclose(exact(Fixed(parameters), model)(texts), alone[i], rtol=0, atol=2e-4)
    ask = exact(PerText(adapters, "entropy_ratio"), model)
    np.testing.assert_allclose(ask.weights(texts), weights, rtol=0, atol=1e-3)
    np.testing.assert_allclose(ask(texts), logits, rtol=0, atol=2e-3)
    assert not np.allclose(ask(texts), alone[0], atol=1e-2)


@pytest.mark.parametrize("rule", list(RULED))
def test_the_weights_of_a_victim_are_those_that_its_members_answers_imply(
    rule: str, load_tiny: Load, random_texts: list[str]
) -> None:
    import torch

    from robusweep.mixture import RULES, Blend

    model, adapters = trained_set(load_tiny("roberta"))
    texts = random_texts[:70]  # more than are weighted at once
    ask = exact(PerText(adapters, rule, RULED[rule]), model)
    found = ask.weights(texts)
    assert found is not None
    assert found.shape == (70, 3)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-6)
    each = torch.from_numpy(np.stack([exact(Fixed(p), model)(texts) for p in adapters.folded]))
    batch = model.tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    blend = Blend(model.network, adapters.members)
    implied = RULES[rule](each, lambda w: blend(w, **inputs), **RULED[rule])
    np.testing.assert_allclose(found, implied, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(ask(texts), blend(implied, **inputs), atol=1e-4)
    assert found.std(0).min() > 1e-3
    order = np.random.default_rng(1).permutation(70)
    np.testing.assert_allclose(ask.weights([texts[i] for i in order]), found[order], atol=1e-5)


def test_only_weights_that_depend_on_the_text_are_told(load_tiny: Load, large: Path) -> None:
    model, adapters = trained_set(load_tiny())
    for which in ("of logits", "bent", "emulated"):
        assert exact(system_of(which, adapters, large), model).weights(["good"]) is None
    assert exact(Fixed(adapters.folded[0]), model).weights(["good"]) is None


def test_equal_adapters_answer_as_one_whatever_the_rule(load_tiny: Load, random_texts: list[str]) -> None:
    model, adapters = trained_set(load_tiny("roberta"))
    same, texts = put(adapters, 1, 1, 1), random_texts[:20]
    alone = exact(Fixed(adapters.folded[1]), model)(texts)
    for rule, keys in RULED.items():
        np.testing.assert_allclose(exact(PerText(same, rule, keys), model)(texts), alone, rtol=0, atol=1e-4)
    mixed = exact(OfLogits(same, (0.2, 0.5, 0.3)), model)(texts)
    np.testing.assert_allclose(mixed, log_softmax(alone), rtol=0, atol=1e-4)


def log_softmax(logits: Any) -> Any:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_mixed_answers_are_the_mean_of_the_adapters_probabilities(load_tiny: Load, random_texts: list[str]) -> None:
    model, adapters = trained_set(load_tiny())
    texts = random_texts[:20]
    each = [np.exp(log_softmax(exact(Fixed(p), model)(texts))) for p in adapters.folded]
    for weights in ((1.0, 0.0, 0.0), (0.4, 0.3, 0.3), (0.0, 0.0, 1.0)):
        found = np.exp(exact(OfLogits(adapters, weights), model)(texts))
        np.testing.assert_allclose(found, sum(w * p for w, p in zip(weights, each, strict=True)), atol=1e-5)


def test_emulated_answers_are_the_large_models_plus_what_training_changed(
    load_tiny: Load, random_texts: list[str], large: Path
) -> None:
    from robusweep.model import load_classifier, victim

    model, adapters = trained_set(load_tiny())
    texts = random_texts[:20]
    big = victim(load_classifier(str(large), device="cpu"), {}, precision="fp32")(texts)
    clean, adversarial = (exact(Fixed(p), model)(texts) for p in adapters.folded[:2])
    for beta in (0.0, 0.5, 2.0):
        found = exact(Emulated(put(adapters, 0, 1), str(large), beta), model)(texts)
        np.testing.assert_allclose(found, big + beta * (adversarial - clean), rtol=0, atol=1e-4)
    unchanged = exact(Emulated(put(adapters, 1, 1), str(large), 3.0), model)(texts)
    np.testing.assert_allclose(unchanged, big, rtol=0, atol=1e-5)
    assert np.abs(adversarial - clean).max() > 0.1


@each_system
def test_the_fast_victim_is_close_to_the_exact_one(
    which: str, load_tiny: Load, random_texts: list[str], large: Path
) -> None:
    model, adapters = trained_set(load_tiny())
    fast, slow = defended.victims(system_of(which, adapters, large), model, IDENTITY, bf16=True)
    quick, answers = fast(random_texts), slow(random_texts)
    assert not np.array_equal(quick, answers)
    assert (quick.argmax(1) == answers.argmax(1)).mean() > 0.95
    assert np.abs(quick - answers).mean() < 0.1 * answers.std()
    assert model.network.dtype.itemsize == 4
    if (weights := fast.weights(random_texts[:30])) is not None:
        np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
        assert np.abs(weights - slow.weights(random_texts[:30])).mean() < 0.05  # type: ignore[operator]
    same, other = defended.victims(system_of(which, adapters, large), model, IDENTITY, bf16=False)
    assert same is other


def test_the_model_of_a_trial_is_left_as_it_was(load_tiny: Load, random_texts: list[str], large: Path) -> None:
    model, adapters = trained_set(load_tiny())
    state = {key: value.clone() for key, value in model.network.state_dict().items()}
    model.network.requires_grad_(True)
    attributes = [set(vars(module)) for module in model.network.modules()]
    for which in SYSTEMS:
        ask = exact(system_of(which, adapters, large), model)
        ask(random_texts[:5])
        ask.gradients(random_texts[:1])
    assert [set(vars(module)) for module in model.network.modules()] == attributes
    assert all(value.equal(state[key]) for key, value in model.network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.network.parameters())


# -------------------------------------------------------------------------------------------------------- gradients
@each_system
@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_pass_from_a_texts_own_word_embeddings_is_the_pass_from_the_text(
    which: str, name: str, load_tiny: Load, random_texts: list[str], large: Path
) -> None:
    import torch

    if (which, name) == ("factored", "full"):
        pytest.skip("whole weights have no factors")
    model, adapters = trained_set(load_tiny("roberta"), name)
    ask = exact(system_of(which, adapters, large), model)
    for row in ask.rows(random_texts[:3]):
        at = torch.from_numpy(ask.embeddings(row))[None]
        found = ask.passes.embedded(at, row).detach()
        np.testing.assert_allclose(found, ask.logits([row]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("which", [system for system in SYSTEMS if system != "emea"])
@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_gradient_is_the_slope_of_the_loss_through_the_whole_system(
    which: str, name: str, load_tiny: Load, large: Path
) -> None:
    import torch

    if (which, name) == ("factored", "full"):
        pytest.skip("whole weights have no factors")
    model, adapters = trained_set(load_tiny("bert"), name)
    ask = exact(system_of(which, adapters, large), model).tempered(2.0)
    text = "good w1 w2 bad w7"
    (found,) = ask.gradients([text])
    assert found.values.shape == (7, 32)
    assert found.ids.tolist() == model.tokens([text])[0]
    label = torch.from_numpy(ask([text]).argmax(1))
    embeddings = torch.from_numpy(ask.embeddings(found.ids))[None]
    values = torch.from_numpy(found.values)
    step = 1e-2 / float(values.norm())

    @torch.no_grad()
    def loss(shift: float) -> float:
        logits = ask.passes.embedded(embeddings + shift * values, found.ids)
        return float(torch.nn.functional.cross_entropy(logits / 2.0, label))

    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(float((values**2).sum()), rel=0.03)


def test_a_gradient_goes_through_the_weights_too(load_tiny: Load) -> None:
    import torch

    from robusweep.mixture import Blend

    model, adapters = trained_set(load_tiny("roberta"))
    ask = exact(PerText(adapters, "entropy_softmax", {"sharpness": 3.0}), model)
    text = "good w1 w2 bad w7"
    (found,) = ask.gradients([text])
    at = torch.from_numpy(ask.embeddings(found.ids))[None].requires_grad_(True)
    held = torch.from_numpy(ask.weights([text]))  # type: ignore[arg-type]
    logits = Blend(model.network, adapters.members)(held, inputs_embeds=at)
    (without,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, logits.argmax(1)), at)
    assert np.linalg.norm(without[0].numpy() - found.values) > 0.05 * np.linalg.norm(found.values)


# ---------------------------------------------------------------------------------------------- digests and memory
def systems(adapters: TrainedSet, large: Path, other_large: Path) -> list[System]:
    """Systems each of which answers otherwise than the others."""
    pair, swapped = put(adapters, 0, 1), put(adapters, 1, 0)
    factors = {name: replace(f, down=f.down / 2, up=f.up * 2) for name, f in adapters.members[1].factors.items()}
    rescaled = replace(pair, members=[adapters.members[0], replace(adapters.members[1], factors=factors)])
    return [
        *(PerText(used, "entropy_ratio") for used in (adapters, pair)),
        PerText(pair, "entropy_ratio", factored=True),
        PerText(rescaled, "entropy_ratio", factored=True),  # the same changes of weights, from other factors
        *(PerText(pair, "entropy_softmax", {"sharpness": s}) for s in (1.0, 2.0)),
        *(PerText(pair, "entropy_minmax", {"ranges": [[0.0, high], [0.0, 0.5]]}) for high in (0.4, 0.5)),
        PerText(swapped, "entropy_minmax", {"ranges": [[0.0, 0.4], [0.0, 0.5]]}),
        *(PerText(pair, "emea", {"n_steps": n, "step_size": s}) for n, s in ((1, 1.0), (2, 1.0), (1, 0.5))),
        *(OfLogits(pair, weights) for weights in ((0.5, 0.5), (0.4, 0.6))),
        *(OfLogits(pair, (0.5, 0.5), BEND | {"scale": scale}) for scale in (1.0, 2.0)),
        OfLogits(swapped, (0.4, 0.6)),
        *(Emulated(used, str(large), 1.0) for used in (pair, swapped)),
        Emulated(pair, str(large), 0.5),
        Emulated(pair, str(other_large), 1.0),
        *(Fixed(parameters) for parameters in adapters.folded),
    ]


def test_equal_systems_have_equal_digests_and_others_have_others(load_tiny: Load, large: Path, tmp_path: Path) -> None:
    other_large = saved(load_tiny("distilbert", seed=4), tmp_path / "other")
    found = []
    for _ in range(2):  # trained again from the same seeds
        model, adapters = trained_set(load_tiny())
        found.append([defended.digest(s, model, IDENTITY) for s in systems(adapters, large, other_large)])
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) > 20
    elsewhere = [defended.digest(s, model, "another base") for s in systems(adapters, large, other_large)]
    assert not set(elsewhere) & set(found[0])


def test_systems_with_other_digests_do_answer_otherwise(
    load_tiny: Load, large: Path, tmp_path: Path, random_texts: list[str]
) -> None:
    other_large = saved(load_tiny("distilbert", seed=4), tmp_path / "other")
    model, adapters = trained_set(load_tiny())
    answers = [exact(s, model)(random_texts[:8]) for s in systems(adapters, large, other_large)]
    for i, one in enumerate(answers):
        assert all(np.abs(one - other).max() > 1e-5 for other in answers[i + 1 :])


@each_system
def test_a_second_victim_with_the_same_memory_computes_nothing(
    which: str, load_tiny: Load, random_texts: list[str], large: Path
) -> None:
    model, adapters = trained_set(load_tiny())
    system, texts = system_of(which, adapters, large), random_texts[:20]
    memories: dict[tuple[str, str], QueryMemory] = defaultdict(QueryMemory)

    def made() -> tuple[ModelVictim, ModelVictim]:
        return defended.victims(system, model, IDENTITY, bf16=True, memory=lambda d, p: memories[d, p])

    first, again = made(), made()
    for one, other in zip(first, again, strict=True):
        answers = one(texts)
        np.testing.assert_array_equal(other(texts[::-1])[::-1], answers)
        assert (one.n_computed > 0, other.n_computed) == (True, 0)
        assert other.n_asked == 20
    n_members = 2 if which == "emulated" else 3
    n_victims = n_members + 1 + (which == "emulated")  # the large model remembers, too
    assert len(memories) == 2 * n_victims
    assert all(len(memory) == first[0].n_computed for memory in memories.values())
    alone = exact_with(Fixed(adapters.folded[0]), model, memories)
    alone(texts)
    assert alone.n_computed == 0, "a member's answers are those of the member as a system of its own"
    forgetful = first[1].forgetful()
    forgetful(texts)
    assert forgetful.n_computed == 2 * first[1].n_computed


def exact_with(system: System, model: TextModel, memories: dict[tuple[str, str], QueryMemory]) -> ModelVictim:
    return defended.victims(system, model, IDENTITY, bf16=False, memory=lambda d, p: memories[d, p])[1]


# ------------------------------------------------------------------------------------------------------ adaptive aid
def test_the_aides_of_an_adaptive_attack_are_each_adapter_and_their_even_mean(load_tiny: Load, large: Path) -> None:
    _, adapters = trained_set(load_tiny())
    found = defended.aides(PerText(adapters, "entropy_ratio"))
    assert len(found) == 4  # and the mean
    for mine, parameters in zip(found, adapters.folded, strict=False):
        assert mine.parameters is parameters
    for name, value in found[3].parameters.items():
        assert value.allclose(sum(p[name] for p in adapters.folded) / 3, atol=1e-6)  # type: ignore[arg-type]
    for which in ("of logits", "emulated"):
        assert defended.aides(system_of(which, adapters, large)) == []


# ---------------------------------------------------------------------------------------------------------- refusals
def test_a_large_model_with_other_labels_is_refused(load_tiny: Load, tmp_path: Path) -> None:
    model, adapters = trained_set(load_tiny(), n=2)
    for i, labels in enumerate((("b", "a"), ("a", "b", "c"))):
        folder = saved(load_tiny("distilbert", labels=labels), tmp_path / f"large{i}")
        with pytest.raises(RecipeError, match=r"mix\.large: .* has the labels .*; the data have a, b") as e:
            exact(Emulated(adapters, str(folder), 1.0), model)
        assert ", ".join(labels) in str(e.value)
        assert str(folder) in str(e.value)


def test_a_large_model_with_another_vocabulary_is_refused(load_tiny: Load, tmp_path: Path) -> None:
    model, adapters = trained_set(load_tiny(), n=2)
    other = load_tiny("distilbert")
    other.tokenizer.add_tokens(["brandnew"])
    folder = saved(other, tmp_path / "large")
    with pytest.raises(RecipeError, match=r"mix\.large: .* has another vocabulary than model\.base"):
        exact(Emulated(adapters, str(folder), 1.0), model)


def test_a_large_model_that_reads_fewer_tokens_is_refused(load_tiny: Load, tmp_path: Path) -> None:
    model, adapters = trained_set(load_tiny(), n=2)
    other = resized(load_tiny("distilbert"), max_position_embeddings=32)
    folder = saved(other, tmp_path / "large")
    with pytest.raises(RecipeError, match=r"mix\.large: .* reads 32 tokens, and model\.max_tokens is 64"):
        exact(Emulated(adapters, str(folder), 1.0), model)
    fits, adapters = trained_set(load_tiny(max_tokens=32), n=2)
    assert np.isfinite(exact(Emulated(adapters, str(folder), 1.0), fits)(["good " * 60])).all()
