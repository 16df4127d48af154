"""Self-regularisation (OrthSR, arXiv:2407.08374): stay near what the encoder said before it was tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.regularisers.base import Regulariser

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.training.step import Step


class SelfRegularisation(Regulariser):
    """Keep the text's feature (last hidden state of the first token) close to that of the encoder without its adapter.

    The term is ``weight`` times 1 - cosine, mean over the texts. The paper compares zero-shot predictions of a
    vision-language model; a text classifier has no head before it is tuned, so features are compared (our choice).
    Made for ``adapter: {kind: oft}`` there.
    """

    kind: Literal["self_regularisation"] = "self_regularisation"
    weight: float = Field(1.0, gt=0)

    @property
    def needs_teacher(self) -> bool:
        return True

    def penalty(self, step: Step, companion: Module | None) -> Tensor:  # noqa: ARG002 - it has no weights
        from torch.nn.functional import cosine_similarity

        assert step.hidden is not None
        return self.weight * step.mean(1 - cosine_similarity(step.hidden, step.teacher(), dim=1))
