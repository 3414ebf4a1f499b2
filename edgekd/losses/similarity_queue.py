"""Whom a sample is like: its similarities to many teacher embeddings kept in a queue, as the teacher sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import log_softmax, normalize, softmax

from edgekd.training.bank import Queue
from edgekd.training.features import Pool, vectors

__all__ = ["SimilarityQueue"]


@dataclass(frozen=True)
class SimilarityQueue:
    """−Σ_j p_j log q_j over the queue and the sample's own teacher embedding, averaged over the batch.

    p_j = softmax of t · d_j / `teacher_temperature`, q_j = softmax of s · d_j / `student_temperature`: t the teacher's
    features, s the student's through a linear projector, d_j the queue's `size` embeddings and t itself, all of length one.
    It is not zero where s equals t. The queue is in each checkpoint.
    Source: Fang et al. 2021 (SEED), arXiv 2101.04731, the objective of section 3.2, with its temperatures; it holds 65,536.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    size: Annotated[int, Field(ge=1)] = 4096
    student_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    teacher_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's features, averaged over positions, to the teacher's number of channels."""
        return nn.Sequential(Pool(), nn.Linear(vectors(student).shape[1], vectors(teacher).shape[1]))

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> Queue:
        """The queue, its first embeddings drawn from torch's generator."""
        return Queue(self.size, vectors(teacher).shape[1])

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: Queue) -> torch.Tensor:
        """Projected features [batch, channels] of the student, features [batch, channels, …] of the teacher → nats."""
        ours, theirs = (normalize(vectors(x), dim=1) for x in (student, teacher))
        held = state.held.clone()
        q = self._scores(ours, theirs, held) / self.student_temperature
        p = self._scores(theirs, theirs, held) / self.teacher_temperature
        if state.training:
            state.push(theirs.detach())
        return -(softmax(p, dim=1) * log_softmax(q, dim=1)).sum(1).mean()

    def _scores(self, x: torch.Tensor, own: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """[batch, 1 + size]: the cosine with the own teacher embedding, and with each of the queue."""
        return torch.cat([(x * own).sum(1, keepdim=True), x @ held.T], 1)
