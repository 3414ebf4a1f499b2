"""By how much the true class leads each other one, as for the teacher: for scores of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import mse_loss

from edgekd.training.features import wide

__all__ = ["MarginMse"]


@dataclass(frozen=True)
class MarginMse:
    """Mean over j ≠ t of ((s_t − s_j) − (r_t − r_j))², with s, r the student's and the teacher's logits, t the label.

    In ranking, the classes are the candidates of a query and the label is the relevant one.
    Source: Hofstätter et al. 2020, arXiv 2010.02666, the loss Margin-MSE, there with one j for each query.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels",)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both, labels [batch] → mean over the batch and the other classes."""
        others = torch.arange(student.shape[1]) != labels[:, None]
        ours, theirs = (x.gather(1, labels[:, None]) - x for x in (wide(student), wide(teacher)))
        return mse_loss(ours[others], theirs[others])
