"""Correlation, not equality: classes keep their relations within a sample, samples theirs within a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import cosine_similarity, softmax

from edgekd.training.features import wide

__all__ = ["Dist"]


@dataclass(frozen=True)
class Dist:
    """τ² · (`inter` · mean_i (1 − ρ(q_i·, p_i·)) + `intra` · mean_c (1 − ρ(q_·c, p_·c))), with ρ Pearson's correlation.

    p, q: the softmax of teacher and student at temperature τ. A student weaker than its teacher can keep the order of its
    answers where it cannot keep their size. `intra` compares over the batch: two samples at least, many are better.
    Source: Huang et al. 2022, arXiv 2205.10536, the inter- and intra-class relations; τ² and the defaults as in the authors' code.
    """

    wants: ClassVar[str] = "logits"
    least: ClassVar[int] = 2
    inter: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    intra: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → scalar in [0, 2 τ² (inter + intra)]."""
        q, p = (softmax(wide(x) / self.temperature, dim=1) for x in (student, teacher))
        classes, samples = 1 - _correlation(q, p, dim=1), 1 - _correlation(q, p, dim=0)
        return self.temperature**2 * (self.inter * classes.mean() + self.intra * samples.mean())


def _correlation(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    return cosine_similarity(a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True), dim=dim)
