"""A network that has lost units, of every family, loaded by the code that its folder brings, and as ONNX."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robusweep.adapters import Lora
from robusweep.mixing import Fixed
from robusweep.model import TextModel, head_names, victim
from robusweep.onnx_folder import onnx_logits, write_onnx
from robusweep.shipping import code_in, opened, write_system
from robusweep.tickets.masks import Masks
from robusweep.tickets.removal import removed

Load = Callable[..., TextModel]
FAMILIES = ("bert", "roberta", "distilbert", "electra")
TEXTS = ["good", "bad w1 w2 w3 w4 w5 w6 w7", "w8 w9 good w10", *(f"w{i} bad" for i in range(20)), ""]


@pytest.fixture
def masks() -> Masks:
    """Layers that keep 3 and 2 of 4 heads, and different numbers of 64 neurons."""
    neurons = np.random.default_rng(0).random((2, 64)) < [[0.8], [0.4]]
    return Masks(np.array([[True, False, True, True], [False, True, False, True]]), neurons)


@pytest.fixture
def small(family: str, load_tiny: Load, masks: Masks) -> tuple[TextModel, Fixed]:
    """(the base without what the masks drop, the system on it: some of its parameters are others)."""
    whole = load_tiny(family, max_tokens=32)
    network: Any = removed(whole.network, masks)
    rng = torch.Generator().manual_seed(0)
    own = dict(network.named_parameters())
    changed = [*head_names(network), next(name for name in own if name.endswith(("query.weight", "q_lin.weight")))]
    moved = {name: own[name].detach() + 0.1 * torch.randn(own[name].shape, generator=rng) for name in changed}
    return replace(whole, network=network), Fixed(moved)


def test_the_code_in_the_folder_builds_the_network_of_each_family(
    small: tuple[TextModel, Fixed], masks: Masks, tmp_path: Path
) -> None:
    base, system = small
    expected = victim(base, system.parameters, precision="fp32")(TEXTS)
    assert np.abs(expected - victim(base, {}, precision="fp32")(TEXTS)).max() > 0.1
    write_system(tmp_path / "model", system, base, Lora(), temperature=None, masks=masks)
    code = code_in(tmp_path / "model")
    assert code.rebuilt.__module__.startswith("robusweep_model"), "it is the folder's own"
    loaded = code.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.logits(TEXTS)[0].numpy(), expected, atol=1e-6, rtol=1e-6)
    n = sum(parameter.numel() for parameter in base.network.parameters())
    assert sum(parameter.numel() for parameter in loaded.network.parameters()) == n
    model, read, _ = opened(str(tmp_path / "model"), device="cpu")
    assert (model.max_tokens, model.label_names) == (32, ("a", "b"))
    assert isinstance(read, Fixed)
    np.testing.assert_allclose(victim(model, read.parameters, precision="fp32")(TEXTS), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.slow  # test_ticket_export asks such a process about a BERT
@pytest.mark.parametrize("family", ["distilbert"])
def test_a_distilbert_answers_in_a_process_without_robusweep(
    small: tuple[TextModel, Fixed], masks: Masks, tmp_path: Path
) -> None:
    base, system = small
    write_system(tmp_path / "model", system, base, Lora(), temperature=None, masks=masks)
    code = (
        "import json, sys\n"
        "sys.modules['robusweep'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from robusweep_model import load\n"
        "print(json.dumps(load(sys.argv[1]).logits(json.loads(sys.argv[2]))[0].tolist()))\n"
    )
    asked = [sys.executable, "-c", code, str(tmp_path / "model"), json.dumps(TEXTS)]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    expected = victim(base, system.parameters, precision="fp32")(TEXTS)
    np.testing.assert_allclose(json.loads(ended.stdout), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "family", [f if f == FAMILIES[0] else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_onnx_takes_the_smaller_network_of_each_family(
    small: tuple[TextModel, Fixed], masks: Masks, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    import onnx

    base, system = small
    network = write_system(tmp_path / "model", system, base, Lora(), temperature=None, masks=masks)
    folder = write_onnx(tmp_path / "onnx", tmp_path / "model/base", network)
    expected = victim(base, system.parameters, precision="fp32")(TEXTS)
    np.testing.assert_allclose(onnx_logits(folder, TEXTS), expected, atol=1e-5, rtol=1e-5)
    maps = [t for t in onnx.load(folder / "model.onnx").graph.initializer if "embeddings" not in t.name]
    sizes = {tuple(sorted(tensor.dims)) for tensor in maps}
    assert {(16, 32), tuple(sorted((32, int(masks.neurons[0].sum()))))} <= sizes
    assert (32, 64) not in sizes, "no whole feed-forward map is left"
