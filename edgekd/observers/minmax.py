"""Minimum and maximum of everything seen: nothing is clipped, one outlier sets the scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from edgekd.errors import EdgekdError
from edgekd.quant.histogram import extremes

__all__ = ["MinMax"]


@dataclass
class MinMax:
    """Range [min x, max x].

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.1; Nagel et al. 2021, arXiv 2106.08295, section 3.1 "Min-max".
    """

    def __post_init__(self) -> None:
        self._low, self._high = math.inf, -math.inf

    def update(self, x: torch.Tensor) -> None:
        """See one batch, of any shape. Raises EdgekdError for NaN or infinity."""
        if x.numel():
            low, high = extremes(x)
            self._low, self._high = min(self._low, low), max(self._high, high)

    def range(self) -> tuple[float, float]:
        """(minimum, maximum). Raises EdgekdError where nothing was seen."""
        if self._low > self._high:
            raise EdgekdError("minmax: no values were observed", hint="calibrate with one batch or more")
        return self._low, self._high
