"""The grid of a weight whose steps are state of their own: narrower than 8 bits, reconstructed, or learned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import nn

from edgekd.errors import EdgekdError
from edgekd.quant.grid import SMALLEST_SCALE
from edgekd.quant.lsq import LearnedStep, gradient_scale
from edgekd.quant.torchao import ObserverBase

__all__ = ["PerChannelStep"]

SHARES = [i / 20 for i in range(4, 21)]
"""Of each end of a channel's range: where `fit` looks for the least squared error."""


class PerChannelStep(ObserverBase):  # type: ignore[misc]  # torchao is untyped
    """One scale and one zero point for each output channel: w ≈ scale · (q − zero_point).

    `fit` sets them from the weight, the range that loses least (`search`) or the extremes; from then on they do not follow
    it. They are two float32 buffers [channels], the whole state. While a layer is reconstructed, `soft` gives the weight in
    place of rounding (`edgekd.quant.rounding`); `learn` makes the scales parameters until `settle_step`. `floor` [channels] is
    the smallest scale that a conversion allows. The range that loses least: Nagel et al. 2021, arXiv 2106.08295, section 3.1.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(
        self,
        dtype: torch.dtype,
        quant_min: int,
        quant_max: int,
        qscheme: torch.qscheme,
        ch_axis: int,
        is_dynamic: bool = False,
        search: bool = True,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic)
        self.quant_min, self.quant_max, self.qscheme, self.ch_axis = quant_min, quant_max, qscheme, ch_axis
        self.search = search
        self.register_buffer("scale", torch.ones(0))
        self.register_buffer("zero_point", torch.zeros(0))
        self.log_step: nn.Parameter | None = None
        self.soft: nn.Module | None = None
        self.off = False
        self.floor: torch.Tensor | None = None
        self.measured: torch.Tensor | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.off:
            return weight
        if self.soft is not None:
            soft: torch.Tensor = self.soft()
            return soft
        if self.log_step is not None:
            low, high = (self.spread(end - self.zero_point, weight.dim()) for end in (self.quant_min, self.quant_max))
            scale = gradient_scale(weight.numel(), self.quant_max)
            learned: torch.Tensor = LearnedStep.apply(  # type: ignore[no-untyped-call]
                weight, self.spread(self.log_step.exp(), weight.dim()), low, high, scale
            )
            return learned
        zero = self.zero_point.to(torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, self.scale, zero, self.ch_axis, self.quant_min, self.quant_max
        )

    def spread(self, values: torch.Tensor, dims: int) -> torch.Tensor:
        """[channels] → [1, …, channels, …, 1], to broadcast with a weight of `dims` dimensions."""
        return values.reshape([-1 if axis == self.ch_axis else 1 for axis in range(dims)])

    @torch.no_grad()
    def fit(self, weight: torch.Tensor) -> None:
        """Take scales and zero points from a weight [.., channels, ..]."""
        flat = weight.detach().movedim(self.ch_axis, 0).reshape(weight.shape[self.ch_axis], -1)
        low, high = flat.amin(1).clamp(max=0), flat.amax(1).clamp(min=0)
        self.scale, self.zero_point = self._spanning(low, high)
        least = self._error(flat, self.scale, self.zero_point)
        for below, above in self._shares():
            scale, zero = self._spanning(low * below, high * above)
            error = self._error(flat, scale, zero)
            better = error < least
            self.scale = torch.where(better, scale, self.scale)
            self.zero_point = torch.where(better, zero, self.zero_point)
            least = torch.where(better, error, least)

    def _shares(self) -> Iterator[tuple[float, float]]:
        if self.search:
            yield from zip(SHARES, SHARES, strict=True) if self._symmetric else product(SHARES, SHARES)

    @property
    def _symmetric(self) -> bool:
        return bool(self.qscheme == torch.per_channel_symmetric)

    def _spanning(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and zero points [channels] of the grids that span [low, high], as `edgekd.quant.grid.parameters`."""
        if self._symmetric:
            scale = torch.maximum(-low, high) / self.quant_max
            return scale.clamp(min=SMALLEST_SCALE), torch.zeros_like(scale)
        scale = ((high - low) / (self.quant_max - self.quant_min)).clamp(min=SMALLEST_SCALE)
        return scale, (self.quant_min - torch.round(low / scale)).clamp(self.quant_min, self.quant_max)

    def _error(self, flat: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        whole = torch.round(flat / scale[:, None]) + zero[:, None]
        rounded = (whole.clamp_(self.quant_min, self.quant_max) - zero[:, None]) * scale[:, None]
        return (rounded - flat).square_().sum(1)

    def learn(self) -> None:
        """Make the scales parameters, as logarithms: a step stays above zero, and an optimizer's step is relative to it.

        Source for the logarithm: Jain et al. 2019, arXiv 1903.08066, section 3.3 and appendix B.
        """
        self.log_step = nn.Parameter(self.scale.log())

    @torch.no_grad()
    def settle_step(self) -> None:
        """Take the learned scales as state; does nothing where none are learned."""
        if self.log_step is not None:
            self.scale = self.log_step.detach().exp()
            self.log_step = None

    @torch.no_grad()
    def rescale(self, factor: torch.Tensor) -> None:
        """Follow a weight whose channels were multiplied by `factor` [channels]: same integers, or mirrored where it is < 0."""
        self.scale = (self.scale * factor.abs().float()).clamp(min=SMALLEST_SCALE)
        mirrored = self.quant_min + self.quant_max - self.zero_point
        self.zero_point = torch.where(factor < 0, mirrored, self.zero_point)

    @torch.no_grad()
    def measure(self, weight: torch.Tensor) -> torch.Tensor:
        """The scales [channels], kept for the conversion."""
        self.measured = self.scale if self.floor is None else torch.maximum(self.scale, self.floor.float())
        return self.measured

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and zero points [channels], for torchao's conversion."""
        if self.measured is None:
            raise EdgekdError("a weight has no scale", hint="convert with edgekd.quant.pt2e.convert")
        return self.measured, self.zero_point.to(torch.int64)

    def extra_repr(self) -> Any:
        return f"{self.quant_min}…{self.quant_max}"
