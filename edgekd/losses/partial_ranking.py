"""The teacher's order among the candidates that the student finds hardest to tell from the right one, and of no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import softmax

from edgekd.errors import UserError

__all__ = ["PartialRanking"]


@dataclass(frozen=True)
class PartialRanking:
    """Σ_j (log Σ_{k ≥ j} exp(s_k / τ) − s_j / τ) over the valid ones of K hard negatives, which the teacher has put in order.

    s: the student's logits of the K classes that it scores highest beside the label's, in descending order of the teacher's
    logits. Valid are those before the first whose probability by the teacher is not above `threshold`: of easy negatives the order
    means nothing. Each valid one is drawn to the query, away from all behind it. In ranking, the classes are the candidates of
    a query and the label is the relevant one. It is not zero where the student equals the teacher.
    Source: Chen et al. 2024, arXiv 2407.07479 (CPRD), the contrastive partial ranking loss, there with negatives from a queue
    and a cross-encoder's matching score, whose scale the threshold is of; ours is a probability.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    negatives: Annotated[int, Field(ge=2)] = 8
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.01
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both, labels [batch] → mean over the batch, in nats. Raises UserError for two classes."""
        classes = student.shape[1]
        if classes < 3:
            raise UserError(
                f"partial_ranking: {classes} classes leave no negatives to rank", hint="three candidates or more"
            )
        others = student.detach().scatter(1, labels[:, None], float("-inf"))
        hard = others.topk(min(self.negatives, classes - 1), dim=1).indices
        ranked = hard.gather(1, teacher.gather(1, hard).argsort(dim=1, descending=True, stable=True))
        valid = softmax(teacher, dim=1).gather(1, ranked) > self.threshold
        scores = student.gather(1, ranked) / self.temperature
        behind = scores.flip(1).logcumsumexp(1).flip(1)
        return ((behind - scores) * valid).sum(1).mean()
