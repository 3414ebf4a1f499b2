"""L2 norm of a channel's weights, relative to the mean of its group: small weights are missed little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group

__all__ = ["Magnitude"]


@dataclass(frozen=True)
class Magnitude:
    """Score of a channel: √(Σ w²) over all weights that make it or read it, divided by the group's mean.

    Biases and batch norms are left out. The division lets layers of different fan-in be compared; it changes no order
    within a group.
    Source: Li et al. 2017, arXiv 1608.08710, section 3.1 (there ℓ1, of a filter); over a whole coupled group as in Fang et
    al. 2023, arXiv 2301.12900, section 3.3.
    """

    needs: ClassVar[str] = "weights"

    def __call__(self, group: Group) -> torch.Tensor:
        norms = group.total((*group.producers, *group.consumers), torch.square).sqrt()
        return norms / norms.mean().clamp_min(torch.finfo(norms.dtype).tiny)
