"""The expected number of weights in a network's branches, given how likely each of their gates is not 0.

    E[size] = Σ_branches z · Σ_matrices (Σ_outputs z) (Σ_inputs z)

over the matrices that a branch is made of, with the gate of a head or channel counted at each of its positions, 1 where there is
none. Gates are independent, so the expectation of a product is the product of chances. For attention of width d_h a head that is 4
d_h Σ_heads Σ_hidden, for feed-forward layers 2 Σ_channels Σ_hidden: Xia et al. 2022, arXiv 2204.00408, section 3.1, where
embeddings, biases and norms do not count either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from edgekd.pruning.branches import Branch
from edgekd.pruning.groups import Group, Member


@dataclass(frozen=True)
class _Side:
    """One side of a matrix: positions without a gate, and for each group that lies there how many each channel has."""

    fixed: int
    groups: tuple[tuple[Group, torch.Tensor], ...]

    def expected(self, chance: Callable[[Group], torch.Tensor]) -> torch.Tensor:
        return torch.stack(
            [torch.tensor(float(self.fixed)), *((count * chance(g)).sum() for g, count in self.groups)]
        ).sum()


Channels = Callable[[Group], torch.Tensor]
"""The chance of each of a group's channels not to be 0: [channels]."""
Presence = Callable[[Branch], torch.Tensor]
"""That of a branch: a scalar."""


class Cost(Protocol):
    """What a network under gates is expected to cost, and what it costs with all of them at 1."""

    name: ClassVar[str]
    whole: float

    def expected(self, channels: Channels, branch: Presence) -> torch.Tensor: ...


class Size:
    """What the matrices of `branches` weigh; those of a branch that is no `Branch` (it cannot go) do not count."""

    name: ClassVar[str] = "size"

    def __init__(self, groups: Sequence[Group], branches: Sequence[Branch]) -> None:
        self._matrices = [
            (branch, self._side(groups, member, "out"), self._side(groups, member, "in"))
            for branch in branches
            for member in (*branch.group.producers, branch.last)
        ]
        every = self.expected(lambda group: torch.ones(group.channels), lambda _branch: torch.ones(()))
        self.whole = float(every)

    def each(self, channels: Channels) -> list[tuple[Branch, torch.Tensor]]:
        """The expected number of weights of each branch that stays."""
        found: dict[Branch, list[torch.Tensor]] = {}
        for branch, rows, columns in self._matrices:
            found.setdefault(branch, []).append(rows.expected(channels) * columns.expected(channels))
        return [(branch, torch.stack(parts).sum()) for branch, parts in found.items()]

    def expected(self, channels: Channels, branch: Presence) -> torch.Tensor:
        """The expected number of weights, for chances [channels] of each group and of each branch."""
        return torch.stack([branch(of) * weights for of, weights in self.each(channels)]).sum()

    def _side(self, groups: Sequence[Group], of: Member, side: str) -> _Side:
        width = of.layer.get_parameter("weight").shape[0 if side == "out" else 1]
        found = [
            (group, torch.tensor([float(len(places)) for places in member.positions]))
            for group in groups
            for member in group.members
            if (member.name, member.side) == (of.name, side)
        ]
        return _Side(int(width - sum(float(count.sum()) for _, count in found)), tuple(found))
