"""Classes drawn from the teacher's answer: few enough to store and, unlike the first k, right on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax, softmax

__all__ = ["Sampled"]


@dataclass(frozen=True)
class Sampled:
    """KL(p̂ ‖ q), with q = softmax(student) and p̂ the shares of the classes in `rounds` draws from p = softmax(teacher).

    The expected p̂ is p, so the expected gradient q − p̂ is that of KL(p ‖ q). Drawn anew each time. It is not zero where the
    student equals the teacher: the draws have noise of about 1 / √rounds.
    Source: Anshumann et al. 2025, arXiv 2503.16870 (random sampling KD), with the proposal that is the teacher itself.
    """

    wants: ClassVar[str] = "logits"
    rounds: Annotated[int, Field(ge=1)] = 50

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats."""
        p = softmax(teacher, dim=1)
        drawn = torch.multinomial(p, self.rounds, replacement=True)
        shares = torch.zeros_like(p).scatter_add(1, drawn, torch.full(drawn.shape, 1 / self.rounds, dtype=p.dtype))
        return kl_div(log_softmax(student, dim=1), shares, reduction="batchmean")
