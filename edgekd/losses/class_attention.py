"""Class attention: for each class, the student looks where the teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import adaptive_avg_pool2d, normalize

from edgekd.errors import UserError

__all__ = ["ClassAttention"]


@dataclass(frozen=True)
class ClassAttention:
    """Σ over classes of the mean squared difference of the two maps of a class, each averaged down to `size` × `size` and of length one.

    `student` and `teacher` name modules that give a map for each class, as where the classifier is a 1 × 1 convolution
    before the pooling; both have the same classes.
    Source: Guo et al. 2023 (CAT-KD, CVPR), the class attention transfer, with maps of 2 × 2 and L2 normalisation as there; its
    authors turn a linear classifier behind the pooling into such a convolution, which is the same function.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    size: Annotated[int, Field(ge=1)] = 2

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Maps [batch, classes, height, width] of both → mean over the batch. Raises UserError for others."""
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[1] != teacher.shape[1]:
            shapes = f'"{self.student}" gives {list(student.shape)}, "{self.teacher}" gives {list(teacher.shape)}'
            hint = "name the 1 × 1 convolutions that classify before the pooling: [batch, classes, height, width]"
            raise UserError(f"class_attention: the student's {shapes}", hint=hint)
        a, b = (normalize(adaptive_avg_pool2d(x, self.size).flatten(2), dim=2) for x in (student, teacher))
        return (a - b).square().mean(2).sum(1).mean()
