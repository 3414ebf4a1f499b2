"""Weights of losses that say how much each moves the student, however large its value is: balanced by gradient norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import nn

if TYPE_CHECKING:
    from edgekd.training.world import World

EVERY = 10
"""Steps from one look at the gradients to the next; each costs a backward pass for each loss."""
DECAY = 0.9
"""Of the average over the looks."""


@final
class Balance(nn.Module):
    """Factors f_i = mean_j G_j / G_i, G_i the norm of the gradient of loss i, without its weight, by all of the student's parameters.

    So the gradients of f_i L_i are as long as each other, and with weights w_i they are as w_i to each other. G_i is an average over
    the looks so far; a loss without a gradient at a look, as where no sample is labelled, keeps its own.
    Source: Chen et al. 2018, arXiv 1711.02257 (GradNorm), equal gradient norms, its α = 0, there by the last shared layer and
    with weights that are learned towards it; here they are set.
    """

    norms: torch.Tensor
    steps: torch.Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("norms", torch.zeros(len(self.names)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def factors(self) -> dict[str, float]:
        """{loss: f_i}; 1 for one whose gradient was not seen yet."""
        seen = self.norms[self.norms > 0]
        return {
            name: float(seen.mean() / norm) if norm > 0 else 1.0
            for name, norm in zip(self.names, self.norms, strict=True)
        }

    def look(self, values: Mapping[str, torch.Tensor], parameters: Iterable[nn.Parameter], world: World) -> None:
        """Once in `EVERY` calls, measure the gradients of the losses' values; of several processes the sum of theirs."""
        if int(self.steps) % EVERY == 0:
            trained = [p for p in parameters if p.requires_grad]
            for place, name in enumerate(self.names):
                found = torch.autograd.grad(values[name], trained, retain_graph=True, allow_unused=True)
                flat = torch.cat(
                    [(p * 0 if g is None else g).detach().flatten() for p, g in zip(trained, found, strict=True)]
                )
                norm = (flat if world.size == 1 else world.total(flat)).norm()
                if bool(norm > 0):
                    before = self.norms[place]
                    self.norms[place] = DECAY * before + (1 - DECAY) * norm if before > 0 else norm
        self.steps += 1
