"""What stands in the prepared graph at each tensor that will be quantized: it observes, then it fake-quantizes.

`ActivationGrid` stands behind an activation, `PerChannelWeight` or `PerChannelStep` (`edgekd.quant.step`) behind a weight:
torchao takes the word PerChannel in the class's name as the leave to pass `ch_axis`. All become a quantize/dequantize pair
when the graph is converted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from edgekd.errors import EdgekdError
from edgekd.quant.grid import SMALLEST_SCALE, parameters
from edgekd.quant.lsq import LearnedStep, gradient_scale
from edgekd.quant.step import PerChannelStep
from edgekd.quant.tables import Rows
from edgekd.quant.torchao import ObserverBase

__all__ = ["ActivationGrid", "Observer", "PerChannelWeight", "activations", "in_float", "weights"]


class Observer(Protocol):
    """The contract of a file in `edgekd/observers/`."""

    def update(self, x: torch.Tensor) -> None: ...

    def range(self) -> tuple[float, float]: ...


class _FakeQuantize(torch.autograd.Function):
    """scale · clamp(round(x / scale), low, high), low and high counted from the zero point; the straight-through estimator.

    What torch.fake_quantize_per_tensor_affine computes, bit for bit, in vectorised passes: on a CPU a training step of a
    small residual net is a third shorter. The gradient passes where x was not clipped.
    """

    @staticmethod
    def forward(x: torch.Tensor, scale: float, low: int, high: int) -> torch.Tensor:
        return torch.mul(x, 1.0 / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, float, int, int], output: torch.Tensor) -> None:  # noqa: ARG004
        x, scale, low, high = inputs
        ctx.save_for_backward(x)
        ctx.limits = (low - 0.5) * scale, (high + 0.5) * scale

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.limits), None, None, None


class ActivationGrid(ObserverBase):  # type: ignore[misc]  # torchao is untyped
    """The grid of one activation: per tensor, affine or symmetric.

    It passes x through until `take` has given it a range, and fake-quantizes from then on. The range is its only state:
    two float32 buffers, NaN until known, so that it can be saved as tensors. Gradients pass where x lies inside the range
    (the straight-through estimator: Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877, section 3).
    `learn` makes the scale a parameter, the zero point fixed, until `settle_step` makes it a range again; meanwhile `mask`, if
    set, says which values are rounded (1) and which pass as they are (0).
    """

    minimum: torch.Tensor
    maximum: torch.Tensor

    def __init__(
        self,
        observer: Callable[[], Observer],
        dtype: torch.dtype,
        quant_min: int,
        quant_max: int,
        qscheme: torch.qscheme,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic)
        self.quant_min, self.quant_max, self.qscheme = quant_min, quant_max, qscheme
        self.factory = observer
        self.open: Observer | None = None
        self.grid: tuple[float, int] | None = None
        self.log_step: nn.Parameter | None = None
        self.mask: Callable[[torch.Tensor], torch.Tensor | None] | None = None
        self.off = False
        self.register_buffer("minimum", torch.tensor(math.nan))
        self.register_buffer("maximum", torch.tensor(math.nan))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.open is not None:
            self.open.update(x)
            return x
        if self.grid is None or self.off:
            return x
        scale, zero_point = self.grid
        low, high = self.quant_min - zero_point, self.quant_max - zero_point
        if self.log_step is not None:
            share, mask = gradient_scale(x[0].numel(), high), self.mask and self.mask(x)
            learned: torch.Tensor = LearnedStep.apply(x, self.log_step.exp(), low, high, share, mask)  # type: ignore[no-untyped-call]
            return learned
        fake: torch.Tensor = _FakeQuantize.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
        return fake

    def observe(self) -> None:
        """Let what follows pass unchanged, through a fresh observer, until `open` is None again."""
        self.open = self.factory()

    def take(self, low: float, high: float) -> None:
        """Make [low, high] its range."""
        self.minimum.fill_(low)
        self.maximum.fill_(high)
        self.settle()

    def settle(self) -> None:
        """Derive scale and zero point from the two buffers, as after they were loaded."""
        low, high = float(self.minimum), float(self.maximum)
        known = math.isfinite(low) and math.isfinite(high)
        symmetric = self.qscheme == torch.per_tensor_symmetric
        self.grid = parameters(low, high, (self.quant_min, self.quant_max), symmetric) if known else None

    def learn(self) -> None:
        """Make the scale a parameter, as a logarithm (see `edgekd.quant.step`); does nothing where there is no range."""
        if self.grid is not None:
            self.log_step = nn.Parameter(torch.tensor(self.grid[0]).log())

    def settle_step(self) -> None:
        """Make the range that the learned scale spans its range; does nothing where none is learned."""
        if self.log_step is not None and self.grid is not None:
            scale, zero_point = float(self.log_step.detach().exp()), self.grid[1]
            self.log_step = self.mask = None
            self.take((self.quant_min - zero_point) * scale, (self.quant_max - zero_point) * scale)

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point, for torchao's conversion. Raises EdgekdError where there is no range yet."""
        if self.grid is None:
            raise EdgekdError("an activation has no range", hint="calibrate the prepared student, or restore its state")
        scale, zero_point = self.grid
        return torch.tensor(scale, dtype=torch.float64), torch.tensor(zero_point)


