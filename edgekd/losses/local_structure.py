"""The neighbourhoods of the teacher's most important positions, seen through a layer each, are the same in the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from edgekd.errors import UserError
from edgekd.training.features import aligned, tokens, wide

__all__ = ["LocalStructure"]


class _Edge(nn.Module):
    """A neighbour and its centre through a linear layer, batch norm and ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(2 * channels, width, bias=False), nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, points, neighbours, 2 · channels] → the same with width."""
        found: torch.Tensor = self.norm(self.linear(x).flatten(0, 2))
        return found.relu().view(*x.shape[:3], -1)


@dataclass(frozen=True)
class LocalStructure:
    """Mean over points i and their neighbours j of w_i · (G(s_j, s_i) − G'(t_j, t_i))², with G, G' learned, of `width` channels.

    Points: the `points` positions where the teacher's largest channel is highest; neighbours: the `neighbours` positions nearest
    to each in the teacher's features, itself among them. w = points · softmax of that height / `temperature`.
    Source: Zhang et al. 2022 (PointDistiller), arXiv 2205.11098, local distillation and reweighted learning, as in the authors'
    code for feature maps, but for its factor 2 and its 1 / 100 or less as temperature, at which a single point counts. There the
    positions are voxels of a point cloud.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    points: Annotated[int, Field(ge=1)] = 64
    neighbours: Annotated[int, Field(ge=1)] = 16
    width: Annotated[int, Field(ge=1)] = 32
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> nn.ModuleList:
        """G and G'."""
        return nn.ModuleList(_Edge(tokens(x).shape[2], self.width) for x in (student, teacher))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: nn.ModuleList) -> torch.Tensor:
        """Maps or tokens of both → mean over the batch. Raises UserError for vectors, which have no neighbours."""
        ours, theirs = aligned("local_structure", wide(student), wide(teacher))
        if theirs.shape[1] < 2:
            message = f'local_structure: "{self.student}" gives {list(student.shape)}: one position has no neighbours'
            raise UserError(message, hint="name modules that give maps or tokens")
        height, points = theirs.amax(2).topk(min(self.points, theirs.shape[1]), dim=1)
        rows = torch.arange(len(theirs))[:, None]
        apart = torch.cdist(theirs[rows, points], theirs, compute_mode="donot_use_mm_for_euclid_dist")
        near = apart.topk(min(self.neighbours, theirs.shape[1]), dim=2, largest=False).indices
        a, b = (edge(_edges(x, points, near)) for edge, x in zip(state, (ours, theirs), strict=True))
        weight = (height / self.temperature).softmax(1) * height.shape[1]
        error: torch.Tensor = (a - b).square().mean((2, 3))
        return (error * weight).mean()


def _edges(x: torch.Tensor, points: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """[batch, points, neighbours, 2 · channels]: each neighbour, and its centre, of [batch, positions, channels]."""
    rows = torch.arange(len(x))[:, None]
    neighbours = x[rows[:, :, None], near]
    return torch.cat([neighbours, x[rows, points][:, :, None].expand_as(neighbours)], 3)
