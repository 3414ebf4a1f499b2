"""The student's output points where the teacher's did, which was computed once and kept: no teacher runs in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cosine_similarity

__all__ = ["CosineCached"]


@dataclass(frozen=True)
class CosineCached:
    """1 − cos(z, u), with z, u the outputs of student and teacher: embeddings of one width, as for a search.

    Outputs are what edgekd keeps of a teacher, so that each sample (each view of it) is embedded once. A student of another
    width ends in a linear layer to the teacher's, which is part of it and is shipped. For inner features, or a projection that is
    dropped, use the loss cosine.
    Source: Liu, Zhang, Xiao 2026, arXiv 2603.12824 (NanoVDR), the pointwise cosine alignment with cached embeddings.
    """

    wants: ClassVar[str] = "logits"

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Outputs [batch, width] of both → mean over the batch, in [0, 2]."""
        return 1 - cosine_similarity(student, teacher, dim=1).mean()
