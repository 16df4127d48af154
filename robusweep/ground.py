"""What every stage of one trial stands on, and the evaluation of a system on that ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robusweep import defended
from robusweep.attacks.evaluation import Evaluation, Terms
from robusweep.cache import Cache
from robusweep.examples import Dataset
from robusweep.mixing import System
from robusweep.model import TextModel
from robusweep.progress import Progress
from robusweep.queries import ANSWERS, QueryMemory
from robusweep.recipe import Recipe
from robusweep.spec import digest_of

if TYPE_CHECKING:
    from robusweep.model import ModelVictim


@dataclass(frozen=True)
class Ground:
    """The recipe, the data, the base model as adapters are put on it, and where results go."""

    recipe: Recipe
    dataset: Dataset
    base: TextModel
    base_identity: str
    bf16: bool
    cache: Cache
    progress: Progress
    folder: Path

    @property
    def terms(self) -> Terms:
        return Terms(self.recipe.attacks.constraints, self.recipe.seed, self.bf16, self.base.device)

    def memory(self, digest: str, precision: str) -> QueryMemory:
        """What a system of this digest has answered before, on disk."""
        name = digest_of({"code": ANSWERS, "victim": digest, "precision": precision, **self.terms.hardware})
        return QueryMemory(self.cache.root / "queries" / f"{name}.bin")

    def evaluation(self, system: System) -> tuple[Evaluation, ModelVictim, str]:
        """(the system ready to be attacked, its victim in float32, its digest).

        Clean accuracy is on validation, the temperature from calibration where the recipe asks for one.
        """
        digest = defended.digest(system, self.base, self.base_identity)
        fast, exact = defended.victims(system, self.base, self.base_identity, bf16=self.bf16, memory=self.memory)
        evaluation = Evaluation(
            fast,
            exact,
            digest=digest,
            clean=self.dataset.validation,
            calibration=self.dataset.calibration if self.recipe.attacks.calibrate else None,
            terms=self.terms,
            cache=self.cache,
        )
        return evaluation, exact, digest
