"""Attention transfer: the student looks where the teacher looks; no projector, since channels are summed away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import normalize

from edgekd.errors import UserError
from edgekd.training.features import same_size

__all__ = ["AttentionMap"]


@dataclass(frozen=True)
class AttentionMap:
    """‖a − b‖², with a, b the student's and the teacher's map Σ_c |x_c|^power, each divided by its L2 norm.

    Both are non-negative and of unit length, so it lies in [0, 2]. `student`, `teacher` name modules; maps of two sizes are
    averaged down to the smaller.
    Source: Zagoruyko, Komodakis 2017, arXiv 1612.03928, section 3.1, F_sum^p and equation 2; the distance squared as in the
    authors' code, and summed over positions, so that its weight does not depend on the resolution.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    power: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Features [batch, channels, height, width] → mean over the batch. Raises UserError for other shapes."""
        for whose, name, x in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            if x.dim() != 4:
                hint = "name a module before the pooling: [batch, channels, height, width]"
                raise UserError(f'attention_map: the {whose}\'s "{name}" gives {list(x.shape)}', hint=hint)
        maps = same_size(self._map(student), self._map(teacher))
        a, b = (normalize(x.flatten(1), dim=1) for x in maps)
        return (a - b).square().sum(1).mean()

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] → [batch, 1, height, width]."""
        return x.abs().pow(self.power).sum(1, keepdim=True)
