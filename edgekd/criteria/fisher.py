"""Fisher information of a gate on each channel: half the squared slope of the task loss, at the layers that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from edgekd.pruning.groups import first_order

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group

__all__ = ["Fisher"]


@dataclass(frozen=True)
class Fisher:
    """Score of a channel: ½ (∂loss/∂m)² of one backward pass, for a gate m = 1 on the channel, averaged over samples.

    Removing the channel is m = 0. At an optimum the first-order change vanishes on average, and the second-order change ½ ∂²loss/∂m²
    is half the Fisher information of m, the mean of the squared slope over single samples. The gate stands where the
    channel is read: ∂loss/∂m = Σ g·w over the weights w that read it. A coupled group has one gate for all its readers, so slopes are
    summed before they are squared.

    Source: Theis et al. 2018, arXiv 1801.05787, its Fisher pruning signal; one gate for coupled layers: Liu et al. 2021, arXiv
    2108.00708, its section on layer grouping.
    """

    needs: ClassVar[str] = "task_gradient"

    def __call__(self, group: Group) -> torch.Tensor:
        return group.total(group.consumers, first_order).square() / 2
