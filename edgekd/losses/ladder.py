"""All depths of the student together reach for the teacher's last features, each by a projector of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity, smooth_l1_loss

from edgekd.errors import UserError
from edgekd.training.features import tokens, vectors, wide

__all__ = ["Ladder"]


class _Rungs(nn.Module):
    """The sum over several inputs [batch, positions, channels] of a small network each → [batch, positions, width]."""

    def __init__(self, channels: list[int], hidden: int, width: int) -> None:
        super().__init__()
        self.rungs = nn.ModuleList(
            nn.Sequential(nn.Linear(own, hidden), nn.GELU(), nn.Linear(hidden, width)) for own in channels
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([rung(x) for rung, x in zip(self.rungs, features, strict=True)]).sum(0)


@dataclass(frozen=True)
class Ladder:
    """Mean of L(Σ_i P_i s_i, t) over positions, and the same, with other P, of the means over positions; half the sum of both.

    L(a, b) = (1 − cos(a, b)) / 2 + mean h(a − b) / 2, with h Huber's loss at 1; s_i: the features of the modules `student`, maps
    brought to the teacher's size; P_i: a linear layer to `hidden`, GELU and a linear layer. Gradients reach the early layers
    on a short way. A teacher that gives vectors has the second part alone.
    Source: Sariyildiz et al. 2024 (UNIC), arXiv 2408.05088, the ladder of projectors and the loss, as in the authors' code, where
    the class token has the place of the mean; it standardises what its teachers give by running statistics, and drops teachers.
    """

    wants: ClassVar[str] = "features"
    student: tuple[str, ...] = ()
    teacher: str = ""
    hidden: Annotated[int, Field(ge=1)] = 256

    def state(self, student: list[torch.Tensor], teacher: torch.Tensor, count: int) -> nn.ModuleList:
        """The projectors of positions and of means."""
        channels, width = [tokens(x).shape[2] for x in student], tokens(teacher).shape[2]
        return nn.ModuleList(_Rungs(channels, self.hidden, width) for _ in range(2))

    def __call__(self, student: list[torch.Tensor], teacher: torch.Tensor, *, state: nn.ModuleList) -> torch.Tensor:
        """Features of the student, of any kinds, and of the teacher → mean over the batch. Raises UserError for other tokens."""
        ours, theirs = [wide(x) for x in student], wide(teacher)
        means = _distance(state[1]([vectors(x)[:, None] for x in ours]), vectors(theirs)[:, None])
        if theirs.dim() == 2:
            return means
        return (_distance(state[0]([self._fitted(x, theirs) for x in ours]), tokens(theirs)) + means) / 2

    def _fitted(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """[batch, positions, channels], of the teacher's positions."""
        if x.dim() == like.dim() == 4:
            return tokens(adaptive_avg_pool2d(x, (like.shape[2], like.shape[3])))
        if tokens(x).shape[1] != tokens(like).shape[1]:
            message = (
                f"ladder: the student gives {list(x.shape)}, the teacher {list(like.shape)}: they have other positions"
            )
            raise UserError(message, hint="name modules that give maps, or as many tokens as the teacher's")
        return tokens(x)


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Half cosine, half Huber, [batch, positions, channels] of both."""
    return (1 - cosine_similarity(a, b, dim=2).mean() + smooth_l1_loss(a, b)) / 2
