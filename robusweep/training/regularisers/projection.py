"""RIFT's projections, and the contrast between features of a student and of a teacher."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Features = Float[Tensor, "batch hidden"]


class Projections(nn.Module):
    """For each class a map of the student's features and one of the teacher's: linear, ReLU, linear."""

    def __init__(self, hidden_size: int, n_classes: int, *, inner: int, outer: int, seed: int) -> None:
        super().__init__()

        def maps() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(nn.Linear(hidden_size, inner), nn.ReLU(), nn.Linear(inner, outer))
                for _ in range(n_classes)
            )

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.students, self.teachers = maps(), maps()

    def contrast(
        self,
        students: Features,
        teachers: Features,
        labels: Int[Tensor, " batch"],
        *,
        temperature: float,
        weights: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over the classes in the batch of ``info_nce`` within the class, where a text counts its weight."""
        means = []
        for label in labels.unique().tolist():
            rows = labels == label
            found = info_nce(self.students[label](students[rows]), self.teachers[label](teachers[rows]), temperature)
            means.append((found if weights is None else found * weights[rows]).mean())
        return torch.stack(means).mean()


def info_nce(
    students: Float[Tensor, "texts outer"], teachers: Float[Tensor, "texts outer"], temperature: float
) -> Float[Tensor, " texts"]:
    """For each teacher feature, minus the log of its own student's share among all students, in nats.

    Shares are the softmax of cosines over ``temperature``. A single text has the whole share: 0, with no gradient.
    """
    cosines = F.normalize(teachers, dim=1) @ F.normalize(students, dim=1).T
    own = torch.arange(len(students), device=students.device)
    return F.cross_entropy(cosines / temperature, own, reduction="none")
