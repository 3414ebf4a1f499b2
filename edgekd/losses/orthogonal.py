"""The student's features, turned but neither stretched nor mixed, come near the teacher's normalised ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import layer_norm, smooth_l1_loss
from torch.nn.utils.parametrizations import orthogonal

from edgekd.training.features import Pool, vectors

__all__ = ["Orthogonal"]


@dataclass(frozen=True)
class Orthogonal:
    """Mean of h(P z − norm(u)), with z, u the vectors of student and teacher, Pᵀ P = 1, h Huber's loss at 1.

    Maps and tokens are averaged over positions first. norm: each sample's u to mean 0 and variance 1. A projection that
    keeps all distances cannot learn in the student's stead, so that what is learned stays when it is dropped.
    Source: Miles, Elezi, Deng 2024, arXiv 2403.06213 (VkD), in the form of the authors' code for classification.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """P, from the student's number of channels to the teacher's; where it has fewer, P Pᵀ = 1 instead.

        By Cayley's transform: torch's default for other than square matrices loses P to weight decay.
        """
        sizes = vectors(student).shape[1], vectors(teacher).shape[1]
        return nn.Sequential(Pool(), orthogonal(nn.Linear(*sizes, bias=False), orthogonal_map="cayley"))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Projected vectors [batch, channels] of the student, features [batch, channels, …] of the teacher → scalar."""
        target = vectors(teacher)
        return smooth_l1_loss(vectors(student), layer_norm(target, target.shape[1:]))
