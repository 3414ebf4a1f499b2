"""First-order Taylor estimate of the squared change of the task loss when a channel's filter is zeroed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from edgekd.pruning.groups import first_order

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group

__all__ = ["Taylor"]


@dataclass(frozen=True)
class Taylor:
    """Score of a channel: Σ (g·w)² over the weights w of the filters that make it, g = ∂loss/∂w of one backward pass.

    Squares are summed, not sums squared: for a filter before a batch norm, Σ g·w is nearly zero however much it matters,
    as the norm undoes a change of scale.
    Source: Molchanov et al. 2019, arXiv 1906.10771, section 3, "sum of individual contributions"; averaged over passes as there.
    """

    needs: ClassVar[str] = "task_gradient"

    def __call__(self, group: Group) -> torch.Tensor:
        return group.total(group.producers, lambda w: first_order(w).square())
