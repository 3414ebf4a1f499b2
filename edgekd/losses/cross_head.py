"""The student's features go on through the teacher's own later layers, and what comes out is the teacher's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import interpolate, kl_div, log_softmax

from edgekd.training.features import regressor, wide

__all__ = ["CrossHead"]

TINY = 1e-8


class _Sized(nn.Module):
    """Maps to a height and width, bilinearly."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = x.shape[2:] == self.size
        return x if same else interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True)
class CrossHead:
    """τ² · KL(p ‖ q), with p = softmax(teacher / τ) and q = softmax(H(P s) / τ), H the teacher behind its module `teacher`.

    P s: the student's features through a 1 × 1 convolution, or a linear layer, brought to the teacher's size, and each channel
    to the mean and the deviation that the teacher's has over the batch. H is frozen, but gradients flow through it. The labels
    contradict this loss less than they would the same divergence of the student's own head.
    Source: Wang et al. 2023 (CrossKD), arXiv 2306.11369, the cross-head predictions, with the aligned scale of the authors' code;
    there detectors, whose heads student and teacher share in form, and quality focal loss where classes have the divergence.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("tail", "logits")
    student: str = ""
    teacher: str = ""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's channels and size to the teacher's. Raises UserError for features of different kinds."""
        project = regressor("cross_head", (self.student, self.teacher), student, teacher)
        if teacher.dim() != 4:
            return project
        height, width = teacher.shape[2:]
        return nn.Sequential(project, _Sized((height, width)))

    def __call__(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        *,
        tail: Callable[[torch.Tensor], torch.Tensor],
        logits: torch.Tensor,
    ) -> torch.Tensor:
        """Projected features of the student, of the teacher's shape, and the teacher's → mean over the batch, in nats times τ²."""
        ours, theirs = wide(student), wide(teacher)
        over = [0, 2, 3] if theirs.dim() == 4 else list(range(theirs.dim() - 1))
        (own, mean), (other, level) = (torch.var_mean(x, over, correction=0, keepdim=True) for x in (ours, theirs))
        crossed = (ours - mean) * (own + TINY).rsqrt() * other.sqrt() + level
        q, p = (log_softmax(wide(x) / self.temperature, dim=1) for x in (tail(crossed.to(teacher.dtype)), logits))
        return self.temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)
