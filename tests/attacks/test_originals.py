"""Original recipes with their own resources (small ones, laid out as TextAttack leaves them), and who stands in."""

from __future__ import annotations

import pickle
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_parity import as_textattack_says
from victims import WordPieces

from robusweep.attacks import PROTOCOLS, attack_kinds, describe_attacks, resolve, run_attack
from robusweep.attacks.bae import BaeMiniLM
from robusweep.attacks.bert_attack import BertAttackMiniLM
from robusweep.attacks.iga import Iga
from robusweep.attacks.kuleshov import Kuleshov, KuleshovWordNet
from robusweep.attacks.library import import_textattack, quiet, words_from_text
from robusweep.attacks.originals import OriginalRecipe
from robusweep.attacks.resources import TAGGER, WORDNET, Resource, textattack_cache
from robusweep.attacks.run import seed_generators
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.attacks.textfooler import TextFooler, TextFoolerWordNet
from robusweep.errors import MissingError
from robusweep.examples import Example
from robusweep.seeds import derive

pytestmark = pytest.mark.skipif(bool(WORDNET.missing() or TAGGER.missing()), reason="WordNet or the tagger is missing")

STANDARD, LIBRARY = PROTOCOLS["standard_v1"], PROTOCOLS["library_default_v1"]


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder of TextAttack's, wherever TextAttack was imported before."""
    monkeypatch.setenv("TA_CACHE_DIR", str(tmp_path))
    import_textattack()
    monkeypatch.setattr(sys.modules["textattack.shared.utils.install"], "TEXTATTACK_CACHE_DIR", str(tmp_path))
    loaded = sys.modules["textattack.shared.utils"].GLOBAL_OBJECTS
    before = dict(loaded)
    yield tmp_path
    loaded.clear()
    loaded.update(before)


def lay_out_vectors(folder: Path, words: Sequence[str]) -> None:
    """Random vectors of these words in the five files of TextAttack's counter-fitted ones."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(words), 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    target = folder / "word_embeddings" / "paragramcf"
    target.mkdir(parents=True)
    np.save(target / "paragram.npy", vectors)
    np.save(target / "nn.npy", distances.argsort(axis=1)[:, :52])
    for name, value in (
        ("wordlist.pickle", {word: i for i, word in enumerate(words)}),
        ("mse_dist.p", defaultdict(dict)),
        ("cos_sim.p", defaultdict(dict)),
    ):
        (target / name).write_bytes(pickle.dumps(value))


@pytest.fixture(scope="session")
def nltk_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of nltk with stop words; nltk goes on reading the one it read first."""
    folder = tmp_path_factory.mktemp("nltk")
    stop_words = folder / "corpora" / "stopwords" / "english"
    stop_words.parent.mkdir(parents=True)
    stop_words.write_text("\n".join(sorted(STOP_WORDS)))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # nltk refuses what others may write
    return folder


