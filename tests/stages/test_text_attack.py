from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lending import Lending
from pydantic import ValidationError

from robusweep.adapters import Full, Lora
from robusweep.training import Standard, TrainingMethod
from robusweep.training.text_attack import TextAttackTraining

Load = Callable[..., Any]
TEXTS = [f"{'good' if i % 2 else 'bad'} w{i % 9} w{i + 20}" for i in range(40)]
LABELS = [i % 2 for i in range(40)]
FEW: dict[str, Any] = {"n_epochs": 3, "batch_size": 8}


def train(base: Any, method: TrainingMethod, lent: Lending, **options: Any) -> tuple[dict[str, Any], Any]:
    from robusweep.model import head_names
    from robusweep.training.loop import fit

    adapter = Lora(rank=2)
    network = adapter.attach(base.network, head=head_names(base.network), seed=0)
    fields = {"pad_id": 1, "seed": 0, "bf16": False, "texts": TEXTS, "lent": lent}
    fitted = fit(network, method, base.tokens(TEXTS), LABELS, **(fields | options))
    return adapter.extract(network), fitted


def test_no_share_is_standard_training_bit_for_bit(load_tiny: Load) -> None:
    base = load_tiny(dropout=0.1)
    lent = Lending(base)
    zero, _ = train(base, TextAttackTraining(share=0.0, **FEW), lent)
    assert lent.asked == []
    plain, _ = train(load_tiny(dropout=0.1), Standard(**FEW), lent)
    some, _ = train(load_tiny(dropout=0.1), TextAttackTraining(**FEW), lent)
    assert all(plain[name].equal(zero[name]) for name in plain)
    assert not all(plain[name].equal(some[name]) for name in plain)


@pytest.mark.parametrize(
    ("clean", "every", "epochs"), [(1, 1, [1, 2, 3, 4]), (1, 2, [1, 3]), (2, 5, [2]), (0, 3, [0, 3])]
)
def test_texts_are_found_anew_every_so_many_epochs_and_kept_in_between(
    clean: int, every: int, epochs: list[int], load_tiny: Load
) -> None:
    base = load_tiny()
    lent = Lending(base)
    steps: list[float] = []
    method = TextAttackTraining(n_epochs=5, batch_size=8, clean_epochs=clean, every=every)
    _, fitted = train(base, method, lent, on_step=steps.append)
    n_steps = [sum(epoch < 5 * step - 1e-9 <= epoch + 1 for step in steps) for epoch in range(5)]
    assert n_steps == [5] * clean + [6] * (5 - clean)  # 40 clean texts, then 8 more
    assert fitted.n_steps == sum(n_steps)
    assert len(lent.asked) == len(epochs) == method.n_rounds


def test_the_network_is_attacked_as_it_stands_and_without_dropout(load_tiny: Load) -> None:
    base = load_tiny(dropout=0.1)
    lent = Lending(base)
    method = TextAttackTraining(attack="pwws", n_queries=33, **FEW)
    final, _ = train(base, method, lent)
    assert [a["training"] for a in lent.asked] == [False, False]
    assert {(a["attack"], a["n_queries"]) for a in lent.asked} == {("pwws", 33)}
    one, other = (a["weights"] for a in lent.asked)
    assert len(one) == len(final)
    assert not any(a.equal(b) for a, b in zip(one, other, strict=True))
    plain, _ = train(load_tiny(dropout=0.1), Standard(**FEW), lent)
    assert not any(w.equal(plain[name]) for w, name in zip(other, plain, strict=True))
    orders = [[text for text, _ in a["examples"]] for a in lent.asked]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("share", "most"), [(0.19, 7), (0.2, 8), (0.5, 20), (1.0, 20)])
def test_so_many_successes_are_added_at_most_with_their_labels(share: float, most: int, load_tiny: Load) -> None:
    from robusweep.training.base import Setting

    base = load_tiny()
    lent = Lending(base, turns=lambda text: text.startswith("bad"))
    setting = Setting(base.network, base.tokens(TEXTS), LABELS, seed=5, texts=TEXTS, lent=lent)
    method = TextAttackTraining(share=share, loss_weight=0.5)
    extras = method.extras(setting, 1)
    assert extras is not None
    assert len(extras) == most <= share * len(TEXTS)
    assert all(extra.label == 0 and extra.weight == 0.5 for extra in extras)
    assert len({tuple(extra.ids) for extra in extras}) == most
    assert method.extras(setting, 0) is None


