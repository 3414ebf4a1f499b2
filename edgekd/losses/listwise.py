"""Lists: for each sample, how the samples of the batch are ordered by their likeness to it, as the teacher orders them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax, normalize

from edgekd.training.features import vectors

__all__ = ["Listwise"]


@dataclass(frozen=True)
class Listwise:
    """Mean over samples i of KL(P_i ‖ Q_i), with P_i(j) = softmax over j of cos(t_i, t_j) / τ and Q_i(j) the student's.

    A list's top-one probabilities: how likely each sample of the batch (the sample itself among them) is to come first. Widths
    may differ and nothing is projected.
    Source: Cao et al. 2007 (ListNet, ICML), definition 3 and the listwise loss; as what a student learns of a teacher's
    rankings Chen et al. 2017 (DarkRank), arXiv 1707.01220, section 4, whose scores are powers of distances.
    """

    wants: ClassVar[str] = "features"
    least: ClassVar[int] = 2
    student: str = ""
    teacher: str = ""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Features [batch, channels, …] of both, of any widths → nats."""
        q, p = (log_softmax(_likeness(x) / self.temperature, dim=1) for x in (student, teacher))
        return kl_div(q, p, reduction="batchmean", log_target=True)


def _likeness(x: torch.Tensor) -> torch.Tensor:
    """[batch, batch]: cosines of the samples' vectors."""
    unit = normalize(vectors(x), dim=1)
    return unit @ unit.T
