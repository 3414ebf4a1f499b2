"""Learned step sizes: fake quantization with a gradient to its step."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["LearnedStep", "gradient_scale"]


class LearnedStep(torch.autograd.Function):
    """x̂ = s · clamp(round(x / s), low, high), for x of any shape and a step s that broadcasts to it.

    `low` and `high` are integers counted from the zero point, numbers or tensors as s. With v = x / s, the gradients are

        ∂x̂/∂x = 1 where low < v < high, else 0                                               equation 5
        ∂x̂/∂s = round(v) − v where low < v < high, low where v ≤ low, high where v ≥ high    equation 3

    and that of s is multiplied by `scale` (see `gradient_scale`). `mask`, if given, is 1 where x is rounded and 0 where it
    passes as it is, as if there were no grid. Written in few passes over x, without a comparison or a choice by element: on
    a CPU those take five to ten times as long as a product.
    Source: Esser et al. 2020, arXiv 1902.08153, section 2. The mask: Wei et al. 2022, arXiv 2203.05740, section 4.2.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        step: torch.Tensor,
        low: Any,
        high: Any,
        scale: float,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        rounded = torch.clamp((x / step).round_(), low, high).mul_(step)
        ctx.low, ctx.high, ctx.scale, ctx.mask = low, high, scale, mask
        ctx.save_for_backward(x, step, rounded)
        return rounded if mask is None else torch.lerp(x, rounded, mask)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, step, rounded = ctx.saved_tensors
        through = gradient if ctx.mask is None else gradient * ctx.mask
        if isinstance(ctx.low, torch.Tensor):
            inside = through * ((x > ctx.low * step) & (x < ctx.high * step))
        else:
            inside = torch.ops.aten.hardtanh_backward(through, x, ctx.low * float(step), ctx.high * float(step))
        slope = (through * rounded).addcmul_(inside, x, value=-1.0).sum_to_size(step.shape) / step
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = inside if ctx.mask is None else (gradient - through).add_(inside)
        return to_x, slope * ctx.scale, None, None, None, None


def gradient_scale(count: int, highest: int) -> float:
    """1 / √(N · Q_P): N weights of the layer, or features of the activation; Q_P the largest integer.

    Source: Esser et al. 2020, arXiv 1902.08153, section 2.2.

    >>> gradient_scale(25, 4)
    0.1
    """
    return 1.0 / math.sqrt(count * max(highest, 1))
