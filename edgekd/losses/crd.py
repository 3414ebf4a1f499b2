"""Contrast: a sample's student and teacher features belong together, those of two samples do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from edgekd.training.features import vectors

__all__ = ["Crd"]


class _Contrast(nn.Module):
    """Both embeddings, the last embedding of every training sample by each, and the constants that normalise the scores."""

    student_memory: torch.Tensor
    teacher_memory: torch.Tensor
    constants: torch.Tensor

    def __init__(self, student: int, teacher: int, count: int, width: int) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(student, width), nn.Linear(teacher, width)
        bound = 1 / math.sqrt(width / 3)
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(count, width).uniform_(-bound, bound))
        self.register_buffer("constants", torch.zeros(2))


@dataclass(frozen=True)
class Crd:
    """−log h(s_i, t_i) − Σ_k log(1 − h(s_i, t_k)), the same with student and teacher exchanged, and the sum of both.

    s, t: linear embeddings of `width` of the two features, of length one; h(u, v) = e / (e + K / M), e = exp(u · v / τ) / Z,
    for K `negatives` drawn from the M training samples without i. The others' embeddings come from a memory that follows
    each by (1 − `momentum`); Z is M times the mean of the first batch's exp(u · v / τ). The memory, M · 2 · `width` numbers,
    is in each checkpoint.
    Source: Tian et al. 2020, arXiv 1910.10699, the contrastive objective, with the memory and the constants of the authors'
    code. They draw 16384 negatives and, where labels are known, none of the sample's own class.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("samples",)
    least: ClassVar[int] = 2
    student: str = ""
    teacher: str = ""
    width: Annotated[int, Field(ge=1)] = 128
    negatives: Annotated[int, Field(ge=1)] = 1024
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Contrast:
        """Embeddings, memory and constants; drawn from torch's generator."""
        return _Contrast(vectors(student).shape[1], vectors(teacher).shape[1], count, self.width)

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, samples: torch.Tensor, state: _Contrast
    ) -> torch.Tensor:
        """Features [batch, channels, …] of both, samples [batch] → mean over the batch."""
        count = len(state.student_memory)
        ours = normalize(state.student(vectors(student)), dim=1)
        theirs = normalize(state.teacher(vectors(teacher)), dim=1)
        away = torch.randint(1, count, (len(samples), self.negatives))
        rows = torch.cat([samples[:, None], (samples[:, None] + away) % count], 1)
        sides = [(ours, state.teacher_memory), (theirs, state.student_memory)]
        scores = [(torch.einsum("bkw,bw->bk", memory[rows], x) / self.temperature).exp() for x, memory in sides]
        constants = state.constants
        if not bool(constants.all()):
            constants = torch.stack([score.detach().mean() for score in scores]) * count
        if state.training:
            state.constants.copy_(constants)
            for memory, x in ((state.student_memory, ours), (state.teacher_memory, theirs)):
                moved = self.momentum * memory[samples] + (1 - self.momentum) * x.detach()
                memory[samples] = normalize(moved, dim=1)
        return sum((self._contrast(s / z, count) for s, z in zip(scores, constants, strict=True)), torch.zeros(()))

    def _contrast(self, scores: torch.Tensor, count: int) -> torch.Tensor:
        """Normalised scores [batch, 1 + negatives], that of the pair first → mean over the batch."""
        ratio = self.negatives / count
        positive = (scores[:, 0] / (scores[:, 0] + ratio)).log()
        negative = (ratio / (scores[:, 1:] + ratio)).log().sum(1)
        return -(positive + negative).mean()
