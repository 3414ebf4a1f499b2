"""Each pixel of the student's map belongs to the teacher's pixel there, not to what other images look like to the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from edgekd.errors import UserError
from edgekd.training.bank import Queue
from edgekd.training.features import same_size, vectors

__all__ = ["PixelContrast"]


@dataclass(frozen=True)
class PixelContrast:
    """−log (exp(s · t / τ) / (exp(s · t / τ) + Σ_k exp(s · n_k / τ))), averaged over all pixels of the batch.

    s: a pixel of the student's map through a 1 × 1 convolution, t: the teacher's pixel there, n_k: the teacher's maps of the last
    `size` images, each averaged over its positions; all of length one. Maps of two sizes are averaged down to the smaller.
    The queue is in each checkpoint; memory grows with batch · positions · `size`. It is not zero where s equals t.
    Source: Huang, Guo 2023, arXiv 2211.00218 (PCD), the pixel-wise contrastive loss, with the queue of the authors' code. Their
    student has a head with attention in place of the convolution, and the teacher's own head is turned to work on maps.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    size: Annotated[int, Field(ge=1)] = 2048
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's number of channels to the teacher's. Raises UserError for other features than maps."""
        self._check(student, teacher)
        return nn.Conv2d(student.shape[1], teacher.shape[1], 1)

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> Queue:
        """The queue, its first embeddings drawn from torch's generator."""
        self._check(student, teacher)
        return Queue(self.size, teacher.shape[1])

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: Queue) -> torch.Tensor:
        """Projected maps [batch, channels, height, width] of the student, maps of the teacher → nats."""
        ours, theirs = (normalize(x, dim=1) for x in same_size(student, teacher))
        away = torch.einsum("bchw,kc->bkhw", ours, state.held.to(ours.dtype, copy=True))
        scores = torch.cat([(ours * theirs).sum(1, keepdim=True), away], 1) / self.temperature
        if state.training:
            state.push(normalize(vectors(teacher), dim=1).detach())
        own = torch.zeros(scores.shape[:1] + scores.shape[2:], dtype=torch.int64, device=scores.device)
        return cross_entropy(scores, own)

    def _check(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        for whose, name, x in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            if x.dim() != 4:
                hint = "name a module before the pooling: [batch, channels, height, width]"
                raise UserError(f'pixel_contrast: the {whose}\'s "{name}" gives {list(x.shape)}', hint=hint)
