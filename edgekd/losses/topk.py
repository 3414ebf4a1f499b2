"""The teacher's first k classes, and how likely any other is: all that a cache of top-k outputs can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

from edgekd.errors import UserError

__all__ = ["Topk"]


@dataclass(frozen=True)
class Topk:
    """KL of {P, 1 − P} + P · τ² · KL_τ among the k classes, teacher to student; P: the teacher's probability of its first k.

    The first term is at temperature 1, and only the second is tempered, so that τ never mixes classes that are kept with
    those that are not. At τ = 1 it is what KL(teacher ‖ student) says of the k classes, by the chain rule.
    Source: Amini et al. 2025, arXiv 2511.23404 (LFM2), the tempered, decoupled top-k objective, there with k = 32; τ² as in
    Hinton et al. 2015, arXiv 1503.02531, so that τ does not change the balance of the two terms.
    """

    wants: ClassVar[str] = "logits"
    k: Annotated[int, Field(ge=1)] = 3
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → mean over the batch, in nats. Raises UserError for fewer than k + 1 classes."""
        classes = teacher.shape[1]
        if self.k >= classes:
            hint = f"k below {classes}, or the loss kl, which has all of them"
            raise UserError(f"topk: k is {self.k}, there are {classes} classes", hint=hint)
        order = teacher.argsort(dim=1, descending=True, stable=True)
        (q, q_among), (p, p_among) = (self._parts(x.gather(1, order)) for x in (student, teacher))
        kept = kl_div(q, p, reduction="none", log_target=True).sum(1)
        among = kl_div(q_among, p_among, reduction="none", log_target=True).sum(1)
        return (kept + p[:, 0].exp() * self.temperature**2 * among).mean()

    def _parts(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [batch, 2] of the first k and of the rest, and [batch, k] among the first k, tempered."""
        first, rest = logits[:, : self.k], logits[:, self.k :]
        both = torch.stack([first.logsumexp(1), rest.logsumexp(1)], 1)
        return log_softmax(both, dim=1), log_softmax(first / self.temperature, dim=1)
