"""Learned rounding: which way each weight is rounded, as a variable that training drives to one side or the other.

Source of the formulas: Nagel et al. 2020, arXiv 2004.10568, section 3.2.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekd.quant.step import PerChannelStep

__all__ = ["SoftRounding", "annealed", "regularizer", "soften", "unsoften"]

ZETA, GAMMA = 1.1, -0.1  # the stretch of the sigmoid, as the source has it
SHARPEST, BLUNTEST = 20.0, 2.0


def soften(v: torch.Tensor) -> torch.Tensor:
    """h(V) = clip(σ(V) · (ζ − γ) + γ, 0, 1), equation 23: exactly 0 or 1 where |V| is above 2.4."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def unsoften(h: torch.Tensor) -> torch.Tensor:
    """The V whose h(V) is `h`, in [0, 1)."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def regularizer(h: torch.Tensor, beta: float) -> torch.Tensor:
    """Σ 1 − |2h − 1|^β, equation 24: 0 where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def annealed(step: int, steps: int, warmup: float) -> float:
    """β: 20 for the first `warmup` share of the steps, then straight down to 2.

    >>> [annealed(step, 10, 0.2) for step in (0, 2, 6, 10)]
    [20.0, 20.0, 11.0, 2.0]
    """
    begun = (step - warmup * steps) / ((1 - warmup) * steps)
    return SHARPEST + (BLUNTEST - SHARPEST) * min(max(begun, 0.0), 1.0)


class SoftRounding(nn.Module):
    """The weight of one layer, soft: scale · (clip(B + h(V) + zero_point, n, p) − zero_point), equation 22.

    B = ⌊w / scale⌋ with the scale as it was at the beginning. With `learn_step` the scale is learned too, while B stays: so
    rounding and scale are independent variables (GENIE-M: Jeon et al. 2023, arXiv 2212.04780, section 3.3).
    """

    def __init__(self, weight: torch.Tensor, step: PerChannelStep, learn_step: bool) -> None:
        super().__init__()
        self.limits = step.quant_min, step.quant_max
        dims = weight.dim()
        self.zero_point = step.spread(step.zero_point, dims)
        self.fixed = scale = step.spread(step.scale, dims)
        ratio = weight.detach() / scale
        self.base = ratio.floor()
        self.v = nn.Parameter(unsoften(ratio - self.base))
        self.log_step = nn.Parameter(scale.log()) if learn_step else None

    def rounding(self) -> torch.Tensor:
        """h(V), as the weight's shape."""
        return soften(self.v)

    def scale(self) -> torch.Tensor:
        """To broadcast with the weight."""
        return self.fixed if self.log_step is None else self.log_step.exp()

    def forward(self) -> torch.Tensor:
        return self._weight(soften(self.v))

    def hard(self) -> torch.Tensor:
        """The weight with every rounding to the side that it is nearer to: on the grid."""
        return self._weight((self.v >= 0).float())

    def _weight(self, up: torch.Tensor) -> torch.Tensor:
        whole = (self.base + up + self.zero_point).clamp(*self.limits) - self.zero_point
        return whole * self.scale()
