"""Several teachers: the one that a sample is furthest from always teaches, each other one only sometimes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from edgekd.members import divergences

__all__ = ["TeacherDropping"]


@dataclass(frozen=True)
class TeacherDropping:
    """Σ_ik δ_ik L_ik / Σ_ik δ_ik, with L_ik = τ² KL(p_ik ‖ q_i) of sample i to teacher k, p and q at temperature τ.

    δ_ik is 1 for the teacher of greatest L_ik; each of the others is dropped, δ_ik = 0, with probability `drop`. So no teacher
    that is easy to follow hides another. The teachers are the members of an ensemble.
    Source: Sariyildiz et al. 2024, arXiv 2408.05088 (UNIC), the teacher dropping regularisation, normalised as in the authors'
    code. Their L_ik are distances of features (cosine and smooth L1); here they are of what is predicted.
    """

    wants: ClassVar[str] = "members"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes], of each teacher [batch, members, classes] → nats times τ²."""
        distances = divergences(student, teacher, self.temperature)
        kept = (torch.rand(distances.shape) >= self.drop).to(distances.dtype)
        kept.scatter_(1, distances.detach().argmax(1, keepdim=True), 1.0)
        return (kept * distances).sum() / kept.sum()
