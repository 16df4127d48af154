"""What a trial lends to training of the stages that training may not know: token ids, synonyms, attacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from robusweep import model as model_stage
from robusweep.adapters import Adapter
from robusweep.attacks import Attack, run_attack
from robusweep.attacks.evaluation import ATTACK_CODE, Terms
from robusweep.attacks.neighbours import in_case_of
from robusweep.attacks.resources import WORDNET
from robusweep.attacks.resources import synonyms as wordnet
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.cache import Cache
from robusweep.examples import Example
from robusweep.model import TextModel
from robusweep.spec import digest_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LEXICON_CODE = 1  # raise it when the same word would get other synonyms, or the same token another word
ONE_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
SIGNS = {"##": False, "Ġ": True, "▁": True}  # sign before a piece: whether it stands before pieces that begin a word


def _nothing(_what: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Lender:
    """Implements ``training.base.Lent`` with a model, WordNet and the attacks.

    ``attacks`` makes an attack of its kind; ``identity`` is the base model's. ``reference``: the folded parameters of
    the network that a method's ``reference`` has trained.
    """

    base: TextModel
    identity: str
    adapter: Adapter
    attacks: Callable[[str], Attack]
    terms: Terms
    cache: Cache
    reference: Mapping[str, Tensor] | None = None
    say: Callable[[str], None] = _nothing

    # ------------------------------------------------------------------------------------------- tokens
    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.base.tokens(texts)

    def whole_words(self) -> dict[int, str]:
        """English words in letters only; of a vocabulary with word beginnings marked, the marked ones."""
        begins = {i: piece for i, (piece, begins) in self._pieces().items() if begins}
        return {i: piece for i, piece in begins.items() if piece.isascii() and piece.isalpha()}

    def continues(self) -> set[int]:
        """Signs go on with no word, whether the vocabulary marks them or not."""
        pieces = self._pieces().items()
        return {i for i, (piece, begins) in pieces if not begins and piece.lstrip("'’")[:1].isalnum()}

    def _pieces(self) -> dict[int, tuple[str, bool]]:
        """Token id -> (its text without the sign, whether it begins a word), special tokens left out."""
        vocabulary = self.base.tokenizer.get_vocab()
        counts = {sign: sum(token.startswith(sign) for token in vocabulary) for sign in SIGNS}
        sign = max(SIGNS, key=lambda sign: counts[sign])
        special = set(self.base.tokenizer.all_special_ids)
        return {
            i: (token.removeprefix(sign), token.startswith(sign) == SIGNS[sign])
            for token, i in vocabulary.items()
            if i not in special
        }

    # ----------------------------------------------------------------------------------------- synonyms
    def synonyms(self, word: str) -> list[str]:
        """WordNet's, first senses first, in the word's own case; single words of letters. Stop words have none."""
        return list(_synonyms(word))

    # ------------------------------------------------------------------------------------------ attacks
    def attacked(
        self, examples: Sequence[tuple[str, int]], *, network: Module | None, attack: str, n_queries: int, seed: int
    ) -> list[str | None]:
        """The network's weights are read, and a copy is attacked: modes, gradients, generators stay as they are.

        Outcomes are kept in the cache one by one, so that a run that was cut attacks no text again.
        """
        if network is None:
            assert self.reference is not None
            parameters = self.reference
        else:
            frozen = dict(self.base.network.named_parameters())
            parameters = self.adapter.fold(frozen, self.adapter.extract(network))
        given = [Example(text, label) for text, label in examples]
        outcomes = self._outcomes(parameters, self.attacks(attack), given, n_queries=n_queries, seed=seed)
        n_broken = sum(outcome.status == "broken" for outcome in outcomes)
        self.say(f"{attack} turned {n_broken} of {len(given)} training texts")
        return [
            outcome.perturbed_text if outcome.status == "broken" and outcome.label == example.label else None
            for outcome, example in zip(outcomes, given, strict=True)
        ]

    def _outcomes(
        self,
        parameters: Mapping[str, Tensor],
        attack: Attack,
        examples: Sequence[Example],
        *,
        n_queries: int,
        seed: int,
    ) -> list[Any]:
        terms = self.terms
        protocol = terms.protocol.changed({"query_budget": n_queries})
        key = {
            "code": ATTACK_CODE,
            "victim": model_stage.network_digest(self.identity, parameters, self.base.max_tokens),
            "temperature": None,
            "attack": attack.identity(protocol),
            "protocol": protocol.model_dump(mode="json"),
            "seed": seed,
        }
        fast, exact = model_stage.victims(self.base, parameters, bf16=terms.bf16)
        with self.cache.outcomes(key | terms.hardware) as log:
            return run_attack(
                attack,
                victim=fast,
                exact=exact,
                examples=examples,
                protocol=protocol,
                seed=seed,
                done=dict(log.done),
                on_outcome=log.append,
                bf16=terms.bf16,
                device=terms.device,
            )


@lru_cache(2**16)
def _synonyms(word: str) -> tuple[str, ...]:
    if word.lower() in STOP_WORDS:
        return ()
    names = [in_case_of(word, name) for name in wordnet().of(word) if ONE_WORD.fullmatch(name)]
    return tuple(name for name in dict.fromkeys(names) if name != word)


def lexicon_identity() -> dict[str, Any]:
    """What decides synonyms. Raises ``MissingError`` when WordNet is not here."""
    return {"code": LEXICON_CODE, "wordnet": WORDNET.identity(), "stop_words": digest_of(sorted(STOP_WORDS))}
