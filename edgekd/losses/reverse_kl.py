"""Divergence of the teacher from the student: it seeks the teacher's main classes, not all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

__all__ = ["ReverseKl"]


@dataclass(frozen=True)
class ReverseKl:
    """τ² · Σ q log(q / p), with p = softmax(teacher / τ) and q = softmax(student / τ).

    A student too small for all that the teacher says is not made to spread over it: where q is zero, nothing is lost.
    Source: Gu et al. 2024, arXiv 2306.08543, section 2.1; τ² as in Hinton et al. 2015, arXiv 1503.02531, section 2.
    """

    wants: ClassVar[str] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats times τ²."""
        q = log_softmax(student / self.temperature, dim=1)
        p = log_softmax(teacher / self.temperature, dim=1)
        return self.temperature**2 * kl_div(p, q, reduction="batchmean", log_target=True)
