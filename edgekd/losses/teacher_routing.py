"""Several teachers: a small network that sees what the student says chooses, for each sample, who teaches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import log_softmax

from edgekd.errors import UserError
from edgekd.members import divergences

__all__ = ["TeacherRouting"]


@dataclass(frozen=True)
class TeacherRouting:
    """Mean over samples, and over the `k` teachers that the gate prefers for each, of τ² KL(p_ik ‖ q_i), plus
    `balance` · KL(u ‖ ḡ): ḡ is the batch's mean of g_i = softmax(gate(student's logits)), u gives all teachers the same.

    The gate is two linear layers, classes → 2 · classes → teachers. Which teachers are the first k has no gradient, so that
    the gate learns, with the student, from the balance alone.
    Source: Li et al. 2025, arXiv 2507.07015 (MST-Distill), the routing of its third stage with the gate and the defaults of the
    authors' code, which divides the balance by the number of teachers. Its other two stages, which train and mask the
    teachers, are not here: these stay as they are.
    """

    wants: ClassVar[str] = "members"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    k: Annotated[int, Field(ge=1)] = 1
    balance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> nn.Module:
        """The gate; drawn from torch's generator. Raises UserError for fewer teachers than `k`."""
        classes, members = student.shape[1], teacher.shape[1]
        if members < self.k:
            raise UserError(f"teacher_routing: k is {self.k}, there are {members} teachers", hint=f"k = {members}")
        return nn.Sequential(nn.Linear(classes, 2 * classes), nn.Linear(2 * classes, members))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: nn.Module) -> torch.Tensor:
        """Logits [batch, classes], of each teacher [batch, members, classes] → nats times τ², and the balance in nats."""
        gate = log_softmax(state(student), dim=1)
        chosen = gate.detach().topk(self.k, dim=1).indices
        taught = divergences(student, teacher, self.temperature).gather(1, chosen).mean()
        mean = gate.logsumexp(0) - torch.tensor(float(len(gate))).log()
        members = gate.shape[1]
        return taught - self.balance * (mean.mean() + torch.tensor(float(members)).log())
