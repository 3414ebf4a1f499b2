"""Transport: what it costs to carry the student's features of a batch to the teacher's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from edgekd.training.features import Pool, vectors

__all__ = ["Wasserstein"]


@dataclass(frozen=True)
class Wasserstein:
    """Σ_ij π_ij c_ij, with c_ij = 1 − cos(s_i, t_j) and π the plan between equal masses that minimises it, plus entropy.

    s: the student's features through a linear projector, t: the teacher's. The plan is found by `iterations` of Sinkhorn's
    scaling with the `regularization` ε, and no gradient goes through it. Where the batch is alike, mass goes astray too, so it is
    not zero where s equals t.
    Source: Chen et al. 2021 (WCoRD), arXiv 2012.08674, the local contrast, which is the primal form; the dual form is the loss
    wasserstein_dual. Cuturi 2013, arXiv 1306.0895, algorithm 1, for the plan (they use proximal steps).
    """

    wants: ClassVar[str] = "features"
    least: ClassVar[int] = 2
    student: str = ""
    teacher: str = ""
    regularization: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    iterations: Annotated[int, Field(ge=1)] = 50

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's features, averaged over positions, to the teacher's number of channels."""
        return nn.Sequential(Pool(), nn.Linear(vectors(student).shape[1], vectors(teacher).shape[1]))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Projected features [batch, channels] of the student, features [batch, channels, …] of the teacher → in [0, 2]."""
        ours, theirs = (normalize(vectors(x), dim=1) for x in (student, teacher))
        cost = 1 - ours @ theirs.T
        return (self._plan(cost.detach()) * cost).sum().clamp(min=0)

    def _plan(self, cost: torch.Tensor) -> torch.Tensor:
        """[batch, batch], rows and columns summing to 1 / batch (rows up to what the iterations leave)."""
        mass = -math.log(len(cost))
        kernel = -cost / self.regularization
        rows, columns = torch.zeros(len(cost)), torch.zeros(len(cost))
        for _ in range(self.iterations):
            rows = mass - (kernel + columns).logsumexp(1)
            columns = mass - (kernel + rows[:, None]).logsumexp(0)
        return (rows[:, None] + kernel + columns).exp()
