"""Removed units: the smaller network computes what the masked one does, and is found again from its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robusweep.errors import MissingError, StageError
from robusweep.packed import pack
from robusweep.tickets.drawing import Size
from robusweep.tickets.gates import masked
from robusweep.tickets.masks import Masks
from robusweep.tickets.parts import parts_of, shape_of, weight_norms
from robusweep.tickets.removal import remove, removed
from robusweep.units import rebuilt

Load = Callable[..., Any]


@pytest.fixture
def masks() -> Masks:
    """Layers that keep 3 and 2 of 4 heads, and different numbers of 64 neurons."""
    neurons = np.random.default_rng(0).random((2, 64)) < [[0.8], [0.4]]
    return Masks(np.array([[True, False, True, True], [False, True, False, True]]), neurons)


def texts() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 105, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 4, 7])[:, None]
    return {"input_ids": ids.where(mask, 1), "attention_mask": mask.long()}


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    found: torch.Tensor = network(**texts()).logits
    return found


def n_parameters(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_the_removed_network_is_the_masked_one(family: str, attention: str, load_tiny: Load, masks: Masks) -> None:
    network = load_tiny(family, attention=attention).network
    with masked(network, masks):
        expected = logits(network)
    assert not torch.allclose(expected, logits(network), atol=1e-2)
    torch.testing.assert_close(logits(removed(network, masks)), expected, atol=1e-6, rtol=1e-6)
    network.double()
    with masked(network, masks):
        expected = logits(network)
    torch.testing.assert_close(logits(removed(network, masks)), expected, atol=1e-14, rtol=1e-14)


def test_removal_takes_as_many_weights_as_it_says(family: str, load_tiny: Load, masks: Masks) -> None:
    network = load_tiny(family).network
    before, found = n_parameters(network), removed(network, masks)
    assert n_parameters(network) == before
    assert before - n_parameters(found) == masks.n_removed(hidden=32) > 5000
    sizes = [(parts.n_heads, parts.output.in_features, parts.up.out_features) for parts in parts_of(found)]
    assert sizes == [(3, 24, masks.neurons[0].sum()), (2, 16, masks.neurons[1].sum())]


def test_bert_base_keeps_the_published_number_of_weights() -> None:
    from transformers import BertConfig, BertModel

    rng = np.random.default_rng(0)
    masks = Size(head_density=5 / 6, neuron_density=0.6).masks(rng.random((12, 12)), rng.random((12, 3072)))
    assert (~masks.heads).sum() == 24
    assert (~masks.neurons).sum() == 14_746
    with torch.device("meta"):
        network = BertModel(BertConfig())
    before = n_parameters(network.encoder)
    assert before == 85_054_464
    remove(network, masks)
    assert n_parameters(network.encoder) == before - masks.n_removed(hidden=768) == 57_666_662  # 67.8 %


def test_the_packed_pass_takes_the_removed_network(family: str, load_tiny: Load, masks: Masks) -> None:
    found = removed(load_tiny(family).network, masks)
    packed = pack(found)
    assert packed is not None
    rows = [np.arange(5, 5 + n) for n in (3, 8, 8, 20)]
    with torch.inference_mode():
        own = [found.base_model(input_ids=torch.from_numpy(row)[None])[0][0, 0] for row in rows]  # type: ignore[operator]
    torch.testing.assert_close(packed.first(rows), torch.stack(own), atol=2e-5, rtol=1e-4)


def test_what_is_kept_has_the_values_it_had(load_tiny: Load, masks: Masks) -> None:
    network = load_tiny("bert").network
    whole = {name: value.clone() for name, value in network.state_dict().items()}
    found = removed(network, masks).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in network.state_dict().items())
    neurons, rows = np.flatnonzero(masks.neurons[0]), np.flatnonzero(masks.heads[1].repeat(8))
    up, value = "bert.encoder.layer.0.intermediate.dense.weight", "bert.encoder.layer.1.attention.self.value.weight"
    assert torch.equal(found[up], whole[up][neurons])
    assert torch.equal(found[value], whole[value][rows])
    same = [name for name in whole if found[name].shape == whole[name].shape]
    assert {"classifier.weight", "bert.embeddings.word_embeddings.weight"} < set(same)
    assert all(torch.equal(found[name], whole[name]) for name in same)


def test_all_units_kept_is_the_whole_network_and_a_removed_one_learns(load_tiny: Load, masks: Masks) -> None:
    network = load_tiny("roberta").network
    everything = Masks(np.ones((2, 4), dtype=bool), np.ones((2, 64), dtype=bool))
    assert torch.equal(logits(removed(network, everything)), logits(network))
    network.requires_grad_(False)
    assert not any(p.requires_grad for p in removed(network, masks).parameters())
    found = removed(network.requires_grad_(True), masks)
    found(**texts()).logits.logsumexp(1).sum().backward()
    assert all(parts.query.weight.grad.shape == parts.query.weight.shape for parts in parts_of(found))


def saved(network: Any, masks: Masks, folder: Path) -> None:
    network.save_pretrained(folder)
    masks.write(folder / "ticket.json")


def test_a_ticket_is_rebuilt_from_its_files(family: str, load_tiny: Load, masks: Masks, tmp_path: Path) -> None:
    found = removed(load_tiny(family).network, masks)
    saved(found, masks, tmp_path)
    state = torch.get_rng_state()
    again = rebuilt(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(again), logits(found))
    assert not again.training
    read = Masks.read(tmp_path / "ticket.json")
    assert np.array_equal(read.heads, masks.heads)
    assert np.array_equal(read.neurons, masks.neurons)
    assert json.loads((tmp_path / "ticket.json").read_text())["shape"] == [2, 4, 64]


def test_a_folder_whose_files_do_not_belong_together_is_refused(load_tiny: Load, masks: Masks, tmp_path: Path) -> None:
    network = load_tiny("bert").network
    saved(removed(network, masks), masks, tmp_path)
    others = masks.neurons.copy()
    others[0, np.flatnonzero(others[0])[0]] = False
    for wrong in (Masks(masks.heads, others), Masks(masks.heads[:, :3], masks.neurons)):
        wrong.write(tmp_path / "ticket.json")
        with pytest.raises(ValueError, match="do not belong together"):
            rebuilt(tmp_path)
    for text in ("{", "[]", '{"heads": ["11"], "neurons": ["1"], "shape": [1, 1, 1]}', '{"heads": ["2"]}'):
        (tmp_path / "ticket.json").write_text(text)
        with pytest.raises(ValueError, match="holds no masks"):
            rebuilt(tmp_path)
    (tmp_path / "ticket.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"ticket\.json"):
        rebuilt(tmp_path)


def test_masks_that_do_not_fit_are_refused(load_tiny: Load, masks: Masks, tmp_path: Path) -> None:
    network = load_tiny("bert").network
    found = removed(network, masks)
    with pytest.raises(StageError, match="a ticket already"):
        removed(found, masks)
    with pytest.raises(StageError, match=r"masks of shape \(2, 5, 64\)"):
        removed(network, Masks(np.ones((2, 5), dtype=bool), np.ones((2, 64), dtype=bool)))
    with pytest.raises(ValueError, match="at least one head"):
        Masks(np.array([[True], [False]]), np.ones((2, 3), dtype=bool))
    for text in ("{", "[]", '{"heads": ["1"], "neurons": ["1"], "shape": [1, 1, 2]}', '{"heads": ["2"]}'):
        (tmp_path / "ticket.json").write_text(text)
        with pytest.raises(MissingError, match="can't be read"):
            Masks.read(tmp_path / "ticket.json")


def test_a_network_with_an_adapter_on_it_is_refused(load_tiny: Load, masks: Masks) -> None:
    network = load_tiny("bert").network
    layer = network.bert.encoder.layer[0].attention.output
    layer.dense = torch.nn.Sequential(layer.dense)
    with pytest.raises(StageError, match="before an adapter is attached"):
        removed(network, masks)


def test_weight_norms_are_those_of_all_weights_of_a_unit(family: str, load_tiny: Load) -> None:
    network = load_tiny(family).network.requires_grad_(False)
    heads, neurons = weight_norms(network)
    parts = parts_of(network)[1]
    rows = [one.weight[8:16] for one in (parts.query, parts.key, parts.value)]
    own = torch.cat([*rows, parts.output.weight[:, 8:16].T]).norm()
    assert heads[1, 1] == pytest.approx(float(own), rel=1e-5)
    both = torch.cat([parts.up.weight[5], parts.down.weight[:, 5]]).norm()
    assert neurons[1, 5] == pytest.approx(float(both), rel=1e-5)
    assert (*heads.shape, neurons.shape[1]) == shape_of(network)
