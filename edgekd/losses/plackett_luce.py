"""The teacher's ranking as a series of choices, the true class first, each weighted by its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import softmax

__all__ = ["PlackettLuce"]


@dataclass(frozen=True)
class PlackettLuce:
    """Σ_k p_πk · (log Σ_{l ≥ k} exp s_πl − s_πk): the student's logits s choose the class π_k among those not yet chosen.

    π is the true class, then the others by descending logit of the teacher; p = softmax(teacher / τ). With all weight on
    the first choice it is cross-entropy, so it needs none beside it. It is not zero where the student equals the teacher.
    Source: Bassam, Zhu, Bian 2025, arXiv 2506.12542, the loss L_PLD with the permutation π*.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both, labels [batch] → mean over the batch, in nats."""
        first = teacher.scatter(1, labels[:, None], float("inf"))
        ranking = first.argsort(dim=1, descending=True, stable=True)
        scores = student.gather(1, ranking)
        left = scores.flip(1).logcumsumexp(1).flip(1)
        weights = softmax(teacher / self.temperature, dim=1).gather(1, ranking)
        return (weights * (left - scores)).sum(1).mean()
