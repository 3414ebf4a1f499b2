"""No criterion at all: a number drawn for each channel, what every other criterion has to beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Score of a channel: uniform in [0, 1), drawn from the group's name, the same each time.

    Random pruning is the baseline that papers leave out: after recovery it is often close.
    Source: Mittal et al. 2018, "recovering from random pruning", arXiv 1801.10447.
    """

    needs: ClassVar[str] = "weights"

    def __call__(self, group: Group) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(group.name.encode()).digest()[:7], "big")
        return torch.rand(group.channels, generator=torch.Generator().manual_seed(seed))
