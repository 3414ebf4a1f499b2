"""The student's units are those of the teacher's that the teacher's answer depends on most: nothing is projected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cosine_similarity, log_softmax

from edgekd.errors import UserError
from edgekd.training.features import tokens, vectors, wide

__all__ = ["TaskUnits"]


class _Relevance(nn.Module):
    """How much the teacher's answers have depended on each of its units so far, summed over samples."""

    sums: torch.Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(units))


@dataclass(frozen=True)
class TaskUnits:
    """Mean over the student's units m of (1 − ρ(s_m, t_k(m)))², with ρ Pearson's correlation over the batch.

    k: the teacher's units of most relevance, as many as the student has, in their own order. Relevance: the mean over samples
    and positions of |∂ log p / ∂ t|, with p the teacher's probability of the class that it predicts. It is gathered in the first
    `observe` of the training, during which the student learns nothing by this loss. Maps and tokens are averaged over positions.
    Source: Saadi, Wang 2025 (Flex-KD), arXiv 2507.10155: units chosen by gradient magnitudes summed over the data, aligned by
    correlation. They gather them in a pass before training, and differentiate a language model's output; the square of 1 − ρ is
    the diagonal term of Zbontar et al. 2021 (Barlow Twins), arXiv 2103.03230, equation 1.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("tail", "progress")
    least: ClassVar[int] = 2
    student: str = ""
    teacher: str = ""
    observe: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Relevance:
        """A sum for each of the teacher's units. Raises UserError for a student of more units."""
        own, theirs = tokens(student).shape[2], tokens(teacher).shape[2]
        if own > theirs:
            message = (
                f'task_units: the student\'s "{self.student}" has {own} units, the teacher\'s "{self.teacher}" {theirs}'
            )
            raise UserError(message, hint="a wider module of the teacher, or hint, which projects")
        return _Relevance(theirs)

    def __call__(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        *,
        tail: Callable[[torch.Tensor], torch.Tensor],
        progress: float,
        state: _Relevance,
    ) -> torch.Tensor:
        """Features [batch, channels, …] of both → mean over the student's units, in [0, 4]."""
        ours, theirs = vectors(wide(student)), vectors(wide(teacher))
        watching = progress < self.observe
        if state.training and (watching or not bool(state.sums.any())):
            state.sums.add_(self._relevance(teacher, tail))
        if watching:
            return 0.0 * ours.sum()
        units = state.sums.argsort(descending=True, stable=True)[: ours.shape[1]].sort().values
        correlation = cosine_similarity(ours - ours.mean(0), (theirs - theirs.mean(0))[:, units], dim=0)
        return (1 - correlation).square().mean()

    def _relevance(self, teacher: torch.Tensor, tail: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """[the teacher's units], summed over the batch."""
        with torch.enable_grad():
            x = teacher.detach().requires_grad_()
            surest = log_softmax(wide(tail(x)), dim=1).amax(1).sum()
            (gradient,) = torch.autograd.grad(surest, x)
        return tokens(wide(gradient)).abs().mean(1).sum(0)
