"""The labels and, more and more, the student's own answers of the epoch before: no teacher is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy, one_hot

from edgekd.training.bank import Past
from edgekd.training.features import wide

__all__ = ["SelfProgressive"]


@dataclass(frozen=True)
class SelfProgressive:
    """−Σ_c y_c log q_c, with q = softmax(student), y = (1 − α) · label + α · what the student said when it last saw the sample.

    α = `alpha` · the share of the training that is done; the paper raises it once an epoch. A sample not yet seen has its
    label alone. It remembers [training samples, classes], which each checkpoint holds too.
    Source: Kim et al. 2021, arXiv 2006.12000 (PS-KD); `alpha` and the first epoch as in the authors' code.
    """

    wants: ClassVar[str] = "labels"
    also: ClassVar[tuple[str, ...]] = ("progress", "samples")
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.8

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> Past:
        """Room for one answer to each training sample."""
        return Past(count, student.shape[1])

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, progress: float, samples: torch.Tensor, state: Past
    ) -> torch.Tensor:
        """student: logits [batch, classes]; teacher: targets [batch]; samples [batch] → mean over the batch, in nats."""
        student = wide(student)
        label = one_hot(teacher, student.shape[1]).to(student.dtype)
        target = torch.lerp(label, state.recalled(samples, label), self.alpha * progress)
        state.keep(samples, student)
        return cross_entropy(student, target)
