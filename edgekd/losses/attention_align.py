"""Each of the teacher's attention heads is made of the student's, by weights that are learned: no head need be paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from edgekd.errors import UserError

__all__ = ["AttentionAlign"]


@dataclass(frozen=True)
class AttentionAlign:
    """Mean over heads of KL(A' ‖ A), with A = softmax of the map r(a) over all queries and keys, A' of the teacher's map a'.

    a [heads, queries, keys]: what a module gives, such as the softmax of an attention. r: a 1 × 1 convolution from the student's heads
    to the teacher's. Name the modules of more layers in further entries of the recipe's losses.
    Source: Jin et al. 2024, arXiv 2403.01479 (Align-to-Distill), the attention alignment module and its divergence, in the form
    of the authors' code, which softens the maps once more; a mean over batch and heads where that has the sum. Theirs mixes the
    heads of all layers at once, and its weight decays: `weight = [1.0, 0.0]`.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""

    def projector(self, student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
        """From the student's heads to the teacher's. Raises UserError where there are none, or other tokens."""
        self._check(student, teacher)
        return nn.Conv2d(student.shape[1], teacher.shape[1], 1)

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Maps [batch, heads, queries, keys] of both, the student's projected → nats. Raises UserError as `projector` does."""
        self._check(student, teacher)
        q, p = (log_softmax(x.flatten(2), dim=2) for x in (student, teacher))
        return kl_div(q, p, reduction="none", log_target=True).sum(2).mean()

    def _check(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[2:] != teacher.shape[2:]:
            shapes = f'"{self.student}" gives {list(student.shape)}, "{self.teacher}" gives {list(teacher.shape)}'
            hint = "name two modules that give attention, [batch, heads, queries, keys], of as many tokens"
            raise UserError(f"attention_align: the student's {shapes}", hint=hint)
