"""How tokens relate to each other in queries, keys or values, as in the teacher: widths and heads may differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

from edgekd.errors import UserError

__all__ = ["AttentionRelations"]


@dataclass(frozen=True)
class AttentionRelations:
    """Mean over `heads` and tokens of KL(R' ‖ R), with R = softmax(A Aᵀ / √d) over the tokens, R' the teacher's.

    A: what a module gives, [tokens, channels], cut into `heads` parts of d channels. Name the projections of queries, of
    keys and of values in three entries of the recipe's losses, each with the teacher's.
    Source: Wang et al. 2021, arXiv 2012.15828 (MiniLMv2), the multi-head self-attention relations.
    """

    wants: ClassVar[str] = "features"
    student: str = ""
    teacher: str = ""
    heads: Annotated[int, Field(ge=1)] = 4

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Features [batch, tokens, channels] of both → mean over the batch, in nats. Raises UserError for other shapes."""
        for whose, name, x in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            if x.dim() != 3 or x.shape[1] != student.shape[1]:
                hint = "name two modules that give [batch, tokens, channels], of as many tokens"
                raise UserError(f'attention_relations: the {whose}\'s "{name}" gives {list(x.shape)}', hint=hint)
            if x.shape[2] % self.heads:
                message = (
                    f'attention_relations: {x.shape[2]} channels of the {whose}\'s "{name}" make no {self.heads} heads'
                )
                raise UserError(message, hint="heads that divide the channels of both")
        ours, theirs = self._relations(student), self._relations(teacher)
        return kl_div(ours, theirs, reduction="none", log_target=True).sum(3).mean()

    def _relations(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, heads, tokens, tokens], log-probabilities over the last."""
        parts = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return log_softmax(parts @ parts.transpose(2, 3) / parts.shape[3] ** 0.5, dim=3)
