"""Contrast at several scales: a window of the student's map is like the teacher's there, and unlike another sample's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, normalize

from edgekd.errors import UserError
from edgekd.training.features import same_size

__all__ = ["MultiScaleContrast"]


@dataclass(frozen=True)
class MultiScaleContrast:
    """Mean over scales of C(samples) + C(channels), with C the cross-entropy of softmax(cos(s_i, t_j) / τ) with j = i.

    At scale k = 0, 1, … a window of 1 / 2^k of height and width slides over both maps by half its size; its mean is a vector of
    channels. C(samples) compares the vectors of a window in all samples of the batch; C(channels) the values of a channel in all windows
    of the batch. One batch is enough: nothing is remembered. A 1 × 1 convolution leads to the teacher's channels, where their
    numbers differ. Other samples are near too, so it is not zero where the student equals the teacher.
    Source: Wang, Wang 2025, arXiv 2502.05835 (MSDCRD): multi-scale sliding-window pooling, a sample-wise and a feature-wise
    contrastive loss within one batch. That both are InfoNCE, and the sizes of the windows, is our reading; they select among
    the windows, here all stay.
    """

    wants: ClassVar[str] = "features"
    least: ClassVar[int] = 2
    student: str = ""
    teacher: str = ""
    scales: Annotated[int, Field(ge=1)] = 3
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's number of channels to the teacher's, or none. Raises UserError for other features than maps."""
        self._check(student, teacher)
        channels = student.shape[1], teacher.shape[1]
        return nn.Identity() if channels[0] == channels[1] else nn.Conv2d(*channels, 1)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Projected maps [batch, channels, height, width] of the student, maps of the teacher → nats."""
        self._check(student, teacher)
        maps = same_size(student, teacher)
        found = [self._contrast(*(_windows(x, 2**k) for x in maps)) for k in range(self.scales)]
        return torch.stack(found).mean()

    def _contrast(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """Of the vectors [batch, channels, windows] of one scale."""
        samples = self._pairs(ours.permute(2, 0, 1), theirs.permute(2, 0, 1))
        channels = self._pairs(*(x.transpose(0, 1).flatten(1)[None] for x in (ours, theirs)))
        return samples + channels

    def _pairs(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """C for [groups, n, values]: the n of a group are told apart."""
        scores = normalize(ours, dim=2) @ normalize(theirs, dim=2).transpose(1, 2) / self.temperature
        own = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
        return cross_entropy(scores.transpose(1, 2), own)

    def _check(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        for whose, name, x in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            if x.dim() != 4:
                hint = "name a module before the pooling: [batch, channels, height, width]"
                raise UserError(f'multi_scale_contrast: the {whose}\'s "{name}" gives {list(x.shape)}', hint=hint)


def _windows(x: torch.Tensor, parts: int) -> torch.Tensor:
    """[batch, channels, windows]: means over windows of 1 / `parts` of each side, which overlap by half."""
    size = [max(side // parts, 1) for side in x.shape[2:]]
    return avg_pool2d(x, size, [max(side // 2, 1) for side in size]).flatten(2)
