"""Several teachers: a policy draws which of them teach a sample, and is rewarded by how the student fares afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, one_hot

from edgekd.members import divergences

__all__ = ["TeacherSelection"]

START = 0.8
"""How likely each teacher is chosen before anything is learned."""


class _Selector(nn.Module):
    """The policy, and of each training sample what the student said when it was last met, who taught it, and how far off it was."""

    said: torch.Tensor
    taught: torch.Tensor
    off: torch.Tensor

    def __init__(self, count: int, members: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, 2 * classes + 1))
        self.bias = nn.Parameter(torch.full((members,), math.log(START / (1 - START))))
        self.register_buffer("said", torch.zeros(count, classes))
        self.register_buffer("taught", torch.zeros(count, members))
        self.register_buffer("off", torch.full((count,), math.nan))

    def odds(self, q: torch.Tensor, p: torch.Tensor, off: torch.Tensor) -> torch.Tensor:
        """log π / (1 − π) [batch, members] for q [batch, classes], p [batch, members, classes], `off` of each teacher [batch, members]."""
        state = torch.cat([q[:, None].expand_as(p), p, off[:, :, None]], 2)
        return (state * self.weight).sum(2) + self.bias

    def late(self, samples: torch.Tensor, off: torch.Tensor, p: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """−mean of A_i · Σ_k log π(a_ik) over samples met before, A_i: how far `off` [batch] has fallen, less the mean of that."""
        met = self.off[samples].isfinite()
        if not bool(met.any()):
            return 0.0 * self.bias.sum()
        before = samples[met]
        fallen = self.off[before] - off[met]
        odds = self.odds(self.said[before], p[met], theirs[met])
        unlikely = binary_cross_entropy_with_logits(odds, self.taught[before], reduction="none").sum(1)
        return ((fallen - fallen.mean()) * unlikely).mean()


@dataclass(frozen=True)
class TeacherSelection:
    """Mean over samples of Σ_k a_ik τ² KL(p_ik ‖ q_i) / max(Σ_k a_ik, 1); a_ik is drawn, 1 with probability π_ik, else 0.

    π_ik = σ(w_k · s_ik + b_k), with the state s_ik = (q_i, p_ik, L_ik) at temperature 1: what student and teacher k say, and the
    teacher's cross-entropy with the label. The policy w, b learns by REINFORCE (Williams 1992, doi 10.1007/BF00992696): what was
    chosen is rewarded, when the student meets the sample again, by how far the student's cross-entropy with the label has
    fallen, less the batch's mean of that. For a sample without a label the teachers' mean stands for it. It remembers
    [training samples, classes + members + 1], and adds nothing to the value of the loss.
    Source: Yuan et al. 2021, arXiv 2012.06048 (RL-KD): teachers selected for each sample by a Bernoulli policy of that state, the
    mean loss of those selected, a delayed reward. Their state has the student's embedding for q_i; their reward is of a whole
    batch, the student's losses or its validation score, and the policy is first trained to choose all. Here it begins so.
    """

    wants: ClassVar[str] = "members"
    also: ClassVar[tuple[str, ...]] = ("targets", "samples")
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Selector:
        """The policy, which asks everyone, and a memory of `count` samples that were never met."""
        return _Selector(count, teacher.shape[1], teacher.shape[2])

    def __call__(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        *,
        targets: torch.Tensor,
        samples: torch.Tensor,
        state: _Selector,
    ) -> torch.Tensor:
        """Logits [batch, classes], of each teacher [batch, members, classes], targets and samples [batch] → nats times τ²."""
        q, p = log_softmax(student.detach().float(), dim=1), log_softmax(teacher.float(), dim=2)
        known = one_hot(targets.clamp(min=0), q.shape[1]).to(q.dtype)
        truth = torch.where((targets >= 0)[:, None], known, p.exp().mean(1))
        off, theirs = -(truth * q).sum(1), -(truth[:, None] * p).sum(2)
        chance = state.odds(q.exp(), p.exp(), theirs).detach().sigmoid()
        chosen = (torch.rand(chance.shape) < chance).to(q.dtype)
        distances = chosen * divergences(student, teacher, self.temperature)
        loss = (distances.sum(1) / chosen.sum(1).clamp(min=1)).mean()
        if state.training:
            late = state.late(samples, off, p.exp(), theirs)
            loss = loss + (late - late.detach())
            state.said[samples], state.taught[samples], state.off[samples] = q.exp(), chosen, off
        return loss
