from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import robusweep.model as stage
from robusweep.errors import MissingError
from robusweep.model import BaseEncoder, encoder

Load = Callable[..., Any]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: dict[str, Path]) -> None:
    """A machine that reaches no hub, has nothing cached, and has the embedded encoder."""
    monkeypatch.setattr(encoder, "hub_reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoder, "embedded_folder", lambda _name: folders["bert"])


@pytest.fixture
def folder(tmp_path: Path, folders: dict[str, Path]) -> Path:
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "model"))


def load(folder: Path, *, seed: int = 0, labels: tuple[str, ...] = ("a", "b")) -> Any:
    return stage.load(BaseEncoder(base=str(folder)), labels, seed=seed, device="cpu")


def parameters(model: Any) -> dict[str, Any]:
    return {name: value.detach() for name, value in model.network.named_parameters()}


@pytest.mark.usefixtures("no_hub")
def test_a_hub_name_is_replaced_by_its_stand_in_when_the_hub_is_out_of_reach() -> None:
    asked = BaseEncoder(base="bert-base-uncased", max_tokens=77)
    used, stand_in = stage.resolve(asked)
    assert used == asked.model_copy(update={"base": "minilm_l6"})
    assert stand_in is not None
    assert (stand_in.what, stand_in.asked, stand_in.used) == ("model", "bert-base-uncased", "minilm_l6")
    with pytest.raises(MissingError, match="bert-base-uncased"):
        stage.resolve(BaseEncoder(base="bert-base-uncased", stand_in=None))


@pytest.mark.usefixtures("no_hub")
def test_a_cached_a_reachable_a_local_and_an_embedded_model_need_no_stand_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for base in (str(folder), "minilm_l6"):
        assert stage.resolve(BaseEncoder(base=base)) == (BaseEncoder(base=base), None)
    named = BaseEncoder(base="owner/name")
    assert stage.resolve(named)[1] is not None
    snapshot = tmp_path / "cache" / "models--owner--name" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    assert stage.resolve(named)[1] is not None  # begun, but no weights
    (snapshot / "model.safetensors").touch()
    assert stage.resolve(named) == (named, None)
    monkeypatch.setattr(encoder, "hub_reachable", lambda: True)
    assert stage.resolve(BaseEncoder(base="bert-base-uncased"))[1] is None


@pytest.mark.parametrize(
    ("removed", "added"),
    [("config.json", None), ("model.safetensors", None), ("model.safetensors", "pytorch_model.bin")],
)
def test_a_folder_without_configuration_or_safetensors_is_refused(
    removed: str, added: str | None, folder: Path
) -> None:
    stage.resolve(BaseEncoder(base=str(folder)))
    (folder / removed).unlink()
    if added:
        (folder / added).write_bytes(b"\x80\x04.")
    with pytest.raises(MissingError, match=str(folder)):
        stage.resolve(BaseEncoder(base=str(folder)))


def test_an_absent_folder_is_refused_rather_than_taken_for_a_hub_name() -> None:
    for base in ("./no_such_model", "/no/such/model"):
        with pytest.raises(MissingError, match="no folder"):
            stage.resolve(BaseEncoder(base=base))


def test_spoiled_files_are_refused_with_the_reason(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(MissingError, match="can't be loaded"):
        load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{")
    with pytest.raises(MissingError, match="can't be loaded"):
        load(folder)


@pytest.mark.parametrize("fields", [{"num_hidden_layers": 3}, {"intermediate_size": 48}, {"model_type": "roberta"}])
def test_an_encoder_whose_weights_are_not_all_there_is_refused(fields: dict[str, Any], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(MissingError, match="no fitting weights"):
        load(folder)


def test_the_head_depends_on_the_seed_alone_and_the_encoder_on_the_folder(folder: Path) -> None:
    import torch

    one, same, other = load(folder), load(folder), load(folder, seed=1)
    for name, value in parameters(one).items():
        assert value.equal(parameters(same)[name])
        changes = name == "classifier.weight"
        assert parameters(other)[name].equal(value) is not changes
    state = torch.get_rng_state()
    load(folder)
    assert torch.get_rng_state().equal(state)
    assert not one.network.training


def test_a_trained_head_no_head_and_a_head_for_other_labels_start_alike(
    folder: Path, family: str, folders: Any
) -> None:
    from transformers import AutoModel

    with_head, labels = folders[family], ("x", "y", "z")
    encoder = AutoModel.from_pretrained(with_head)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    encoder.save_pretrained(folder)
    if family == "bert":  # the head in the folder is for two labels
        assert load(folder, labels=labels).network.classifier.weight.shape == (3, 32)
    for names in (("a", "b"), labels):
        trained, bare = parameters(load(with_head, labels=names)), parameters(load(folder, labels=names))
        heads = [name for name in trained if not name.startswith(f"{family}.")]
        assert heads
        assert all(trained[name].equal(bare[name]) for name in heads)


def test_labels_are_those_of_the_data(load_tiny: Load) -> None:
    model = load_tiny(labels=("sport", "politics", "chips"))
    assert model.label_names == ("sport", "politics", "chips")
    assert model.network.config.id2label == {0: "sport", 1: "politics", 2: "chips"}
    assert model.network.num_labels == 3


def test_dropout_is_set_everywhere_or_left_as_the_model_has_it(family: str, load_tiny: Load) -> None:
    import torch

    def rates(**fields: Any) -> set[float]:
        network = load_tiny(family, **fields).network
        attention = {getattr(network.config, name) for name in network.config.to_dict() if "attention" in name
                     and "dropout" in name}  # fmt: skip
        return attention | {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)}

    assert rates(dropout=0.0) == {0.0}
    assert rates(dropout=0.3) == {0.3}
    assert 0.1 in rates()


def test_head_names_are_the_parameters_outside_the_encoder(load_tiny: Load) -> None:
    assert stage.head_names(load_tiny().network) == ["classifier.weight", "classifier.bias"]
    assert {name.split(".")[0] for name in stage.head_names(load_tiny("distilbert").network)} == {
        "pre_classifier",
        "classifier",
    }


def test_the_identity_changes_with_any_file_that_shapes_the_answers(folder: Path) -> None:
    encoder = BaseEncoder(base=str(folder))
    seen = {stage.identity(encoder)}
    assert stage.identity(encoder) in seen
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        file = folder / name
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.write_bytes(content)
        seen.add(stage.identity(encoder))
    for name in ("vocab.txt", "spiece.model"):
        (folder / name).write_text("new")
        seen.add(stage.identity(encoder))
    assert len(seen) == 6
    (folder / "README.md").write_text("no weight")
    assert stage.identity(encoder) in seen
    assert stage.identity(BaseEncoder(base="owner/name")) != stage.identity(BaseEncoder(base="owner/other"))


def test_the_network_digest_tells_parameters_apart_and_is_stable(load_tiny: Load) -> None:
    import torch

    one = {"b": torch.zeros(2), "a": torch.ones(3)}
    digest = stage.network_digest("base", one, 128)
    assert stage.network_digest("base", {name: one[name].clone() for name in sorted(one)}, 128) == digest
    nudged = {"b": torch.tensor([0.0, 1e-30]), "a": torch.ones(3)}
    swapped = {"a": torch.zeros(2), "b": torch.ones(3)}
    others = [("base", nudged, 128), ("base", swapped, 128), ("other", one, 128), ("base", one, 64)]
    assert len({digest, *(stage.network_digest(*other) for other in others)}) == 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_what_the_recipe_says(precision: Any) -> None:
    assert stage.uses_bf16(precision, "cpu") is (precision == "bf16")
