"""Masks of all channels learned together, so that the network says what it said; what they would keep is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call
from torch.nn.functional import kl_div, log_softmax

if TYPE_CHECKING:
    from edgekd.pruning.groups import Group
    from edgekd.pruning.scoring import Batch

__all__ = ["Ctkl"]

TEMPERATURE = 2 / 3
SMOOTHING = 0.1
"""Share of the newest balance in the running one. The authors' 0.01 is for thousands of steps; here are a few hundred."""


@dataclass(frozen=True)
class Ctkl:
    """Score of a channel: the log-odds a that it is kept, learned for the channels of all groups at once.

    Each step draws a mask for every channel, m = σ((a + log u − log(1 − u)) / τ), u uniform, τ = 2/3: a relaxed coin that falls
    on "keep", m > 1/2, with probability σ(a). The weights that read a channel are multiplied by its m, all others stay as
    they are. The loss R is the reverse KL(masked ‖ whole) in nats, of the student's own outputs with and without masks. The
    expected share kept is held at `density` by its excess S = mean σ(a) / density − 1, whose gradient is given the length of R's:
    λ = ‖∇R‖ / ‖∇S‖ while S > 0, else 0, smoothed over the steps; Adam follows ∇R + λ∇S.

    The other criteria weigh each channel as if all the rest stayed. Here channels that stand in for each other, or that
    cancel each other, are seen together.

    `density` is the share of channels to be kept: the prune stage fills it in from `ratio`.
    Source: Arora, Teuscher 2025, arXiv 2512.07142, its equation 1 with the Concrete relaxation, GradBalance and the CTS-KL
    objective (there for single weights near their initial values); the binary Concrete distribution is from Maddison et al.
    2017, arXiv 1611.00712, appendix B.
    """

    needs: ClassVar[str] = "masks"

    density: Annotated[float, Field(gt=0, lt=1)] = 0.5
    steps: Annotated[int, Field(ge=1)] = 300
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.05

    def learn(self, network: nn.Module, groups: Sequence[Group], batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
        """{group: scores [channels]}, after one step for each batch. `network` is in eval mode and is not changed."""
        sizes = [group.channels for group in groups]
        odds = math.log(self.density / (1 - self.density))
        logits = torch.full((sum(sizes),), odds, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=self.lr)
        drawn = torch.Generator().manual_seed(0)
        scale: float | None = None
        for inputs, _, _ in batches:
            with torch.no_grad():
                whole = log_softmax(network(inputs), 1)
            masks = relaxed(logits, torch.rand(len(logits), generator=drawn))
            said = functional_call(network, masked(groups, masks.split(sizes)), (inputs,))
            loss = kl_div(whole, log_softmax(said, 1), reduction="batchmean", log_target=True)
            excess = logits.sigmoid().mean() / self.density - 1
            (of_loss,), (of_excess,) = torch.autograd.grad(loss, logits), torch.autograd.grad(excess, logits)
            scale = balanced(scale, of_loss, of_excess, float(excess.detach()))
            logits.grad = of_loss + scale * of_excess
            optimizer.step()
        return {group.name: part.clone() for group, part in zip(groups, logits.detach().split(sizes), strict=True)}


def relaxed(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Masks in (0, 1) for log-odds and numbers drawn from [0, 1), of the same shape: binary Concrete at `TEMPERATURE`."""
    tiny = torch.finfo(uniform.dtype).eps
    return torch.sigmoid((logits + torch.logit(uniform, eps=tiny)) / TEMPERATURE)


def masked(groups: Sequence[Group], masks: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """{parameter: its values}, of the weights that read the groups' channels, each channel times its mask."""
    found: dict[str, torch.Tensor] = {}
    for group, mask in zip(groups, masks, strict=True):
        for member in group.consumers:
            name = f"{member.name}.weight"
            weight = found.get(name, member.layer.get_parameter("weight").detach())
            found[name] = weight * member.gate(mask)
    return found


def balanced(scale: float | None, of_loss: torch.Tensor, of_excess: torch.Tensor, excess: float) -> float:
    """The factor of the excess's gradient after this step; `scale` is the one before, None at the first."""
    tiny = torch.finfo(of_excess.dtype).tiny
    wanted = float(of_loss.norm() / of_excess.norm().clamp_min(tiny)) if excess > 0 else 0.0
    return wanted if scale is None else (1 - SMOOTHING) * scale + SMOOTHING * wanted