class PerChannelWeight(ObserverBase):  # type: ignore[misc]  # torchao is untyped
    """The grid of one weight: symmetric, one scale for each output channel, scale = max |w| / 127.

    It holds no state: the scale follows the weight. `floor` [channels] is the smallest scale that a conversion allows.
    Source: Krishnamoorthi 2018, arXiv 1806.08342, section 3.1.2.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        quant_min: int,
        quant_max: int,
        qscheme: torch.qscheme,
        ch_axis: int,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic)
        self.quant_min, self.quant_max, self.qscheme, self.ch_axis = quant_min, quant_max, qscheme, ch_axis
        self.scale: torch.Tensor | None = None
        self.off = False
        self.floor: torch.Tensor | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.off:
            return weight
        scale = self.measure(weight)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, self.ch_axis, self.quant_min, self.quant_max)

    @torch.no_grad()
    def measure(self, weight: torch.Tensor) -> torch.Tensor:
        """The scales [channels] of a weight [.., channels, ..]; kept for the conversion."""
        flat = weight.detach().movedim(self.ch_axis, 0).reshape(weight.shape[self.ch_axis], -1)
        scale = (flat.abs().amax(1) / self.quant_max).clamp(min=SMALLEST_SCALE)
        self.scale = scale if self.floor is None else torch.maximum(scale, self.floor)
        return self.scale

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and zero points [channels], for torchao's conversion."""
        if self.scale is None:
            raise EdgekdError("a weight has no scale", hint="convert with edgekd.quant.pt2e.convert")
        return self.scale, torch.zeros_like(self.scale, dtype=torch.int64)


def activations(graph: nn.Module) -> list[ActivationGrid]:
    """The grid of each activation, once each."""
    return [module for module in graph.modules() if isinstance(module, ActivationGrid)]


def weights(graph: nn.Module) -> list[PerChannelWeight | PerChannelStep]:
    """The grid of each weight, once each."""
    return [module for module in graph.modules() if isinstance(module, PerChannelWeight | PerChannelStep)]


@contextmanager
def in_float(graph: nn.Module) -> Iterator[None]:
    """Meanwhile nothing is rounded: weights, activations and looked up rows pass all adapters as they are."""
    adapters = [
        *activations(graph),
        *weights(graph),
        *(module for module in graph.modules() if isinstance(module, Rows)),
    ]
    before = [adapter.off for adapter in adapters]
    for adapter in adapters:
        adapter.off = True
    try:
        yield
    finally:
        for adapter, off in zip(adapters, before, strict=True):
            adapter.off = off
