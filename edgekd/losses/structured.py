"""Feature maps position by position, and how any two layers of a network go together, as in the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import adaptive_max_pool2d, cosine_similarity, instance_norm

from edgekd.errors import UserError
from edgekd.training.features import regressor, same_size, wide

__all__ = ["Structured"]


class _Each(nn.Module):
    """A projector for each of several features."""

    def __init__(self, projectors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(projectors)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [projector(x) for projector, x in zip(self.projectors, features, strict=True)]


@dataclass(frozen=True)
class Structured:
    """`intra` · mean over layers and positions of 1 − cos(P s, t) + `inter` · mean over pairs of layers of mean (G − G')².

    G = X Yᵀ / positions for two layers of the student, projected, brought to one size by maxima, each channel to mean 0 and
    variance 1 over positions; G' the same of the teacher. The modules `student` and `teacher` belong together in their order.
    Source: Liu et al. 2020 (SKT), arXiv 2003.10120, intra-layer pattern transfer and inter-layer relation transfer, as in the
    authors' code; there both are sums, and one image makes the relations.
    """

    wants: ClassVar[str] = "features"
    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    intra: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    inter: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def __post_init__(self) -> None:
        if (
            len(self.student) == 1
            or len(self.teacher) == 1
            or (self.student and self.teacher and len(self.student) != len(self.teacher))
        ):
            message = f"structured: student names {len(self.student)} modules, teacher {len(self.teacher)}"
            raise UserError(message, hint="as many of both, two at least, or neither")

    def projector(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> nn.Module:
        """From the student's numbers of channels to the teacher's. Raises UserError for anything but two maps or more."""
        if len(student) < 2 or any(x.dim() != 4 for x in (*student, *teacher)):
            shapes = ", ".join(f'"{name}" gives {list(x.shape)}' for name, x in zip(self.student, student, strict=True))
            hint = "name two modules or more that give [batch, channels, height, width]"
            raise UserError(f"structured: the student's {shapes}", hint=hint)
        names = zip(self.student, self.teacher, strict=True)
        return _Each([regressor("structured", n, s, t) for n, s, t in zip(names, student, teacher, strict=True)])

    def __call__(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        """Projected maps of the student and maps of the teacher, as many of both → mean over the batch."""
        ours, theirs = [wide(x) for x in student], [wide(x) for x in teacher]
        fitted = [same_size(a, b) for a, b in zip(ours, theirs, strict=True)]
        intra = torch.stack([1 - cosine_similarity(a, b, dim=1).mean() for a, b in fitted]).mean()
        return self.intra * intra + self.inter * _related([a for a, _ in fitted], [b for _, b in fitted])


def _related(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
    """How differently any two layers go together, averaged over pairs; zero for a single layer."""
    size = min(x.shape[2] for x in ours), min(x.shape[3] for x in ours)
    a, b = ([_standard(adaptive_max_pool2d(x, size)) for x in maps] for maps in (ours, theirs))
    pairs = [(a[i] @ a[j].mT - b[i] @ b[j].mT) / a[i].shape[2] for i, j in combinations(range(len(a)), 2)]
    return torch.stack([pair.square().mean() for pair in pairs]).mean() if pairs else ours[0].new_zeros(())


def _standard(x: torch.Tensor) -> torch.Tensor:
    """[batch, channels, positions], of mean 0 and variance 1 over positions; of a single position zero."""
    return instance_norm(x).flatten(2) if x.shape[2] * x.shape[3] > 1 else torch.zeros_like(x).flatten(2)
