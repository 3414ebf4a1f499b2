"""Relations between samples: their distances, and the angles that three of them make, as in the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import smooth_l1_loss

from edgekd.training.features import vectors

__all__ = ["Rkd"]


@dataclass(frozen=True)
class Rkd:
    """`distance` · mean_ij h(d_ij / μ, d'_ij / μ') + `angle` · mean_ijk h(cos ∠ijk, cos' ∠ijk), with h Huber's loss at 1.

    d_ij: the distance of two samples' vectors, μ: the mean of those above zero; ∠ijk: the angle at sample i between j and k.
    Dashed: the teacher's. Maps and tokens are averaged over positions first, so widths may differ and nothing is projected.
    It needs three samples, and memory that grows with the batch cubed.
    Source: Park et al. 2019, arXiv 1904.05068, the distance-wise and angle-wise losses, weighted 1 and 2 as there.
    """

    wants: ClassVar[str] = "features"
    least: ClassVar[int] = 3
    student: str = ""
    teacher: str = ""
    distance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    angle: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Features [batch, channels, …] of both, of any widths → scalar."""
        ours, theirs = vectors(student), vectors(teacher)
        distances = smooth_l1_loss(_distances(ours), _distances(theirs))
        angles = smooth_l1_loss(_angles(ours), _angles(theirs))
        return self.distance * distances + self.angle * angles


def _distances(x: torch.Tensor) -> torch.Tensor:
    """[batch, batch], relative to their mean."""
    found = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return found / found[found > 0].mean() if bool((found > 0).any()) else found


def _angles(x: torch.Tensor) -> torch.Tensor:
    """[batch, batch, batch]: the cosine at i between j and k; zero where two of them are the same."""
    between = x[None] - x[:, None]
    length = between.norm(dim=2, keepdim=True)
    unit = between / torch.where(length > 0, length, 1.0)
    return unit @ unit.transpose(1, 2)
