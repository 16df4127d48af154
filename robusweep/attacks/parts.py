"""Our own parts for TextAttack: a victim, transformations, constraints. Import it only inside a function."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from robusweep.attacks import lockstep
from robusweep.attacks.encoder import sentence_encoder
from robusweep.attacks.library import import_textattack
from robusweep.attacks.lockstep import Service
from robusweep.attacks.native import one_word_synonyms, probabilities
from robusweep.attacks.originals import LanguageModel
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.similarity import Similarity, blocks
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.attacks.tagger import tagger
from robusweep.errors import MissingError, StageError
from robusweep.examples import Gradient, TokenVictim, Victim

textattack: Any = import_textattack()
AttackedText = textattack.shared.AttackedText
_is_word_swap = textattack.shared.validators.transformation_consists_of_word_swaps
TOKEN_SIGNS = ("##", "Ġ", "▁")  # what tokenizers put before a piece


class VictimWrapper(textattack.models.wrappers.ModelWrapper):  # type: ignore[misc]
    """Asks a victim and answers with probabilities. ``white_box``: the same victim in float32, for gradients.

    Probabilities are float64: TextAttack would apply a second softmax to rows whose sum is off by 1e-6. ``bf16`` and
    ``device`` are for the sentence encoder of the same attack.
    """

    max_length = 512  # words that A2T ranks

    def __init__(self, *, bf16: bool = False, device: str = "cpu", white_box: TokenVictim | None = None) -> None:
        self.model = None  # TextAttack looks at its class only
        self.victim: Service | None = None
        self._white_box = white_box
        self.bf16, self.device = bf16, device

    def __call__(self, texts: list[str]) -> torch.Tensor:
        if self.victim is None:
            raise RuntimeError("no victim is set")
        return torch.from_numpy(probabilities(lockstep.ask(self.victim, texts)))

    @property
    def white_box(self) -> TokenVictim:
        """Raises ``StageError`` where the victim can't be looked into."""
        if self._white_box is None:
            raise StageError("attack: this victim gives no gradients, and the attack needs them")
        return self._white_box

    def gradient_of(self, text: str) -> Gradient:
        """The gradient of the loss of the victim's prediction at the word embeddings."""
        found: Gradient = lockstep.ask(self.white_box.gradients, [text])[0]
        return found

    def get_grad(self, text: str) -> dict[str, Any]:
        found = self.gradient_of(text)
        return {"ids": found.ids, "gradient": found.values}

    def _tokenize(self, texts: list[str]) -> list[list[str]]:
        return [list(found.tokens) for found in self.white_box.gradients(texts)]


