"""RIFT (Dong et al., NeurIPS 2021, arXiv:2112.11668; repository RIFT-NeurIPS2021): keep what pre-training knew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.regularisers.base import Regulariser

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from robusweep.training.step import Step


class Rift(Regulariser):
    """Keep what the encoder without its adapter tells about a text beyond its class, under attack, too.

    The term is ``weight`` times InfoNCE: the feature of each clean text without the adapter and without dropout has to
    find that text's own feature, of the pass that learns, among those of the same class in the batch. It is the mean
    over the classes in the batch. Both go through two-layer projections of the class's own (``projection_hidden`` and
    ``projection_size`` wide, trained in float32 at the method's learning rate and dropped afterwards); similarity is
    their cosine over ``temperature``.
    A text that is alone in its class adds 0: the authors build class-balanced batches, ours are not, so take batches
    of several texts for each class. ``accumulate`` compares within each part. The authors' feature is BERT's pooled
    output; ours is the last hidden state of the first token, which every family has. Their clean cross-entropy and
    KL terms are the training method's business; their weight is 0.1 on IMDB and 0.7 on SNLI.
    """

    kind: Literal["rift"] = "rift"
    weight: float = Field(0.1, gt=0)
    temperature: float = Field(0.2, gt=0)
    projection_hidden: int = Field(512, ge=1, le=8192)
    projection_size: int = Field(256, ge=1, le=8192)

    @property
    def needs_teacher(self) -> bool:
        return True

    def companion(self, *, hidden_size: int, n_classes: int, seed: int) -> Module:
        from robusweep.training.regularisers.projection import Projections

        return Projections(hidden_size, n_classes, inner=self.projection_hidden, outer=self.projection_size, seed=seed)

    def penalty(self, step: Step, companion: Module | None) -> Tensor:
        from robusweep.training.regularisers.projection import Projections

        assert step.hidden is not None
        assert isinstance(companion, Projections)
        return self.weight * companion.contrast(
            step.hidden, step.teacher(), step.labels, temperature=self.temperature, weights=step.weights
        )
