"""Kullback-Leibler divergence of the student's softened classes from the teacher's: distillation as Hinton wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

__all__ = ["Kl"]


@dataclass(frozen=True)
class Kl:
    """τ² · Σ p log(p / q), with p = softmax(teacher / τ) and q = softmax(student / τ).

    τ² keeps the size of the gradient when the temperature τ changes: for high τ the gradient is 1/τ² of what it was.
    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2, equations 1 to 4.
    """

    wants: ClassVar[str] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats times τ²."""
        q = log_softmax(student / self.temperature, dim=1)
        p = log_softmax(teacher / self.temperature, dim=1)
        return self.temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)
