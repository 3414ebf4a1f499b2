"""Where and in which channels to look is learned too, from what student and teacher make of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from edgekd.training.features import aligned, regressor, wide

__all__ = ["AdaptiveMask"]

SMALL = 1e-6
"""A mask whose sum is below this has closed: large features drive its sigmoid to zero, and it may not be divided by."""


class _Masks(nn.Module):
    """Cross-attention of teacher on student, and what selects channels and positions of it."""

    def __init__(self, width: int, masks: int) -> None:
        super().__init__()
        inner = max(width // 2, 1)
        self.query, self.key = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.channels = nn.Parameter(torch.randn(masks, 1))
        self.positions = nn.Parameter(torch.randn(masks, width))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, positions, channels] of both → masks of channels [batch, masks, channels] and of positions, in (0, 1)."""
        query, key = self.query(teacher), self.key(student)
        attention = (query @ key.transpose(1, 2) / key.shape[2] ** 0.5).softmax(2)
        fused = attention @ self.value(student)
        return (self.channels * fused.mean(1, keepdim=True)).sigmoid(), (
            self.positions @ fused.transpose(1, 2)
        ).sigmoid()


@dataclass(frozen=True)
class AdaptiveMask:
    """Mean over `masks` of Σ_c M_c e_c / Σ_c M_c, the same with positions for channels, and `diversity` · D.

    e: the squared difference of the projected student's features and the teacher's, averaged over positions for a channel c,
    over channels for a position. M = σ(m · F): m learned; F = softmax(Q K' / √d) V, with Q from the teacher's features, K and V
    from the student's; for channels F is averaged over positions. D = mean over pairs of masks of 2 M_i · M_j / (‖M_i‖² +
    ‖M_j‖²), so that masks do not become alike. The masks follow the student as it changes, but give it no gradient.
    Source: Lan, Tian 2025 (ACAM-KD), arXiv 2503.06307, the cross-attention fusion, the adaptive spatial-channel masking with 6
    masks, and the Dice coefficient as diversity loss. That a mask's error is divided by the mask's sum, which keeps the mask from
    going to zero, is as in Huang et al. 2022 (MasKD), arXiv 2205.14589; that masks give the student no gradient is our choice.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    masks: Annotated[int, Field(ge=2)] = 6
    diversity: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's number of channels to the teacher's. Raises UserError for features of different kinds."""
        return regressor("adaptive_mask", (self.student, self.teacher), student, teacher)

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Masks:
        """The attention and the selecting vectors, for the teacher's number of channels."""
        return _Masks(teacher.shape[1] if teacher.dim() == 4 else teacher.shape[-1], self.masks)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: _Masks) -> torch.Tensor:
        """Projected features of the student and the teacher's: the same number of channels → mean over the batch."""
        ours, theirs = aligned("adaptive_mask", wide(student), wide(teacher))
        error = (ours - theirs).square()
        total = torch.zeros((), dtype=error.dtype)
        for masks, errors in zip(state(ours.detach(), theirs), (error.mean(1), error.mean(2)), strict=True):
            masked = (masks * errors[:, None]).sum(2) / masks.sum(2).clamp(min=SMALL)
            total = total + masked.mean() + self.diversity * _alike(masks) / 2
        return total


def _alike(masks: torch.Tensor) -> torch.Tensor:
    """The mean Dice coefficient of two of the masks [batch, masks, parts]."""
    products = masks @ masks.transpose(1, 2)
    lengths = products.diagonal(dim1=1, dim2=2)
    dice = 2 * products / (lengths[:, :, None] + lengths[:, None, :]).clamp(min=SMALL)
    count = masks.shape[1]
    return dice[:, *torch.triu_indices(count, count, 1)].mean()