@pytest.fixture
def with_vectors(cache_folder: Path, nltk_data: Path, reviews: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_out_vectors(cache_folder, sorted({w.lower() for text in reviews[:80] for w in words_from_text(text)}))
    monkeypatch.setenv("NLTK_DATA", str(nltk_data))
    monkeypatch.setattr("nltk.data.path", [str(nltk_data)])
    return cache_folder


def test_with_the_vectors_at_hand_the_original_recipe_runs_unchanged(
    with_vectors: Path, word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    few = review_examples[:2] + review_examples[17:22]  # the twentieth is misclassified
    assert Iga().missing(LIBRARY) == []
    ours = run_attack(Iga(), victim=word_pieces, exact=word_pieces, examples=few, protocol=LIBRARY, seed=3)
    assert list(map(as_textattack_says, ours)) == shipped("IGAWang2019", "iga", word_pieces, few)
    assert {o.status for o in ours} >= {"broken", "misclassified"}


def shipped(recipe: str, kind: str, victim: WordPieces, examples: Sequence[Example]) -> list[tuple[Any, ...]]:
    """(result, adversarial text, number of queries) from TextAttack's recipe class as it is."""
    from robusweep.attacks import parts

    textattack = import_textattack()
    wrapper = parts.VictimWrapper()
    wrapper.victim = victim
    with quiet():
        attack = getattr(textattack.attack_recipes, recipe).build(wrapper)
    found = []
    for example in examples:
        seed_generators(derive(3, kind, example.id))
        result = attack.attack(example.text, example.label)
        name = type(result).__name__.removesuffix("AttackResult")
        found.append((name, result.perturbed_text() if name == "Successful" else None, result.num_queries))
        attack.clear_cache()
    return found


@pytest.mark.usefixtures("hashed_similarity")
def test_under_a_protocol_an_original_keeps_its_vectors_and_obeys_the_protocol(
    with_vectors: Path, word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    from robusweep.attacks.audit import violations

    few = review_examples[:2] + review_examples[7:10] + review_examples[12:14]  # which take the fewest queries
    outcomes = run_attack(Iga(), victim=word_pieces, exact=word_pieces, examples=few, protocol=STANDARD, seed=3)
    assert [violations(Iga(), STANDARD, e, o) for e, o in zip(few, outcomes, strict=True)] == [[]] * 7
    assert "broken" in {o.status for o in outcomes}


def test_an_original_without_its_resources_is_replaced_by_its_stand_in_with_a_notice(cache_folder: Path) -> None:
    attack, stand_in = resolve(TextFooler(), STANDARD)
    assert attack == TextFoolerWordNet()
    assert stand_in is not None
    assert (stand_in.what, stand_in.asked, stand_in.used) == ("attack", "textfooler", "textfooler_wordnet")
    assert "counter-fitted word vectors" in stand_in.notice()
    with pytest.raises(MissingError, match="counter-fitted word vectors"):
        resolve(TextFooler(stand_in=None), STANDARD)


def test_what_is_missing_is_said_of_the_stand_in_too(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    with pytest.raises(MissingError, match="gpt2") as caught:
        resolve(Kuleshov(), STANDARD)
    assert "kuleshov_wordnet" in str(caught.value)
    with pytest.raises(MissingError, match="bert-base-uncased"):
        resolve(BaeMiniLM(), STANDARD)


def test_every_original_names_its_recipe_its_stand_in_and_how_to_get_what_it_needs(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setenv("FLAIR_CACHE_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipes = import_textattack().attack_recipes
    originals = {kind: cls for kind, cls in attack_kinds().items() if issubclass(cls, OriginalRecipe)}
    assert len(originals) == 12
    rows = {row["name"]: row for row in describe_attacks()}
    for kind, cls in originals.items():
        assert hasattr(recipes, cls.recipe)
        assert not rows[kind]["available"]
        assert rows[kind]["stand_in"] in attack_kinds()
        assert all(": " in text for text in rows[kind]["missing"])


def test_the_cache_folder_is_textattacks_own_where_it_has_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ROBUSWEEP_CACHE", str(tmp_path / "ours"))
    assert textattack_cache() == tmp_path / "ours" / "textattack"
    usual = tmp_path / ".cache" / "textattack"
    usual.mkdir(parents=True)
    assert textattack_cache() == tmp_path / "ours" / "textattack"  # TextAttack has not been there
    (usual / "post_install_check_3").touch()
    assert textattack_cache() == usual


def test_the_identity_of_an_original_changes_with_its_files(with_vectors: Path) -> None:
    first = Iga().identity(LIBRARY)
    path = with_vectors / "word_embeddings" / "paragramcf" / "nn.npy"
    np.save(path, np.load(path)[:, ::-1])
    assert Iga().identity(LIBRARY) != first
    assert "stand_in" not in first["fields"]


# ------------------------------------------------------------------------- language models of one's own
@pytest.fixture(scope="session")
def masked_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A masked language model of two layers at random, with MiniLM's vocabulary."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("mlm")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=30522, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("hashed_similarity")
@pytest.mark.parametrize("cls", [BaeMiniLM, BertAttackMiniLM])
def test_attacks_with_a_masked_language_model_of_ones_own_obey_the_protocol(
    cls: Any, masked_model: Path, word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    from robusweep.attacks.audit import violations

    attack = cls(language_model=str(masked_model))
    few = review_examples[:6]
    outcomes = run_attack(attack, victim=word_pieces, exact=word_pieces, examples=few, protocol=STANDARD, seed=0)
    assert [violations(attack, STANDARD, e, o) for e, o in zip(few, outcomes, strict=True)] == [[]] * 6
    assert sum(o.n_queries for o in outcomes) > 60
    assert attack.identity(STANDARD) != cls(language_model=str(masked_model.parent)).model_dump()


@pytest.mark.usefixtures("hashed_similarity")
def test_kuleshov_asks_the_language_model_of_ones_own(
    tmp_path: Path, word_pieces: WordPieces, review_examples: list[Example]
) -> None:
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([e.text for e in review_examples], vocab_size=400)
    trained.save_model(str(tmp_path))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    few = review_examples[:6]
    outcomes = run_attack(
        KuleshovWordNet(language_model=str(tmp_path)),
        victim=word_pieces,
        exact=word_pieces,
        examples=few,
        protocol=STANDARD,
        seed=0,
    )
    assert "broken" in {o.status for o in outcomes}


def test_a_resource_of_a_registry_package_says_how_to_install_it() -> None:
    absent = Resource("a word list", "no_such_module", "no-such-package==1.0")
    assert absent.missing() == "a word list: pip install --no-deps no-such-package==1.0"
