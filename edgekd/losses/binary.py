"""Each class a yes or no of its own, weighted by how far off it is: for heads that end in a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["Binary"]


@dataclass(frozen=True)
class Binary:
    """Σ_c |p_c − q_c|^`power` · BCE(q_c, p_c), with p = sigmoid(teacher) and q = sigmoid(student).

    A softmax would say what is likelier than what, which a detector trained with sigmoids never learned. The weight, which
    has a gradient too, makes it zero where the student equals the teacher.
    Source: Yang et al. 2023, arXiv 2308.14286 (BCKD), the classification distillation loss; a mean over samples.
    """

    wants: ClassVar[str] = "logits"
    power: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats."""
        p = teacher.sigmoid()
        weight = (p - student.sigmoid()).abs().pow(self.power)
        each = binary_cross_entropy_with_logits(student, p, reduction="none")
        return (weight * each).sum(1).mean()
