"""Our own parts for TextAttack: a victim, a transformation, constraints. Import it only inside a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robusweep.attacks import lockstep
from robusweep.attacks.encoder import SentenceEncoder, sentence_encoder
from robusweep.attacks.library import import_textattack
from robusweep.attacks.lockstep import Service
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import synonyms
from robusweep.attacks.stop_words import STOP_WORDS
from robusweep.attacks.tagger import tagger
from robusweep.errors import StageError
from robusweep.examples import Victim

BF16_MARGIN = 0.03  # a bfloat16 cosine closer than this to the threshold is computed again in float32

textattack: Any = import_textattack()
AttackedText = textattack.shared.AttackedText
_is_one_word = textattack.shared.utils.is_one_word
_is_word_swap = textattack.shared.validators.transformation_consists_of_word_swaps


class VictimWrapper(textattack.models.wrappers.ModelWrapper):  # type: ignore[misc]
    """Asks a victim, answers with probabilities, and counts the texts it was given.

    Probabilities are float64: TextAttack would apply a second softmax to rows whose sum is off by 1e-6. ``bf16`` and
    ``device`` are for the sentence encoder of the same attack.
    """

    def __init__(self, *, bf16: bool = False, device: str = "cpu") -> None:
        self.model = None  # TextAttack looks at its class only
        self.victim: Service | None = None
        self.n_texts = 0
        self.bf16, self.device = bf16, device

    def __call__(self, texts: list[str]) -> torch.Tensor:
        if self.victim is None:
            raise RuntimeError("no victim is set")
        self.n_texts += len(texts)
        logits = np.asarray(lockstep.ask(self.victim, texts))
        return torch.softmax(torch.from_numpy(logits).double(), dim=1)


def ask(victim: Victim, texts: Sequence[str]) -> Any:
    """The victim's logits [n_texts, n_classes]. Raises ``StageError`` when it fails or a logit is not finite."""
    try:
        logits = np.asarray(victim(texts), dtype=np.float32)
    except Exception as error:
        raise StageError(f"attack: the victim failed: {type(error).__name__}: {error}") from error
    if logits.ndim != 2 or len(logits) != len(texts):
        raise StageError(f"attack: the victim gave logits of shape {logits.shape} for {len(texts)} texts")
    if not np.isfinite(logits).all():
        worst = texts[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
        raise StageError(f"attack: the victim's logits are not finite for the text {worst[:80]!r}")
    return logits


def untargeted(wrapper: VictimWrapper) -> Any:
    """TextAttack's goal: another class than the label is the likeliest. It hands the victim whole lists."""
    return textattack.goal_functions.UntargetedClassification(wrapper, model_batch_size=4096)


class SynonymSwap(textattack.transformations.WordSwap):  # type: ignore[misc]
    """Swap a word for its WordNet synonyms, as TextAttack's ``WordSwapWordNet`` does, first senses first."""

    def __init__(self, max_candidates: int | None) -> None:
        super().__init__()
        self.max_candidates = max_candidates
        self._known: dict[str, list[str]] = {}

    def _get_replacement_words(self, word: str) -> list[str]:
        if word not in self._known:
            candidates = [name for name in synonyms().of(word) if _is_one_word(name)]
            self._known[word] = candidates[: self.max_candidates]
        return self._known[word]

    def extra_repr_keys(self) -> list[str]:
        return ["max_candidates"]


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


class SamePartOfSpeech(textattack.constraints.Constraint):  # type: ignore[misc]
    """The new word has the old word's universal tag where it stands, or both are nouns or verbs (TextFooler).

    Tags are taken in the original's context: four words before, three after, as TextAttack does.
    """

    def __init__(self) -> None:
        super().__init__(compare_against_original=True)
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
        for i in transformed_text.attack_attrs["newly_modified_indices"]:
            before, after = words[max(0, i - 4) : i], words[i + 1 : i + 4]
            old = self._tag([*before, words[i], *after], len(before))
            new = self._tag([*before, transformed_text.words[i], *after], len(before))
            if old != new and {old, new} != {"NOUN", "VERB"}:
                return False
        return True

    def check_compatibility(self, transformation: Any) -> bool:
        return bool(_is_word_swap(transformation))


class SentenceSimilarity(textattack.constraints.Constraint):  # type: ignore[misc]
    """The cosine of the MiniLM vectors of the original and the perturbed text is at least ``minimum``.

    With a ``window``, that many words around the newest change are compared, in both texts at the same place: a change
    in a long text then counts as much as in a short one, and most windows are met more than once in a search.
    """

    def __init__(self, minimum: float, window: int | None, *, bf16: bool = False, device: str = "cpu") -> None:
        super().__init__(compare_against_original=True)
        self.minimum, self.window = minimum, window
        self._fast, self._exact = sentence_encoder(device, bf16), sentence_encoder(device, False)

    def _check_constraint_many(self, transformed_texts: list[Any], reference_text: Any) -> list[Any]:
        if not transformed_texts:
            return []
        pairs = [self._compared(text, reference_text) for text in transformed_texts]
        cosines = _cosines(self._fast, pairs)
        if self._fast is not self._exact:
            close = np.flatnonzero(np.abs(cosines - self.minimum) < BF16_MARGIN).tolist()
            cosines[close] = _cosines(self._exact, [pairs[i] for i in close])
        kept = []
        for text, cosine in zip(transformed_texts, cosines.tolist(), strict=True):
            text.attack_attrs["similarity_score"] = cosine
            if cosine >= self.minimum:
                kept.append(text)
        return kept

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        return bool(self._check_constraint_many([transformed_text], reference_text))

    def _compared(self, transformed_text: Any, reference_text: Any) -> tuple[str, str]:
        if self.window is None:
            return reference_text.text, transformed_text.text
        place = min(transformed_text.attack_attrs["newly_modified_indices"])
        around = reference_text.text_window_around_index, transformed_text.text_window_around_index
        return around[0](place, self.window), around[1](place, self.window)

    def extra_repr_keys(self) -> list[str]:
        return ["minimum", "window"]


def _cosines(encoder: SentenceEncoder, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """The cosine of each pair of texts."""
    vectors = np.asarray(lockstep.ask(encoder.encode, [text for pair in pairs for text in pair]), dtype=np.float64)
    cosines: NDArray[np.float64] = vectors.reshape(len(pairs), 2, encoder.width).prod(axis=1).sum(axis=1)
    return cosines


class WindowSimilarity(textattack.constraints.semantics.sentence_encoders.SentenceEncoder):  # type: ignore[misc]
    """TextFooler's sentence constraint as TextAttack ships it, with MiniLM where it has the Universal Sentence
    Encoder: angular similarity of 15 words around the change, to the text before the change."""

    def __init__(self) -> None:
        super().__init__(
            threshold=0.840845057,  # 1 - 0.5 / pi, see TextAttack's recipe
            metric="angular",
            compare_against_original=False,
            window_size=15,
            skip_text_shorter_than_window=True,
        )

    def encode(self, sentences: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(lockstep.ask(sentence_encoder("cpu", False).encode, sentences)))


def common_constraints(protocol: Protocol) -> list[Any]:
    """The constraints of a protocol that hold for word- and character-level attacks alike."""
    pre = textattack.constraints.pre_transformation
    if protocol.library_constraints:
        return [pre.RepeatModification(), pre.StopwordModification(stopwords=STOP_WORDS)]
    found: list[Any] = []
    if protocol.no_repeat:
        found.append(pre.RepeatModification())
    if protocol.no_stop_words:
        found.append(NoStopWords())
    if protocol.max_words_changed is not None:
        found.append(MaxChanges(protocol))
    return found


def similarity_constraints(protocol: Protocol, wrapper: VictimWrapper) -> list[Any]:
    """The protocol's sentence similarity, for word-level attacks; none where the protocol asks for none."""
    if protocol.min_similarity is None:
        return []
    window = protocol.similarity_window
    return [SentenceSimilarity(protocol.min_similarity, window, bf16=wrapper.bf16, device=wrapper.device)]