@pytest.mark.parametrize("clean", [3, 4])
def test_a_run_in_which_no_text_would_ever_be_attacked_is_refused(clean: int) -> None:
    with pytest.raises(ValidationError, match=f"clean_epochs: {clean} of 3 epochs are clean"):
        TextAttackTraining(n_epochs=3, clean_epochs=clean)


def test_a_run_that_was_cut_ends_as_if_it_had_not_been_and_attacks_no_more_than_it(
    load_tiny: Load, tmp_path: Path
) -> None:
    from robusweep.training.checkpoint import Checkpoint

    class KilledError(Exception):
        pass

    def die(progress: float) -> None:
        if progress > 0.8:  # in the last epoch, whose texts are from its begin
            raise KilledError

    method = TextAttackTraining(n_epochs=3, batch_size=8, patience=3)
    validation = (load_tiny().tokens(TEXTS), LABELS)
    whole_lent, cut_lent = Lending(load_tiny()), Lending(load_tiny())
    whole, uncut = train(load_tiny(dropout=0.1), method, whole_lent, validation=validation)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        train(load_tiny(dropout=0.1), method, cut_lent, validation=validation, on_step=die,
              checkpoint=Checkpoint(path, "k", seconds=0))  # fmt: skip
    rest, fitted = train(
        load_tiny(dropout=0.1), method, cut_lent, validation=validation, checkpoint=Checkpoint(path, "k", seconds=0)
    )
    assert all(whole[name].equal(rest[name]) for name in whole)
    assert (fitted.n_steps, fitted.final_loss) == (uncut.n_steps, uncut.final_loss)
    assert len(cut_lent.asked) == len(whole_lent.asked) == 2


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2)], ids=["full", "lora"])
def test_a2t_changes_few_words_for_ones_of_the_same_part_of_speech_and_keeps_labels(
    adapter: Full | Lora, tiny: Path, classifier: Path, tmp_path: Path
) -> None:
    from robusweep.attacks import PROTOCOLS, attack_kinds
    from robusweep.attacks.evaluation import Terms
    from robusweep.attacks.tagger import tagger
    from robusweep.cache import Cache
    from robusweep.lent import Lender
    from robusweep.model import head_names, load_classifier
    from robusweep.training.base import Setting

    base = load_classifier(str(classifier), device="cpu")
    network = adapter.attach(copy.deepcopy(base.network), head=head_names(base.network), seed=0)
    protocol = PROTOCOLS["standard_v1"]
    lent = Lender(
        base, identity="tiny", adapter=adapter, cache=Cache(tmp_path),
        attacks=lambda kind: attack_kinds()[kind].model_validate({"kind": kind}),
        terms=Terms(protocol, seed=0, bf16=False, device="cpu"),
    )  # fmt: skip
    with (tiny / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:40]
    texts = [row["text"] for row in rows]
    labels = [int(row["label"] == "good") for row in rows]
    setting = Setting(network, base.tokens(texts), labels, seed=0, texts=texts, lent=lent)
    found: list[tuple[str, str, int]] = []
    plain = Lender.attacked

    def watched(self: Lender, examples: Any, **options: Any) -> Any:
        news = plain(self, examples, **options)
        found.extend((old, new, label) for (old, label), new in zip(examples, news, strict=True) if new)
        return news

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lender, "attacked", watched)
        extras = TextAttackTraining(share=0.2).extras(setting, 1)
    assert extras is not None
    assert 4 <= len(extras) <= 0.2 * len(texts)
    kept = found[: len(extras)]
    assert [extra.ids for extra in extras] == base.tokens([new for _, new, _ in kept])
    assert [extra.label for extra in extras] == [label for _, _, label in kept]
    for old, new, label in kept:
        assert labels[texts.index(old)] == label
        before, after = old.split(), new.split()
        places = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert 1 <= len(places) <= min(max(4, len(before) // 10), protocol.max_changes(len(before)))
        for i in places:
            tags = {tagger().tag_at([*before[:i], word, *before[i + 1 :]], i) for word in (before[i], after[i])}
            assert len(tags) == 1
