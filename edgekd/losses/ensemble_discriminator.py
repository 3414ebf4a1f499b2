"""A discriminator learns to tell the student's answers from the teacher's, and the student to be taken for the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call
from torch.nn.functional import softmax, softplus

__all__ = ["EnsembleDiscriminator"]


class _Discriminator(nn.Module):
    """Three linear layers from probabilities [batch, classes] to the logit [batch] of "this is the teacher"."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        hidden = nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, answers: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(answers).squeeze(1)
        return found


@dataclass(frozen=True)
class EnsembleDiscriminator:
    """−log D(q), with q = softmax(student) and D the discriminator's probability that an answer is the teacher's.

    D itself learns by −(log D(p) + log(1 − D(q))) / 2, with p = softmax(teacher), whose value is not part of the loss. Beside a
    divergence, it holds the student to what all the teacher's answers have in common. It is log 2 where D cannot tell.
    Source: Shen, Savvides 2020, arXiv 2009.08453 (MEAL V2), the discriminator on the final answers of student and ensemble;
    that the student is to fool it: Shen, He, Xue 2019, arXiv 1812.02425 (MEAL). Here D sees probabilities where the authors'
    code has logits, since an ensemble's logits are known but for a constant.
    """

    wants: ClassVar[str] = "logits"
    width: Annotated[int, Field(ge=1)] = 32

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Discriminator:
        """The discriminator, drawn from torch's generator."""
        return _Discriminator(teacher.shape[1], self.width)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: _Discriminator) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats."""
        q, p = softmax(student.float(), dim=1), softmax(teacher.float(), dim=1)
        fixed = {name: value.detach() for name, value in state.named_parameters()}
        fooled = softplus(-functional_call(state, fixed, (q,))).mean()
        told = (softplus(-state(p)) + softplus(state(q.detach()))).mean() / 2
        return fooled + told - told.detach()
