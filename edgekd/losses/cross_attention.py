"""The student's features, asked by learned queries, come near the teacher's, whatever either network is built of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss, normalize

from edgekd.errors import UserError
from edgekd.training.features import tokens, wide

__all__ = ["CrossAttention"]


class _Attention(nn.Module):
    """A learned query for each of the teacher's positions; keys and values from the student's features and their places."""

    def __init__(self, student: torch.Tensor, teacher: torch.Tensor, heads: int) -> None:
        super().__init__()
        (held, own), (asked, width) = tokens(student).shape[1:], tokens(teacher).shape[1:]
        self.enter = nn.Sequential(nn.Linear(own, own), nn.LayerNorm(own), nn.ReLU())
        self.places = nn.Parameter(0.02 * torch.randn(held, own))
        self.queries = nn.Parameter(torch.randn(asked, width))
        self.attend = nn.MultiheadAttention(width, math.gcd(heads, width), kdim=own, vdim=own, batch_first=True)
        self.leave = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Student's features → [batch, the teacher's positions, the teacher's channels]."""
        held = self.enter(tokens(x)) + self.places
        found = self.attend(self.queries.expand(len(x), -1, -1), held, held, need_weights=False)
        left: torch.Tensor = self.leave(found[0])
        return left


class _Groups(nn.Module):
    """Each position of the teacher's grid by a linear layer that it shares with its neighbourhood."""

    layer: torch.Tensor

    def __init__(self, own: int, width: int, size: tuple[int, int], neighbourhood: int) -> None:
        super().__init__()
        self.size = size
        rows, columns = (torch.arange(side) // neighbourhood for side in size)
        self.register_buffer("layer", (rows[:, None] * len(columns.unique()) + columns).flatten())
        self.layers = nn.ModuleList(nn.Linear(own, width) for _ in self.layer.unique())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Student's maps → [batch, the teacher's positions, the teacher's channels]."""
        held = tokens(adaptive_avg_pool2d(x, self.size))
        by_each = torch.stack([layer(held) for layer in self.layers], 2)
        return by_each[:, torch.arange(len(self.layer)), self.layer]


@dataclass(frozen=True)
class CrossAttention:
    """`whole` · mean ‖n(P s) − n(t)‖² + `details` · mean ‖n(Q s − mean Q s) − n(t − mean t)‖² over positions, in [0, 4] each.

    n divides the channels of a position by their length; the inner means are over positions: the second view lacks each
    channel's part of zero frequency, which hides the rest. P and Q: cross-attention with learned queries for the teacher's
    positions, of `heads` heads (of their greatest common divisor with the teacher's channels). `by = "groups"` instead:
    mean (G s − t)², with G a linear layer for each `neighbourhood` × `neighbourhood` positions of the teacher's grid.
    Source: Fan et al. 2024 (ScaleKD), arXiv 2411.06786, the cross-attention projector and dual-view feature mimicking, as in the
    authors' code, but with a linear layer and layer norm, which suit tokens too, for its first convolution and batch norm, and
    a mean over positions for its sum. To zero the lowest coefficient of a cosine transform, as they do, is to take away the mean.
    The third part, teacher parameter perception, is not here. Liu et al. 2022, arXiv 2207.05273, the group-wise linear projector,
    where 4 × 4 neighbours share a layer; without dropout, and without the partial cross attention and views of that paper.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    by: Literal["attention", "groups"] = "attention"
    whole: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    details: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    heads: Annotated[int, Field(ge=1)] = 8
    neighbourhood: Annotated[int, Field(ge=1)] = 4

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> nn.Module:
        """Both projectors, or the groups' layers. Raises UserError for groups of anything but two maps."""
        if self.by == "attention":
            return nn.ModuleList(_Attention(student, teacher, self.heads) for _ in range(2))
        if student.dim() != 4 or teacher.dim() != 4:
            shapes = f'"{self.student}" gives {list(student.shape)}, "{self.teacher}" gives {list(teacher.shape)}'
            hint = 'by = "attention", or two modules that give [batch, channels, height, width]'
            raise UserError(f"cross_attention: the student's {shapes}: groups are of maps", hint=hint)
        height, width = teacher.shape[2:]
        return _Groups(student.shape[1], teacher.shape[1], (height, width), self.neighbourhood)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: nn.Module) -> torch.Tensor:
        """Features [batch, channels, height, width] or [batch, positions, channels], each of its own kind → mean over the batch."""
        ours, theirs = wide(student), tokens(wide(teacher))
        if isinstance(state, _Groups):
            return mse_loss(state(ours), theirs)
        assert isinstance(state, nn.ModuleList)
        whole, details = (wide(projector(ours)) for projector in state)
        return self.whole * _distance(whole, theirs) + self.details * _distance(_varied(details), _varied(theirs))


def _varied(x: torch.Tensor) -> torch.Tensor:
    """[batch, positions, channels] without the mean over positions."""
    return x - x.mean(1, keepdim=True)


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean over positions of ‖n(a) − n(b)‖²."""
    return (normalize(a, dim=2) - normalize(b, dim=2)).square().sum(2).mean()
