"""The student's vector points where the teacher's does; its length is free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from edgekd.training.features import Pool, vectors

__all__ = ["Cosine"]


@dataclass(frozen=True)
class Cosine:
    """1 − cos(P z, u), with z, u the vectors of student and teacher; P a learned linear layer where their widths differ.

    Maps and tokens are averaged over positions first. Where both are embeddings of one width, as in retrieval, nothing is
    projected and the student can stand in for its teacher.
    Source: Sanh et al. 2019, arXiv 1910.01108 (DistilBERT), the cosine embedding loss L_cos.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's number of channels to the teacher's, or none."""
        sizes = vectors(student).shape[1], vectors(teacher).shape[1]
        return nn.Sequential(Pool(), nn.Identity() if sizes[0] == sizes[1] else nn.Linear(*sizes, bias=False))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Projected vectors [batch, channels] of the student, features [batch, channels, …] of the teacher → [0, 2]."""
        return 1 - cosine_similarity(vectors(student), vectors(teacher), dim=1).mean()
