"""Which samples are alike, as each layer sees it: layer after layer as in the teacher, its good layers counting more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import log_softmax, normalize

from edgekd.errors import UserError
from edgekd.training.features import vectors, wide

__all__ = ["LayerDistribution"]


@dataclass(frozen=True)
class LayerDistribution:
    """Σ_l w_l · mean_i KL(p_l(· | i) ‖ q_l(· | i)), with q_l(j | i) = softmax_j of cos(s_i, s_j) / τ over the batch, p_l the teacher's.

    s: the features of a layer, averaged over positions; widths may differ, and nothing is projected. w_l = softmax over the
    layers of mean_i log Σ_j p_l(j | i) / `layer_temperature`, the inner sum over the samples of i's class. `layers` of the modules
    of each network, drawn anew for each batch, are paired in order; 0: as many as the shorter list has.
    Source: Sun et al. 2022 (LEAD), arXiv 2212.05225: label distributions of random layers of both networks, weighted by what the
    teacher's layer loses, as in the authors' code. There j are the passages of a batch, i are queries and the score is the inner
    product; a classifier has but samples, of which those of i's class are what i looks for, and whose lengths are no matter.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    least: ClassVar[int] = 2
    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    layers: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    layer_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __post_init__(self) -> None:
        named = [len(names) for names in (self.student, self.teacher) if names]
        if named and self.layers > min(named):
            message = f"layer_distribution: layers is {self.layers}, a network has {min(named)} modules named"
            raise UserError(message, hint="name more modules, or draw fewer")

    def __call__(
        self, student: list[torch.Tensor], teacher: list[torch.Tensor], *, labels: torch.Tensor
    ) -> torch.Tensor:
        """Features [batch, channels, …] of both, of any widths, labels [batch] → in nats."""
        count = min(self.layers or len(student), len(student), len(teacher))
        ours = [self._scores(student[place]) for place in _drawn(len(student), count)]
        theirs = [self._scores(teacher[place]) for place in _drawn(len(teacher), count)]
        same = labels[:, None] == labels
        gains = torch.stack([p.masked_fill(~same, -torch.inf).logsumexp(1).mean() for p in theirs])
        apart = torch.stack([(p.exp() * (p - q)).sum(1).mean() for p, q in zip(theirs, ours, strict=True)])
        return ((gains / self.layer_temperature).softmax(0) * apart).sum()

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, batch], log-probabilities over the second."""
        unit = normalize(vectors(wide(x)), dim=1)
        return log_softmax(wide(unit @ unit.T) / self.temperature, dim=1)


def _drawn(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` places in ascending order, from torch's generator; all of them where all are wanted."""
    return sorted(torch.randperm(count)[:wanted].tolist()) if wanted < count else list(range(count))
