"""What a trial takes of the machines, and where trials run."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, field_validator, model_validator

from robusweep.model import Precision
from robusweep.spec import Spec
from robusweep.yaml_source import BlockError

Leg = Literal["train", "score"]  # of a trial whose stages take different resources


def _whole_above_one(gpus: float | None) -> float | None:
    if gpus is not None and gpus > 1 and gpus % 1:
        raise ValueError(f"{gpus:g} GPUs can't be had: more than one are whole (allowed: 0 to 1, 2, 3, ...)")
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]


class Share(Spec):
    """What a trial takes during one of its two stages. A key that is left out takes the trial's own."""

    cpus: float | None = Field(None, gt=0)
    gpus: Gpus | None = None


class Taken(NamedTuple):
    """What a leg of a trial takes of the machines."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs"


class Resources(Spec):
    """Where trials run. ``cpus`` and ``gpus`` are per trial and may be fractions; one thread per whole CPU.

    ``train`` and ``score``: what the trial takes while it trains (its ticket and adapters), and while its points are
    attacked and scored, where that differs. Ray then runs each in a leg of its own.

    ``max_concurrent``: how many trials run at once; null takes what the machine holds. ``precision: auto`` uses
    bfloat16 where the hardware has it and float32 elsewhere. ``storage``: a URL that cache and records are also kept
    at, so that machines without a common disk share them, and a lost one loses nothing that is finished.
    """

    executor: Literal["ray", "local"] = "ray"
    cpus: float = Field(1.0, gt=0)
    gpus: Gpus = 0.0
    train: Share | None = None
    score: Share | None = None
    max_concurrent: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "auto"
    storage: str | None = None

    @property
    def in_legs(self) -> bool:
        """Whether training and scoring take different things, so that each is placed by itself."""
        return self.taken("train") != self.taken("score")

    def taken(self, leg: Leg | None) -> Taken:
        """What this leg takes; None, for both in one: as much as each of them takes."""
        if leg is None:
            train, score = self.taken("train"), self.taken("score")
            return Taken(max(train.cpus, score.cpus), max(train.gpus, score.gpus))
        share = (self.train if leg == "train" else self.score) or Share()
        cpus = self.cpus if share.cpus is None else share.cpus
        return Taken(cpus, self.gpus if share.gpus is None else share.gpus)

    @model_validator(mode="after")
    def _legs_can_be_placed(self) -> Resources:
        given = "train" if self.train is not None else "score"
        if self.executor == "local" and (self.train is not None or self.score is not None):
            raise BlockError(
                given,
                "local processes divide one machine by their number alone, so a stage can't take more or less of it "
                f"(allowed with executor: ray; to leave it out, resources.{given}=null)",
            )
        train, score = self.taken("train"), self.taken("score")
        if (train.gpus > 0) != (score.gpus > 0) and self.device != "cpu":
            less = "train" if train.gpus == 0 else "score"
            raise BlockError(
                f"{less if getattr(self, less) is not None else given}.gpus",
                f"training takes {train.gpus:g} GPUs and scoring {score.gpus:g}: what is trained on a GPU is scored "
                "on one, since other devices give other numbers (allowed: above 0 for both, such as 0.1; 0 for both)",
            )
        return self

    @field_validator("storage")
    @classmethod
    def _is_for_all(cls, storage: str | None) -> str | None:
        """Recipes are copied into records, reports and MLflow, so no password may stand here."""
        if storage is None:
            return None
        protocol, path = storage.rsplit("://", 1) if "://" in storage else ("file", storage)
        if protocol in ("file", "local") and not path.startswith("/"):
            raise ValueError(
                "means another place in each process (allowed: s3://bucket/prefix, gs://bucket/prefix, "
                "file:///absolute/path, or any other URL of fsspec)"
            )
        if protocol == "memory":
            raise ValueError("memory:// is seen by one process alone (allowed: s3://, gs://, file:/// and the like)")
        if "@" in path.partition("/")[0] and ":" in path.partition("@")[0]:
            raise ValueError(
                "holds a password, which a recipe must not: put it where the protocol's package looks for it"
            )
        return storage
