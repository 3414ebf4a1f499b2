"""A critic as steep as one at most finds how far a sample's own pair of features is from pairs of any two samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import spectral_norm

from edgekd.training.features import Pool, vectors

__all__ = ["WassersteinDual"]


class _Critic(nn.Module):
    """g, from pairs [n, 2 · channels] to [n]: each layer divided by its largest singular value, so that |g(a) − g(b)| ≤ |a − b|."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        first, last = nn.Linear(2 * channels, width), nn.Linear(width, 1)
        self.layers = nn.Sequential(spectral_norm(first), nn.LeakyReLU(0.2), spectral_norm(last))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(pairs).squeeze(1)
        return found


@dataclass(frozen=True)
class WassersteinDual:
    """2 − (mean_i g(t_i, s_i) − mean_ij g(t_i, s_j)), with s the student's features through a linear projector, t the teacher's.

    Both have length one. What is taken from 2 is, for the best critic g, the Wasserstein distance of the pairs of one sample from
    the pairs of any two, by the Kantorovich-Rubinstein duality, and at most 2: the more a student's features say of the
    teacher's, the larger it is. Student and critic both raise it. The critic is dropped after training.
    Source: Chen et al. 2021 (WCoRD), arXiv 2012.08674, the global contrast, which is the dual form, with a spectrally normalised critic;
    here over all pairs of the batch with equal mass in both terms, where theirs draws negatives from a memory. The primal form is
    the loss wasserstein.
    """

    wants: ClassVar[str] = "features"
    least: ClassVar[int] = 2
    student: str = ""
    teacher: str = ""
    width: Annotated[int, Field(ge=1)] = 64

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's features, averaged over positions, to the teacher's number of channels."""
        return nn.Sequential(Pool(), nn.Linear(vectors(student).shape[1], vectors(teacher).shape[1]))

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> nn.Module:
        """The critic, drawn from torch's generator."""
        return _Critic(vectors(teacher).shape[1], self.width)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, state: nn.Module) -> torch.Tensor:
        """Projected features [batch, channels] of the student, features [batch, channels, …] of the teacher → in [0, 4]."""
        ours, theirs = (normalize(vectors(x), dim=1) for x in (student, teacher))
        count = len(ours)
        pairs = torch.cat([theirs.repeat_interleave(count, 0), ours.repeat(count, 1)], 1)
        values: torch.Tensor = state(pairs).view(count, count)
        return 2 - (values.diagonal().mean() - values.mean())
