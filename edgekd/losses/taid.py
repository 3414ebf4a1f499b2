"""A teacher that begins near the student and moves away from it, as fast as the student follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from edgekd.errors import UserError
from edgekd.training.features import wide

__all__ = ["Taid"]

TINY = 1e-15


class _Way(nn.Module):
    """How far the interpolated teacher has come."""

    t: torch.Tensor
    momentum: torch.Tensor
    before: torch.Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        for name, value in (("t", start), ("momentum", 0.0), ("before", math.inf)):
            self.register_buffer(name, torch.tensor(value))


@dataclass(frozen=True)
class Taid:
    """J = KL(p_t ‖ q), with q = softmax(student), p_t = softmax((1 − t) · student + t · teacher), no gradient to p_t.

    t rises from `start` to `end` at least as fast as the training goes on, and faster while J falls. After each step, with
    δ = (J_before − J) / J_before and the momentum m ← `beta` · m + (1 − `beta`) · δ,

        t ← min(`end`, max(`start` + (`end` − `start`) · progress, t + `alpha` · sigmoid(m) · (1 − t)))

    Source: Shing et al. 2025, arXiv 2501.16937, algorithm 1; defaults as in the authors' code, which
    takes δ of the cross-entropy where the paper has J.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("progress",)
    start: Annotated[float, Field(ge=0, lt=1)] = 0.4
    end: Annotated[float, Field(gt=0, le=1)] = 1.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 5e-4
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.99

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise UserError(
                f"taid: start is {self.start}, end is {self.end}", hint="start below end, as in 0.4 and 1.0"
            )

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Way:
        """Where t is, and what it depends on: three numbers."""
        return _Way(self.start)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, progress: float, state: _Way) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats."""
        student, teacher = wide(student), wide(teacher)
        between = torch.lerp(student.detach(), teacher, state.t.to(teacher.dtype))
        q, p = log_softmax(student, dim=1), log_softmax(between, dim=1)
        loss = kl_div(q, p, reduction="batchmean", log_target=True)
        if state.training:
            self._move(state, loss.detach(), progress)
        return loss

    def _move(self, state: _Way, loss: torch.Tensor, progress: float) -> None:
        if not torch.isinf(state.before):
            change = (state.before - loss) / (state.before + TINY)
            state.momentum.mul_(self.beta).add_((1 - self.beta) * change)
            step = self.alpha * torch.sigmoid(state.momentum) * (1 - state.t)
            state.t.add_(step).clamp_(self.start + (self.end - self.start) * progress, self.end)
        state.before.copy_(loss)
