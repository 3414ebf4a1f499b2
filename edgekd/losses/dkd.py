"""Decoupled distillation: how sure of the target, and what the other classes are like, weighted apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

__all__ = ["Dkd"]


@dataclass(frozen=True)
class Dkd:
    """τ² · (`alpha` · TCKD + `beta` · NCKD), for the target class t of each sample.

    TCKD = KL of the two probabilities {p_t, 1 − p_t}, teacher to student. NCKD = KL of the softmax over all classes but t,
    which in plain distillation has the weight 1 − p_t and so is lost where the teacher is sure.
    Source: Zhao et al. 2022, arXiv 2203.08679, the reformulation DKD; alpha, beta and temperature as in the authors' code for CIFAR-100.
    Its warm-up of the first 20 of 240 epochs is left out.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both, labels [batch] → mean over the batch, in nats times τ²."""
        (q_target, q_others), (p_target, p_others) = (self._parts(x, labels) for x in (student, teacher))
        target = kl_div(q_target, p_target, reduction="batchmean", log_target=True)
        others = kl_div(q_others, p_others, reduction="batchmean", log_target=True)
        return self.temperature**2 * (self.alpha * target + self.beta * others)

    def _parts(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [batch, 2] of the target and of all others, and [batch, classes − 1] among the others."""
        scaled = logits / self.temperature
        target = scaled.gather(1, labels[:, None])
        others = scaled[torch.arange(scaled.shape[1]) != labels[:, None]].view(len(scaled), -1)
        both = torch.cat([target, others.logsumexp(1, keepdim=True)], 1)
        return log_softmax(both, dim=1), log_softmax(others, dim=1)
