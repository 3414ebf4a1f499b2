"""Hard concrete gates: random numbers that are exactly 0, exactly 1 or between, whose chance of not being 0 can be learned.

    s = σ((log u − log(1 − u) + log α) / β),   z = min(1, max(0, s (ζ − γ) + γ)),   u uniform in (0, 1)

Source: Louizos et al. 2018, arXiv 1712.01312, equations 10 to 12, with β = 2/3, γ = −0.1, ζ = 1.1 as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from edgekd.pruning.branches import Branch
from edgekd.pruning.groups import Group
from edgekd.pruning.widths import rounded

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
START = 2.5
"""log α at first: a gate is not 0 with probability 0.98."""
JITTER = 1e-2
"""Standard deviation of log α at first, so that no two are alike."""
SLOPE = 0.8
"""Of the value of a gate that stays: Wang et al. 2020, arXiv 1910.04732, in their code."""


def drawn(log_alpha: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """z in [0, 1] for log α and numbers drawn from [0, 1), of the same shape.

    >>> drawn(torch.zeros(3), torch.tensor([0.5, 0.0, 0.999])).tolist()
    [0.5, 0.0, 1.0]
    """
    noise = torch.logit(uniform, eps=torch.finfo(uniform.dtype).eps)
    return (torch.sigmoid((noise + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def chance(log_alpha: torch.Tensor) -> torch.Tensor:
    """P(z ≠ 0) = σ(log α − β log(−γ / ζ)): what the expected L0 norm is the sum of (equation 12)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def value(log_alpha: torch.Tensor) -> torch.Tensor:
    """What a gate that stays is from then on, σ(0.8 log α / β): near its mean, and never 0."""
    return torch.sigmoid(SLOPE * log_alpha / BETA)


class Gates(nn.Module):
    """A gate for every channel of every group, and one for every branch; `z` is what they are now.

    `multiple`: channels go in numbers that the target computes well with, as `Group.step` says. In training each forward pass
    of the network draws anew (`draw`); else as many gates of a group stay as are expected to, the likeliest, with `value`.
    """

    def __init__(self, groups: Sequence[Group], branches: Sequence[Branch], multiple: int, seed: int) -> None:
        super().__init__()
        self.groups, self.branches = tuple(groups), tuple(branches)
        self._steps = {group.name: group.step(multiple) for group in groups}
        names = [*((group.name, "channels") for group in groups), *((branch.name, "branch") for branch in branches)]
        self._sizes = [*(group.channels for group in groups), *(1 for _ in branches)]
        self._index = {name: i for i, name in enumerate(names)}
        generator = torch.Generator().manual_seed(seed)
        jitter = JITTER * torch.randn(sum(self._sizes), generator=generator)
        self.log_alpha = nn.Parameter(START + jitter)
        self.z = torch.ones(sum(self._sizes))
        self.shift = 0.0
        """Added to log α where it is decided which gates stay: above 0 more of them do, in the same order."""

    def channels(self, group: Group, of: torch.Tensor | None = None) -> torch.Tensor:
        """`z`, or what `of` says of every gate, for a group: [channels]."""
        return self._part((group.name, "channels"), of)

    def branch(self, branch: Branch, of: torch.Tensor | None = None) -> torch.Tensor:
        """The same for a branch: a scalar."""
        return self._part((branch.name, "branch"), of)[0]

    def _part(self, name: tuple[str, str], of: torch.Tensor | None) -> torch.Tensor:
        parts: tuple[torch.Tensor, ...] = (self.z if of is None else of).split(self._sizes)
        return parts[self._index[name]]

    def draw(self, training: bool) -> None:
        """Set `z`: drawn from torch's generator with a gradient to log α, or settled."""
        if training:
            self.z = drawn(self.log_alpha, torch.rand_like(self.log_alpha))
        else:
            self.z = self.settled()

    @torch.no_grad()
    def settled(self) -> torch.Tensor:
        """[gates]: 0 for those that go, `value` for those that stay."""
        stays = torch.zeros_like(self.log_alpha)
        for name, channels in self.keep().items():
            stays[self._slice(name, "channels")][channels] = 1.0
        for branch in self.branches:
            stays[self._slice(branch.name, "branch")] = float(self._stays(branch))
        return stays * value(self.log_alpha)

    @torch.no_grad()
    def keep(self) -> dict[str, list[int]]:
        """{group: channels that stay}: as many as are expected not to be 0, rounded; of equal ones the earlier."""
        found = {}
        for group in self.groups:
            likely = self.channels(group, chance(self.log_alpha + self.shift))
            count = rounded(float(likely.sum()), group.channels, self._steps[group.name])
            order = torch.argsort(likely, descending=True, stable=True)
            found[group.name] = sorted(order[:count].tolist())
        return found

    def gone(self) -> list[Branch]:
        """The branches that are likelier to be 0 than not."""
        return [branch for branch in self.branches if not self._stays(branch)]

    def _stays(self, branch: Branch) -> bool:
        return bool(self.branch(branch, chance(self.log_alpha + self.shift)).detach() >= 0.5)

    def _slice(self, name: str, kind: str) -> slice:
        at = self._index[name, kind]
        start = sum(self._sizes[:at])
        return slice(start, start + self._sizes[at])


class Gate(nn.Module):
    """A parametrization (torch.nn.utils.parametrize): a weight times what `factor()` says at the time."""

    def __init__(self, factor: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self._factor = factor

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self._factor()
