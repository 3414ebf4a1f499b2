"""A branch from inner features to classes learns the teacher's answer: any architecture teaches any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import log_softmax, one_hot, softmax

from edgekd.training.features import Pool

__all__ = ["Ofa"]


@dataclass(frozen=True)
class Ofa:
    """−Σ_c ((p_c + [c = t])^γ − [c = t]) log q_c, with p the teacher's softmax, q that of the student's branch, t the label.

    γ: `power`; above 1 the target is enhanced, and the more so the surer the teacher is; at 1 it is cross-entropy with p.
    The branch begins at the module `student` and is dropped after training. It is not zero where q equals p.
    Source: Hao et al. 2023, arXiv 2310.19444, the adaptive target enhancement, as in the authors' code. Their branches differ
    by stage and architecture; here maps go through one separable convolution, all else straight to the classes.
    """

    wants: ClassVar[str] = "branch"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    student: str = ""
    power: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's features [batch, channels, …] to logits [batch, classes]."""
        channels, classes = student.shape[1] if student.dim() > 3 else student.shape[-1], teacher.shape[1]
        if student.dim() == 4:
            each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            return nn.Sequential(
                each, nn.Conv2d(channels, channels, 1), nn.ReLU(), Pool(), nn.Linear(channels, classes)
            )
        return nn.Sequential(Pool(), nn.Linear(channels, classes))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of the branch and of the teacher, labels [batch] → mean over the batch, in nats."""
        target = one_hot(labels, teacher.shape[1])
        p = softmax(teacher / self.temperature, dim=1)
        q = log_softmax(student / self.temperature, dim=1)
        return -(((p + target) ** self.power - target) * q).sum(1).mean()
