"""Optimal transport between the batch's answers of student and teacher, found by Sinkhorn's iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import softmax

from edgekd.training.features import wide

__all__ = ["Sinkhorn"]


@dataclass(frozen=True)
class Sinkhorn:
    """Σ_ij P_ij · W_ij / batch, with the cost W_ij = Σ_c |q_ic − p_jc| and P the plan that `iterations` make of exp(−W / ε).

    p, q: the softmax of teacher and student at temperature τ; ε: `regularization`. Each iteration scales the rows of P to
    one, then its columns. The batch is compared as a whole, so that a student's answer may also be near another sample's; it
    is therefore not quite zero where the student equals the teacher.
    Source: Cui et al. 2024, arXiv 2402.17110 (SinKD), with the numbers of the authors' code; the mean over the batch where
    that has the sum. In the log domain, so that a small ε does not underflow.
    """

    wants: ClassVar[str] = "logits"
    least: ClassVar[int] = 2
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    regularization: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    iterations: Annotated[int, Field(ge=1)] = 20

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → scalar in [0, 2]. Memory and time grow with the batch squared."""
        q, p = (softmax(wide(x) / self.temperature, dim=1) for x in (student, teacher))
        cost = torch.cdist(q, p, p=1)
        plan = -cost / self.regularization
        for _ in range(self.iterations):
            plan = plan - plan.logsumexp(1, keepdim=True)
            plan = plan - plan.logsumexp(0, keepdim=True)
        return (plan.exp() * cost).sum() / len(cost)
