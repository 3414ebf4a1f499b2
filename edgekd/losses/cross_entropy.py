"""Cross-entropy with the labels: what the student would learn without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

__all__ = ["CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy:
    """−log p(target), with `label_smoothing` ε of the target spread evenly over all classes.

    Source of the smoothing: Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """

    wants: ClassVar[str] = "labels"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """student: logits [batch, classes]; teacher: targets [batch], int64 → mean over the batch, in nats."""
        return cross_entropy(student, teacher, label_smoothing=self.label_smoothing)
