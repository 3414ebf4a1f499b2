"""Minimum and maximum of each batch, averaged with a memory that fades: a late outlier moves the range little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from edgekd.errors import EdgekdError
from edgekd.quant.histogram import extremes

__all__ = ["MovingAverage"]


@dataclass
class MovingAverage:
    """Range [a, b], each end an exponential moving average over batches: a ← decay · a + (1 − decay) · min x.

    It begins at the first batch's extremes. The order of the batches matters, which it does for no other observer.
    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.1.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def __post_init__(self) -> None:
        self._range: tuple[float, float] | None = None

    def update(self, x: torch.Tensor) -> None:
        """See one batch, of any shape. Raises EdgekdError for NaN or infinity."""
        if not x.numel():
            return
        seen = extremes(x)
        old = self._range or seen
        low, high = (self.decay * a + (1 - self.decay) * b for a, b in zip(old, seen, strict=True))
        self._range = low, high

    def range(self) -> tuple[float, float]:
        """(minimum, maximum). Raises EdgekdError where nothing was seen."""
        if self._range is None:
            raise EdgekdError("moving_average: no values were observed", hint="calibrate with one batch or more")
        return self._range
