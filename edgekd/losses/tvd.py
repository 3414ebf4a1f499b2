"""Total variation distance: half the sum of what the probabilities differ by, without any logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import softmax

__all__ = ["Tvd"]


@dataclass(frozen=True)
class Tvd:
    """Σ |q − p| / 2, with p = softmax(teacher / τ) and q = softmax(student / τ). It lies in [0, 1].

    Source: Wen et al. 2023, arXiv 2307.15190 (f-DISTILL), the total variation distance among its f-divergences, at τ = 1.
    """

    wants: ClassVar[str] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch."""
        q, p = softmax(student / self.temperature, dim=1), softmax(teacher / self.temperature, dim=1)
        return (q - p).abs().sum(1).mean() / 2
