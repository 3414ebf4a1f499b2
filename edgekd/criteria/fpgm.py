"""Distance of a channel's filters to all others': what lies near the geometric median can be made by the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group, Member

__all__ = ["Fpgm"]


@dataclass(frozen=True)
class Fpgm:
    """Score of a channel: Σ_j ‖F_i − F_j‖₂ over the filters j of its layer, relative to the layer's mean, over the producers.

    F_i is the filter that makes channel i, weights only. The one with the least sum is nearest to the geometric median of all and
    the most replaceable, large or small. The division lets layers be compared and added; it changes no order within a layer.
    Source: He et al. 2019, arXiv 1811.00250, section 3.3.
    """

    needs: ClassVar[str] = "weights"

    def __call__(self, group: Group) -> torch.Tensor:
        return sum((_distances(member) for member in group.producers), torch.zeros(group.channels))


@torch.no_grad()
def _distances(member: Member) -> torch.Tensor:
    """[channels]; zero where nothing of a channel is made here."""
    weight = member.layer.get_parameter("weight").movedim(member.axis, 0).flatten(1)
    made = [channel for channel, places in enumerate(member.positions) if places]
    found = torch.zeros(len(member.positions))
    if made:
        filters = torch.stack([weight[list(member.positions[channel])].flatten() for channel in made])
        sums = (filters[:, None] - filters[None]).norm(dim=2).sum(1)
        found[made] = sums / sums.mean().clamp_min(torch.finfo(sums.dtype).tiny)
    return found
