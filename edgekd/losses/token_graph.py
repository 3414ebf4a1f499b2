"""A graph of tokens across the batch: who is whose neighbour, who is who, and what an image's tokens are to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, normalize, softmax

from edgekd.errors import UserError
from edgekd.training.features import same_size

__all__ = ["TokenGraph"]


@dataclass(frozen=True)
class TokenGraph:
    """`inner` · L_inner + `local` · L_local + `contrast` · L_global, over tokens [channels] of student and teacher.

    L_inner: mean of (R − R')², with R = softmax(F Fᵀ / √channels) for the tokens F of one image, R' the teacher's.
    L_local: mean over tokens i of KL(Q_i ‖ P_i), with Q_i = softmax over j of A_ij, A_ij = exp(−|t_i − t_j|² / (2 · `spread`)) for the
    `neighbours` nearest tokens j of i and 0 for the others, P_i the teacher's; here tokens are scaled to length one.
    L_global: −log softmax over j of cos(W s_i, t_j) / τ at j = i, W a learned linear layer; τ falls from `temperature` to `coldest`
    over the training, from the coarse to the fine.
    A map is a token for each position. The last two see at most `nodes` tokens of the batch, drawn anew each time. Other
    tokens are near too, so it is not zero where the student equals the teacher.
    Source: Zhang, Liu, He 2023, arXiv 2306.12442 (TRG), its three losses and the falling temperature. Its weights and numbers
    are per data set; the defaults are ours. That L_local's tokens have length one is ours too: `spread` then needs no tuning.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("progress",)
    student: str = ""
    teacher: str = ""
    inner: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    local: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    contrast: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    nodes: Annotated[int, Field(ge=2)] = 256
    neighbours: Annotated[int, Field(ge=1)] = 8
    spread: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    coldest: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> nn.Module:
        """W, from the student's number of channels to the teacher's."""
        ours, theirs = self._tokens(student, teacher)
        return nn.Linear(ours.shape[2], theirs.shape[2], bias=False)

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, progress: float, state: nn.Module
    ) -> torch.Tensor:
        """Maps [batch, channels, height, width] or tokens [batch, tokens, channels] of both. Raises UserError for others."""
        ours, theirs = self._tokens(student, teacher)
        inner = mse_loss(_context(ours), _context(theirs))
        s, t = ours.flatten(0, 1), theirs.flatten(0, 1)
        if len(s) > self.nodes:
            few = torch.randperm(len(s))[: self.nodes]
            s, t = s[few], t[few]
        q, p = (log_softmax(self._graph(x), dim=1) for x in (s, t))
        local = kl_div(p, q, reduction="batchmean", log_target=True)
        heat = self.temperature + (self.coldest - self.temperature) * progress
        scores = normalize(state(s), dim=1) @ normalize(t, dim=1).T / heat
        alike = cross_entropy(scores, torch.arange(len(s), device=s.device))
        return self.inner * inner + self.local * local + self.contrast * alike

    def _graph(self, x: torch.Tensor) -> torch.Tensor:
        """A [nodes, nodes] of tokens [nodes, channels]."""
        unit = normalize(x, dim=1)
        apart = (2 - 2 * unit @ unit.T).clamp(min=0)
        alone = apart.detach() + torch.diag(torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device))
        near = alone.topk(min(self.neighbours, len(x) - 1), dim=1, largest=False).indices
        edges = torch.zeros_like(apart).scatter(1, near, 1.0)
        return edges * torch.exp(-apart / (2 * self.spread))

    def _tokens(self, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, tokens, channels] of both, as many tokens."""
        if student.dim() == teacher.dim() == 4:
            student, teacher = (x.flatten(2).transpose(1, 2) for x in same_size(student, teacher))
        if student.dim() != 3 or teacher.dim() != 3 or student.shape[1] != teacher.shape[1]:
            shapes = f'"{self.student}" gives {list(student.shape)}, "{self.teacher}" gives {list(teacher.shape)}'
            hint = "name two modules that give maps, or [batch, tokens, channels] of as many tokens"
            raise UserError(f"token_graph: the student's {shapes}", hint=hint)
        return student, teacher


def _context(x: torch.Tensor) -> torch.Tensor:
    """R [batch, tokens, tokens] of tokens [batch, tokens, channels]."""
    part = x / x.shape[2] ** 0.25  # before the product, which half precision could not hold
    return softmax(part @ part.transpose(1, 2), dim=2)
