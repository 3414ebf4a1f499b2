"""The teacher's answer, all but its first class shuffled: its confidence without the classes' similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax, softmax

__all__ = ["PermutedDark"]


@dataclass(frozen=True)
class PermutedDark:
    """τ² · KL(p̃ ‖ q), with q = softmax(student / τ) and p̃ the teacher's softmax, its classes but the largest permuted.

    Each sample is permuted anew each time it is seen: "dark knowledge with permuted predictions" (DKPP), a control for what
    distillation gains from the other classes. It is not zero where the student equals the teacher.
    Source: Furlanello et al. 2018, arXiv 1805.04770, the treatment DKPP.
    """

    wants: ClassVar[str] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats times τ²."""
        p = softmax(teacher / self.temperature, dim=1)
        dark = torch.arange(p.shape[1]) != p.argmax(1, keepdim=True)
        others = p[dark].view(len(p), -1)
        shuffled = others.gather(1, torch.rand(others.shape).argsort(1))
        target = p.masked_scatter(dark, shuffled)
        q = log_softmax(student / self.temperature, dim=1)
        return self.temperature**2 * kl_div(q, target, reduction="batchmean")
