"""Networks that a student learns from while they change with it: its own average over the steps, and a peer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import nn

DECAY = 0.999
"""Of the average, where the recipe gives none."""


@final
class Companions(nn.Module):
    """Of the kinds "average" and "peer", those that the losses of a recipe name.

    "average": weights θ' ← α θ' + (1 − α) θ after each step, α = min(`decay`, 1 − 1 / (t + 1)) at step t = 0, 1, …, so that
    the first ones are not led by the random weights of the beginning; what batch norm remembers is the student's own.
    Source: Tarvainen, Valpola 2017, arXiv 1703.01780 (Mean Teacher), section 2, with the start of the authors' code.

    "peer": a second student from other random weights, which learns at the same time, from the student and from whatever the
    student learns from. Source: Zhang et al. 2018, arXiv 1706.00384 (deep mutual learning), section 3.2, both updated in
    the same step. A larger one is a teacher that is trained together with the student, and learns from it too: Lee et al.
    2023, arXiv 2311.02849 (co-training and co-distillation, CTCD). There each of the two weighs the losses its own way, here alike.

    Their weights are in each checkpoint; both are dropped with the training.
    """

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleDict()
        self.decay = DECAY
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def make(self, wanted: Mapping[str, float], model: nn.Module, peer: Callable[[], nn.Module]) -> None:
        """Make those that are wanted: {"average": decay, "peer": any number}."""
        if "average" in wanted:
            self.decay = wanted["average"]
            self.networks["average"] = copy.deepcopy(model).requires_grad_(False)
        if "peer" in wanted:
            self.networks["peer"] = peer()

    def answers(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """{name: logits [batch, classes]}; of the average without gradient, in eval mode."""
        found = {}
        for name, network in self.networks.items():
            network.train(self.training and name == "peer")
            with torch.set_grad_enabled(torch.is_grad_enabled() and name == "peer"):
                found[name] = network(inputs)
        return found

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """After a step of the student."""
        if "average" not in self.networks:
            return
        alpha = min(self.decay, 1 - 1 / (int(self.steps) + 1))
        average = self.networks["average"]
        for theirs, own in zip(average.parameters(), model.parameters(), strict=True):
            theirs.mul_(alpha).add_(own, alpha=1 - alpha)
        for held, now in zip(average.buffers(), model.buffers(), strict=True):
            held.copy_(now)
        self.steps += 1
