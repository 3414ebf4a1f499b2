"""Scale |γ| of the batch norms that a channel passes: a channel scaled to nothing is missed little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from edgekd.errors import UserError

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group

__all__ = ["BnScale"]


@dataclass(frozen=True)
class BnScale:
    """Score of a channel: Σ |γ| over the group's batch norms. Meant for students trained with a sparsity loss on γ.

    Raises UserError for a group without a batch norm: nothing there is a scale of the channel alone, and a score in another
    unit would not compare.
    Source: Liu et al. 2017, "network slimming", arXiv 1708.06519, section 3.
    """

    needs: ClassVar[str] = "weights"

    def __call__(self, group: Group) -> torch.Tensor:
        if not group.norms:
            raise UserError("bn_scale: its channels pass no batch norm", hint="the other criteria need none")
        return group.total(group.norms, torch.abs)