def ask(victim: Victim, texts: Sequence[Any]) -> Any:
    """The victim's logits [n, n_classes]. Raises ``StageError`` when it fails or a logit is not finite."""
    try:
        logits = np.asarray(victim(texts), dtype=np.float32)
    except Exception as error:
        raise StageError(f"attack: the victim failed: {type(error).__name__}: {error}") from error
    if logits.ndim != 2 or len(logits) != len(texts):
        raise StageError(f"attack: the victim gave logits of shape {logits.shape} for {len(texts)} texts")
    if not np.isfinite(logits).all():
        worst = texts[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
        raise StageError(f"attack: the victim's logits are not finite for the text {str(worst)[:80]!r}")
    return logits


def untargeted(wrapper: VictimWrapper) -> Any:
    """TextAttack's goal: another class than the label is the likeliest. It hands the victim whole lists."""
    return textattack.goal_functions.UntargetedClassification(wrapper, model_batch_size=4096)


# ----------------------------------------------------------------------------------------- transformations
class SynonymSwap(textattack.transformations.WordSwap):  # type: ignore[misc]
    """Swap a word for its WordNet synonyms, as TextAttack's ``WordSwapWordNet`` does, first senses first.

    Or for its neighbours in a file, nearest first, as ``WordSwapEmbedding`` does with vectors.
    """

    def __init__(self, max_candidates: int | None, neighbours: str | None = None) -> None:
        super().__init__()
        self.max_candidates, self.neighbours = max_candidates, neighbours

    def _get_replacement_words(self, word: str) -> list[str]:
        return list(one_word_synonyms(word, self.max_candidates, self.neighbours))

    def extra_repr_keys(self) -> list[str]:
        return ["max_candidates"]


def synonym_swap(protocol: Protocol, most: int | None = None) -> SynonymSwap:
    """Synonyms as many as the attack and the protocol allow."""
    limits = [limit for limit in (most, protocol.max_candidates) if limit is not None]
    return SynonymSwap(min(limits, default=None))


class GradientSwap(SynonymSwap):
    """The synonym swaps with the largest first-order gain in the loss (HotFlip's estimate, at word embeddings).

    A word of several pieces counts with the sum of its pieces' gradients and the mean of their embeddings.
    """

    def __init__(self, wrapper: VictimWrapper, max_candidates: int | None, top: int) -> None:
        super().__init__(max_candidates)
        self.wrapper, self.top = wrapper, top
        self.is_black_box = False

    def _get_transformations(self, current_text: Any, indices_to_modify: Any) -> list[Any]:
        victim, found = self.wrapper.white_box, self.wrapper.gradient_of(current_text.text)
        pieces = _pieces_of_words(current_text.words, found.tokens)
        swaps, gains = [], []
        for i in sorted(indices_to_modify):
            news = self._get_replacement_words(current_text.words[i])
            if not pieces[i] or not news:  # the word lies behind the victim's last token
                continue
            slope = found.values[pieces[i]].sum(axis=0)
            old = victim.embeddings(found.ids[pieces[i]]).mean(axis=0)
            for new, ids in zip(news, victim.pieces([f" {new}" for new in news]), strict=True):
                swaps.append((i, new))
                gains.append(float((victim.embeddings(ids).mean(axis=0) - old) @ slope))
        best = np.argsort(-np.asarray(gains), kind="stable")[: self.top].tolist()
        return [current_text.replace_word_at_index(*swaps[k]) for k in best]


def _pieces_of_words(words: Sequence[str], tokens: Sequence[str]) -> list[list[int]]:
    """For each word the places of its tokens, none where it was cut off; signs between words belong to none."""
    found: list[list[int]] = []
    at = 0
    for word in words:
        rest, mine = word.lower(), []
        for place in range(at, len(tokens)):
            piece = tokens[place].lower()
            for sign in TOKEN_SIGNS:
                piece = piece.removeprefix(sign)
            if piece and rest.startswith(piece):
                mine.append(place)
                rest = rest[len(piece) :]
            elif mine:  # a token in another spelling, such as an unknown one: the word ends here
                break
            if not rest:
                break
        found.append(mine)
        at = mine[-1] + 1 if mine else at
    return found


@contextmanager
def _without_intentional_homoglyphs() -> Iterator[None]:
    """TextAttack's wheel lacks the file of its second list of homoglyphs, which a word swap never looks at."""
    module: Any = import_module("textattack.transformations.word_swaps.word_swap_homoglyph_swap")
    module.open = lambda *_args, **_named: io.StringIO("")
    try:
        yield
    finally:
        del module.open


def homoglyph_swap() -> Any:
    """TextAttack's swap of one letter for one that looks like it."""
    with _without_intentional_homoglyphs():
        return textattack.transformations.WordSwapHomoglyphSwap()


def masked_swap(model: LanguageModel, *, method: Literal["bae", "bert-attack"], most: int) -> Any:
    """TextAttack's swap for what a masked language model puts in a word's place."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = model.folder()
    if folder is None:
        raise MissingError(str(model.missing()))
    return textattack.transformations.WordSwapMaskedLM(
        method=method,
        masked_language_model=AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True),
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True),
        max_candidates=most,
        min_confidence=0.0 if method == "bae" else 5e-4,
    )


# --------------------------------------------------------------------------------------------- constraints
class NoStopWords(textattack.constraints.PreTransformationConstraint):  # type: ignore[misc]
    """Stop words in upper or lower case stay as they are."""

    def _get_modifiable_indices(self, current_text: Any) -> set[int]:
        return {i for i, word in enumerate(current_text.words) if word.lower() not in STOP_WORDS}


class MaxChanges(textattack.constraints.PreTransformationConstraint):  # type: ignore[misc]
    """No further word changes once the protocol's share of the original words has changed."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def _get_modifiable_indices(self, current_text: Any) -> set[int]:
        attributes = current_text.attack_attrs
        spent = len(attributes["modified_indices"]) >= self._protocol.max_changes(len(attributes["original_index_map"]))
        return set() if spent else set(range(current_text.num_words))


class WithinChanges(textattack.constraints.Constraint):  # type: ignore[misc]
    """At most the protocol's share of words has changed; for searches that combine texts, too."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(compare_against_original=True)
        self._protocol = protocol

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        n_changed = len(transformed_text.attack_attrs["modified_indices"])
        return n_changed <= self._protocol.max_changes(reference_text.num_words)


class SamePartOfSpeech(textattack.constraints.Constraint):  # type: ignore[misc]
    """The new word has the old word's universal tag where it stands; with ``nouns_for_verbs`` these two may mix.

    Tags are taken in the original's context: four words before, three after, as TextAttack does.
    """

    def __init__(self, *, nouns_for_verbs: bool = False) -> None:
        super().__init__(compare_against_original=True)
        self.nouns_for_verbs = nouns_for_verbs
        self._tags: dict[tuple[tuple[str, ...], int], str] = {}

    def clear_cache(self) -> None:
        self._tags.clear()

    def _tag(self, words: list[str], position: int) -> str:
        key = (tuple(words), position)
        if key not in self._tags:
            self._tags[key] = tagger().tag_at(words, position)
        return self._tags[key]

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        words = reference_text.words
        if transformed_text.num_words != len(words):
            return True  # one word became several: there is no word to compare
        for i in transformed_text.attack_attrs["newly_modified_indices"]:
            before, after = words[max(0, i - 4) : i], words[i + 1 : i + 4]
            old = self._tag([*before, words[i], *after], len(before))
            new = self._tag([*before, transformed_text.words[i], *after], len(before))
            if old != new and not (self.nouns_for_verbs and {old, new} == {"NOUN", "VERB"}):
                return False
        return True

    def check_compatibility(self, transformation: Any) -> bool:
        return bool(_is_word_swap(transformation))


class SentenceSimilarity(textattack.constraints.Constraint):  # type: ignore[misc]
    """Every block of the original that holds a change is as similar to the new text's as the protocol asks.

    A change in a long text then counts as much as in a short one, whatever the order of changes, and a new change needs
    one block to be looked at.
    """

    def __init__(self, minimum: float, block: int | None, *, bf16: bool = False, device: str = "cpu") -> None:
        super().__init__(compare_against_original=True)
        self._similarity = Similarity(minimum, block, bf16=bf16, device=device)

    def _check_constraint_many(self, transformed_texts: list[Any], reference_text: Any) -> list[Any]:
        pairs = [self._compared(text, reference_text) for text in transformed_texts]
        cosines = iter(self._similarity.of([pair for around in pairs for pair in around]).tolist())
        kept = []
        for text, around in zip(transformed_texts, pairs, strict=True):
            lowest = min([next(cosines) for _ in around], default=1.0)
            text.attack_attrs["similarity_score"] = lowest
            if lowest >= self._similarity.minimum:
                kept.append(text)
        return kept

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        return bool(self._check_constraint_many([transformed_text], reference_text))

    def _compared(self, transformed_text: Any, reference_text: Any) -> list[tuple[str, str]]:
        """Each changed block, in the original and in the new text."""
        places = transformed_text.attack_attrs["original_index_map"]
        n_old, n_new = reference_text.num_words, transformed_text.num_words
        changed = {_origin(places, place) for place in transformed_text.attack_attrs["modified_indices"]}
        firsts = [*blocks(n_old, self._similarity.block), n_old]
        found = []
        for first, end in pairwise(firsts):
            if changed.isdisjoint(range(first, end)):
                continue
            now = [place for place in places[first:end].tolist() if place >= 0]
            behind = places[end:][places[end:] >= 0]
            last = int(behind[0]) - 1 if len(behind) else n_new - 1  # words that were split off belong to the block
            new = _span(transformed_text, now[0], last) if now and last >= now[0] else ""
            found.append((_span(reference_text, first, end - 1), new))
        return found


def _origin(places: Any, place: int) -> int:
    """The word of the original that a word of the new text came from; ``places`` maps the other way, -1 if deleted."""
    return int(np.flatnonzero((places >= 0) & (places <= place))[-1:].sum())


def _span(text: Any, first: int, last: int) -> str:
    """From the begin of one word to the end of another."""
    begin = text._text_index_of_word_index(first)
    found: str = text.text[begin : text._text_index_of_word_index(last) + len(text.words[last])]
    return found


class WindowSimilarity(textattack.constraints.semantics.sentence_encoders.SentenceEncoder):  # type: ignore[misc]
    """A sentence constraint of TextAttack's, with MiniLM where it has the Universal Sentence Encoder or another."""

    def encode(self, sentences: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(lockstep.ask(sentence_encoder("cpu", False).encode, sentences)))


def common_constraints(protocol: Protocol, *, repeat: bool = False) -> list[Any]:
    """The constraints of a protocol that hold for attacks of every level.

    ``repeat``: under its own constraints the attack may change a word more than once.
    """
    pre = textattack.constraints.pre_transformation
    if protocol.library_constraints:
        stop_words = pre.StopwordModification(stopwords=STOP_WORDS)
        return [stop_words] if repeat else [pre.RepeatModification(), stop_words]
    found: list[Any] = []
    if protocol.no_repeat:
        found.append(pre.RepeatModification())
    if protocol.no_stop_words:
        found.append(NoStopWords())
    if protocol.max_words_changed is not None:
        found += [MaxChanges(protocol), WithinChanges(protocol)]
    return found


def meaning_constraints(protocol: Protocol, wrapper: VictimWrapper, *, library: Sequence[Any] = ()) -> list[Any]:
    """What a protocol asks of swapped words: part of speech, similarity. ``library``: the attack's own, under its own
    constraints."""
    if protocol.library_constraints:
        return list(library)
    found: list[Any] = [SamePartOfSpeech()] if protocol.same_part_of_speech else []
    if protocol.min_similarity is not None:
        block = protocol.similarity_block
        found.append(SentenceSimilarity(protocol.min_similarity, block, bf16=wrapper.bf16, device=wrapper.device))
    return found


def under_protocol(shipped: Any, protocol: Protocol, wrapper: VictimWrapper, level: str) -> Any:
    """A recipe of TextAttack's under a protocol: its stop words, repetition rule and sentence encoders are replaced."""
    pre = textattack.constraints.pre_transformation
    encoders = textattack.constraints.semantics.sentence_encoders.SentenceEncoder
    replaced = (pre.RepeatModification, pre.StopwordModification, encoders)
    own = [c for c in [*shipped.pre_transformation_constraints, *shipped.constraints] if not isinstance(c, replaced)]
    meaning = meaning_constraints(protocol, wrapper) if level != "char" else []
    return textattack.Attack(
        untargeted(wrapper),
        [*common_constraints(protocol), *own, *meaning],
        shipped.transformation,
        shipped.search_method,
    )
