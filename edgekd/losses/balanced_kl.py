"""Divergence both ways, each sample leaning to the way that brings the student's confidence to the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import log_softmax

__all__ = ["BalancedKl"]


@dataclass(frozen=True)
class BalancedKl:
    """τ² · (a · KL(p ‖ q) + b · KL(q ‖ p)), with p = softmax(teacher / τ) and q = softmax(student / τ).

    Where the teacher's entropy is the larger, the student is too sure: a = `emphasis`, b = 1, and the forward divergence
    spreads it. Elsewhere a = 1, b = `emphasis`, and the reverse one sharpens it. No gradient goes through the weights.
    Source: Amara et al. 2022, arXiv 2212.12965 (BD-KD), the student's loss: both divergences, weighted for each sample by the
    gap of the entropies. That it is a step, and its height, is our reading. Their teacher trains along; here it is fixed.
    """

    wants: ClassVar[str] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    emphasis: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats times τ²."""
        q = log_softmax(student / self.temperature, dim=1)
        p = log_softmax(teacher / self.temperature, dim=1)
        forward, reverse = (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)
        too_sure = _entropy(p) > _entropy(q.detach())
        more, less = self.emphasis * forward + reverse, forward + self.emphasis * reverse
        return self.temperature**2 * torch.where(too_sure, more, less).mean()


def _entropy(logs: torch.Tensor) -> torch.Tensor:
    """[batch], in nats, of log-probabilities [batch, classes]."""
    return -(logs.exp() * logs).sum(1)
