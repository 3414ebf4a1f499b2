"""The teacher's answer where it is sure, the label where it is not, and neither where there is nothing to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy, one_hot, softmax

from edgekd.errors import UserError

__all__ = ["LabelAdapt"]


@dataclass(frozen=True)
class LabelAdapt:
    """−Σ_c y_c log q_c, with q = softmax(student) and y by the teacher's confidence s = max_c p_c, p = softmax(teacher):

        s < `low` or s > `high`       the sample is left out: background, or learned long ago
        `low` ≤ s < `middle`          the label, smoothed: 1 − `smoothing`, the rest spread over the other classes
        `middle` ≤ s ≤ `high`         p

    A mean over the samples that stay, zero where none does. It is not zero where the student equals the teacher.
    Source: Shen 2023, arXiv 2312.17473 (FerKD), the adaptation of labels by three thresholds T_L, T_M, T_T with smoothed labels
    for hard regions. Its thresholds are of ImageNet and its teachers; the defaults here are ours, and leave out nothing easy.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    low: Annotated[float, Field(ge=0, le=1)] = 0.15
    middle: Annotated[float, Field(ge=0, le=1)] = 0.3
    high: Annotated[float, Field(ge=0, le=1)] = 1.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        if not self.low <= self.middle <= self.high:
            thresholds = f"low {self.low}, middle {self.middle}, high {self.high}"
            raise UserError(
                f"label_adapt: the thresholds are {thresholds}", hint="low ≤ middle ≤ high, as in 0.15, 0.3, 1.0"
            )

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both, labels [batch] → mean over the samples that stay, in nats."""
        p = softmax(teacher, dim=1)
        sure, label = p.amax(1), one_hot(labels, p.shape[1]).to(p.dtype)
        smoothed = label * (1 - self.smoothing) + (1 - label) * self.smoothing / max(p.shape[1] - 1, 1)
        target = torch.where((sure < self.middle)[:, None], smoothed, p)
        stays = ((sure >= self.low) & (sure <= self.high)).to(student.dtype)
        each = cross_entropy(student, target, reduction="none")
        return (each * stays).sum() / stays.sum().clamp(min=1)
