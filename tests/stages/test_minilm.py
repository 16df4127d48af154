"""Every training method on the embedded MiniLM, with its own tokenizer and WordNet's synonyms."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
from test_method_laws import METHODS, OWN

from robusweep.adapters import Lora

TEXTS = {
    "a warm and funny film about an old friendship": 1,
    "the plot is thin and the jokes are tired": 0,
    "great actors in a moving story": 1,
    "dull": 0,
}


@pytest.fixture(scope="module")
def minilm() -> Any:
    from robusweep.model import BaseEncoder, load

    return load(BaseEncoder(max_tokens=32), ("bad", "good"), seed=0, device="cpu")


@pytest.mark.parametrize("kind", sorted(METHODS))
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_every_method_trains_minilm(kind: str, bf16: bool, minilm: Any) -> None:
    from lending import Lending

    from robusweep.attacks.resources import synonyms
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    base = replace(minilm, network=copy.deepcopy(minilm.network))
    texts, labels = list(TEXTS), list(TEXTS.values())
    words = {word for text in texts for word in text.split()}
    lent = Lending(base, {word: synonyms().of(word)[:4] for word in words})
    lent.continues = lambda: {i for token, i in base.tokenizer.get_vocab().items() if token.startswith("##")}  # type: ignore[method-assign]
    adapter = Lora(rank=2)
    network = adapter.attach(base.network, head=head_names(base.network), seed=0)
    before = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    fields: dict[str, Any] = {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-3}
    method: Any = METHODS[kind].model_validate(OWN.get(kind, {}) | fields)
    fitted = fit(
        network, method, base.tokens(texts), labels, pad_id=base.pad_id, seed=0, bf16=bf16, texts=texts, lent=lent
    )
    assert math.isfinite(fitted.final_loss)
    assert any(not network.get_parameter(name).equal(value) for name, value in before.items())
