"""What CoFi adds to a training's losses: the pull towards a size or a latency, and how far layers are from the unpruned ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from edgekd.pruning.gates import Gates, chance
from edgekd.pruning.matching import blocks, chosen, given, layerwise
from edgekd.pruning.size import Cost
from edgekd.training.added import Added


def target(progress: float, density: float, rising: float) -> float:
    """The density that is asked for: from 1 straight down to `density` while the share `rising` of the training is done.

    >>> [round(target(progress, 0.2, 0.5), 2) for progress in (0.0, 0.25, 0.5, 0.9)]
    [1.0, 0.6, 0.2, 0.2]
    """
    return 1 - (1 - density) * min(1.0, progress / rising)


def pull(size: torch.Tensor, wanted: float, multipliers: torch.Tensor) -> torch.Tensor:
    """λ₁ (s − t) + λ₂ (s − t)², for multipliers [2]: Xia et al. 2022, arXiv 2204.00408, section 3.1, after Wang et al. 2020.

    >>> round(float(pull(torch.tensor(0.7), 0.5, torch.tensor([1.0, 10.0]))), 4)  # 0.2 + 10 · 0.04
    0.6
    """
    over = size - wanted
    return multipliers[0] * over + multipliers[1] * over.square()


class Lagrangian(Added):
    """Called after each forward pass of the gated network: {"size" or "latency": `pull`, "layers": `layerwise` times that distance}.

    The gates and, by the opposite sign of their gradient, the multipliers are learned at the rate `lr`; W with the network.
    """

    def __init__(
        self, gates: Gates, cost: Cost, density: float, rising: float, lr: float, weight: float, settings: str
    ) -> None:
        super().__init__()
        self.gates, self.settings = gates, settings
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.multipliers.register_hook(torch.neg)
        self._cost, self._density, self._rising, self._lr, self._weight = cost, density, rising, lr, weight
        self._blocks = blocks(gates.branches) if weight else {}
        self._before: list[nn.Module] = []  # no part of what is learned
        self._ours: dict[str, torch.Tensor] = {}
        self.widths: nn.Linear | None = None

    @property
    def faster(self) -> tuple[list[nn.Parameter], float]:
        """What is learned at a rate of its own, and that rate."""
        return [self.gates.log_alpha, self.multipliers], self._lr

    @contextmanager
    def watching(self, network: nn.Module, inputs: torch.Tensor) -> Iterator[None]:
        """While the block runs, note what the layers of `network` give, beside a copy of it as it is now."""
        with ExitStack() as stack:
            if self._blocks:
                before = copy.deepcopy(network).eval().requires_grad_(False)
                self._before = [before]
                width = self._theirs(inputs)[0].shape[-1]
                self.widths = nn.utils.skip_init(nn.Linear, width, width, bias=False)
                nn.init.eye_(self.widths.weight)
                self._ours = stack.enter_context(given(network, list(self._blocks)))
            yield

    @property
    def expected(self) -> torch.Tensor:
        """The expected share of the whole network's cost."""
        likely = chance(self.gates.log_alpha)
        cost = self._cost.expected(
            lambda group: self.gates.channels(group, likely), lambda branch: self.gates.branch(branch, likely)
        )
        return cost / self._cost.whole

    def forward(self, inputs: torch.Tensor, progress: float) -> dict[str, torch.Tensor]:
        """`inputs` [batch, ...] are those that the network has just seen; `progress` is the share of the training done."""
        wanted = target(progress, self._density, self._rising)
        found = {self._cost.name: pull(self.expected, wanted, self.multipliers)}
        if self._blocks:
            assert self.widths is not None
            theirs = self._theirs(inputs)
            ours = [self.widths(self._shown(x)) for x in self._ours.values()]
            there = [bool(self.gates.branch(branch) > 0) for branch in self._blocks.values()]
            found["layers"] = self._weight * layerwise(ours, [theirs[i] for i in chosen(len(theirs))], there)
        return found

    @torch.no_grad()
    def _theirs(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        (before,) = self._before
        with given(before, list(self._blocks)) as found:
            before(inputs)
        return [found[name] for name in self._blocks]

    def _shown(self, x: torch.Tensor) -> torch.Tensor:
        """What a layer gives, by the gates of the residual stream that it gives it to."""
        last = next(iter(self._blocks.values())).last.name
        for group in self.gates.groups:
            if group.channels == x.shape[-1] and any((m.name, m.side) == (last, "out") for m in group.members):
                return x * self.gates.channels(group)
        return x

    def facts(self) -> dict[str, Any]:
        """What is told of it afterwards."""
        return {"target": self._density, "expected": float(self.expected.detach())}
