"""What is like what across two sides, each row and each column a distribution: images and texts, samples and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax

__all__ = ["Affinity"]


@dataclass(frozen=True)
class Affinity:
    """(mean_i KL(P_i· ‖ Q_i·) + mean_c KL(P_·c ‖ Q_·c)) / 2, with P, Q the softmax of the teacher's and the student's logits / τ.

    Of a network whose logits are the similarities of a batch's images to texts, rows say which text belongs to an image and
    columns which image to a text. Of a classifier, columns say which samples of the batch are most a class's.
    Source: Wu et al. 2023, arXiv 2309.12314 (TinyCLIP), affinity mimicking: the cross-entropies of both directions, averaged as
    in the authors' code, less the teacher's entropy, which has no gradient. Their τ is each model's own logit scale.
    """

    wants: ClassVar[str] = "logits"
    least: ClassVar[int] = 2
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of both → nats."""
        return (self._divergence(student, teacher, 1) + self._divergence(student, teacher, 0)) / 2

    def _divergence(self, student: torch.Tensor, teacher: torch.Tensor, dim: int) -> torch.Tensor:
        """Mean over the lines along `dim`."""
        q, p = (log_softmax(x / self.temperature, dim=dim) for x in (student, teacher))
        return kl_div(q, p, reduction="none", log_target=True).sum(dim).mean()
