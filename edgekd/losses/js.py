"""Jensen-Shannon divergence: symmetric and bounded; made to be the only loss, where there are no labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

__all__ = ["Js"]


@dataclass(frozen=True)
class Js:
    """τ² · (KL(p ‖ m) + KL(q ‖ m)) / 2, with p = softmax(teacher / τ), q = softmax(student / τ), m = (p + q) / 2.

    It lies in [0, τ² log 2].
    Source: Lin 1991, doi 10.1109/18.61115; as the one loss of distillation with unlabelled images, at τ = 1:
    Cui et al. 2021, arXiv 2103.05959 (SSLD).
    """

    wants: ClassVar[str] = "logits"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats times τ²."""
        q = log_softmax(student / self.temperature, dim=1)
        p = log_softmax(teacher / self.temperature, dim=1)
        m = torch.logaddexp(p, q) - math.log(2)
        both = kl_div(m, p, reduction="batchmean", log_target=True) + kl_div(
            m, q, reduction="batchmean", log_target=True
        )
        return self.temperature**2 * both / 2
