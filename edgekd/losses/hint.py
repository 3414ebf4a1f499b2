"""A hint: the student's features, seen through a learned projector, come near the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import mse_loss

from edgekd.training.features import regressor, same_size

__all__ = ["Hint"]


@dataclass(frozen=True)
class Hint:
    """Mean of (r(v) − u)², with v the features of module `student`, r the projector and u the features of module `teacher`.

    r is a 1 × 1 convolution for maps [batch, channels, height, width], a linear layer for [batch, …, channels]. Maps of two
    sizes are averaged down to the smaller first.
    Source: Romero et al. 2015, arXiv 1412.6550, equation 3, as a mean over all elements where the paper has half the sum.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's number of channels to the teacher's. Raises UserError for features of different kinds."""
        return regressor("hint", (self.student, self.teacher), student, teacher)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Projected features of the student and the teacher's: the same number of channels → mean squared difference."""
        return mse_loss(*(same_size(student, teacher) if student.dim() == 4 else (student, teacher)))
