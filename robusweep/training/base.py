"""What every training method offers: fields of the optimiser, and the gradient of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import Field, model_validator

from robusweep.errors import StageError
from robusweep.spec import Spec
from robusweep.training.regularisers import AnyRegulariser
from robusweep.training.updates import AnyUpdate

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.training.step import Step


class Lent(Protocol):
    """What a trial lends to training: abilities that other stages own."""

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, not padded."""

    def synonyms(self, word: str) -> list[str]:
        """Words that may stand for this one, the likeliest first; none for a word that the lexicon lacks."""

    def whole_words(self) -> dict[int, str]:
        """Token id -> the word that this token is, for every token that is a whole word by itself."""

    def continues(self) -> set[int]:
        """The ids of tokens that go on with the word before them."""

    def attacked(
        self, examples: Sequence[tuple[str, int]], *, network: Module | None, attack: str, n_queries: int, seed: int
    ) -> list[str | None]:
        """For each (text, label) the text with which this attack turns the network's right answer wrong, or None.

        ``network`` is attacked as it stands now, without dropout, and is left as it was; None is the one that the
        method's ``reference`` has trained. ``n_queries`` bounds the queries for each text.
        """


@dataclass(frozen=True)
class Setting:
    """What a method may look at before a run and between its epochs. ``texts`` and ``lent`` are None in bare runs."""

    network: Module
    tokens: Sequence[Sequence[int]]
    labels: Sequence[int]
    seed: int
    texts: Sequence[str] | None = None
    lent: Lent | None = None

    def lexicon(self, kind: str) -> tuple[Sequence[str], Lent]:
        """(texts, what is lent). Raises ``StageError`` in a bare run: this method can't do without."""
        if self.texts is None or self.lent is None:
            raise StageError(f"train {kind}: needs the texts and a lexicon, and only token ids are given")
        return self.texts, self.lent


@dataclass(frozen=True)
class Extra:
    """One more text of an epoch. ``weight`` is what its cross-entropy counts beside a clean text's 1."""

    ids: list[int]
    label: int
    weight: float = 1.0


class TrainingMethod(Spec, ABC):
    """How one adapter is trained: AdamW, linear warm-up and decay, length-grouped batches.

    ``learning_rate`` is the peak; ``warmup`` the fraction of all steps until it is reached. ``weight_decay`` is
    decoupled (AdamW). Gradients are clipped to the L2 length ``max_grad_norm``; null does not clip. ``accumulate``
    computes a batch in so many parts: memory changes, the gradient does not. ``patience`` stops after so many epochs
    without a better validation accuracy and keeps the best epoch's weights; null trains all epochs and keeps the last.
    ``regularisers`` add to the loss of every pass that learns; ``update`` changes which weights a step moves, or how.
    """

    kind: str
    n_epochs: int = Field(3, ge=1, le=1000)
    learning_rate: float = Field(5e-4, gt=0, le=1)
    batch_size: int = Field(16, ge=1, le=4096)
    accumulate: int = Field(1, ge=1, le=1024)
    weight_decay: float = Field(0.0, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    patience: int | None = Field(None, ge=1)
    regularisers: list[AnyRegulariser] = []
    update: AnyUpdate | None = None

    @model_validator(mode="after")
    def _distinct(self) -> TrainingMethod:
        kinds = [regulariser.kind for regulariser in self.regularisers]
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"regularisers: one is listed twice ({', '.join(kinds)})")
        if self.update is not None and self.update.kind == "last" and self.searches_from_predictions:
            raise ValueError("update: last learns at other weights than it searches at, and this method compares both")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: {self.accumulate} parts of a batch of {self.batch_size} examples")
        return self

    @property
    def needs_adapter(self) -> str | None:
        """The key that asks for an adapter which can be switched off, or None."""
        return next((f"regularisers.{i}" for i, r in enumerate(self.regularisers) if r.needs_teacher), None)

    @property
    def needs_masks(self) -> bool:
        """Whether attention must take a mask of its own for every query and key."""
        return False

    @property
    def needs_dropout(self) -> bool:
        """Whether the method does nothing of its own without dropout."""
        return False

    @property
    def searches_from_predictions(self) -> bool:
        """Whether the search compares with the prediction of a pass that learns: both must use the same weights."""
        return False

    @property
    def needs_float32(self) -> bool:
        """Whether bfloat16 would round away what the method does."""
        return False

    @property
    def attacks_with(self) -> list[str]:
        """The attacks whose texts this method trains on."""
        return []

    @property
    def reference(self) -> TrainingMethod | None:
        """What a network is trained with that this method attacks before it trains its own, if there is one."""
        return None

    @property
    def needs_lexicon(self) -> bool:
        """Whether it asks for synonyms."""
        return False

    @property
    def more_texts(self) -> float:
        """Texts of its own that an epoch holds at most, for each given one."""
        return 0.0

    @property
    def n_rounds(self) -> int:
        """How often such texts are made in a run."""
        return 1

    @property
    def leaves_out_given(self) -> bool:
        """Whether an epoch holds the method's own texts alone."""
        return False

    def companion(self, setting: Setting) -> Module | None:  # noqa: ARG002 - most have none
        """Weights and tables of the method's own: trained with the network, saved with it, never part of it."""
        return None

    def extras(self, setting: Setting, epoch: int) -> list[Extra] | None:  # noqa: ARG002 - most have none
        """More texts from this epoch on; None keeps those of the epoch before."""
        return None

    @abstractmethod
    def backward(self, step: Step) -> float:
        """Leave the gradient of this batch's loss in the trainable parameters; return the loss (mean per example)."""
