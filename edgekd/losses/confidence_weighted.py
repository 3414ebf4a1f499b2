"""Cross-entropy with the labels, each sample weighted by how sure the teacher is of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cross_entropy, softmax

__all__ = ["ConfidenceWeighted"]


@dataclass(frozen=True)
class ConfidenceWeighted:
    """−Σ_i w_i log q_i(target), with q = softmax(student) and w_i = max_c p_ic / Σ_j max_c p_jc, p = softmax(teacher).

    What is left of distillation without the classes' similarities: "confidence weighted by teacher max" (CWTM). It is not
    zero where the student equals the teacher.
    Source: Furlanello et al. 2018, arXiv 1805.04770, the treatment CWTM.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels",)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both, labels [batch] → the batch's weighted mean, in nats."""
        sure = softmax(teacher, dim=1).amax(1)
        return (sure / sure.sum() * cross_entropy(student, labels, reduction="none")).sum()
