"""A histogram that grows with what it sees and never moves a count to a wrong bin.

Edges are whole multiples of a power of two. Where new values do not fit, the width doubles and neighbours merge in pairs,
which is exact; so batches in any order give the counts that all values at once would give.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.errors import EdgekdError

__all__ = ["Histogram", "extremes"]


def extremes(x: torch.Tensor) -> tuple[float, float]:
    """Minimum and maximum of x (not empty). Raises EdgekdError where a value is NaN or infinite."""
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(x.detach())).sum())
        raise EdgekdError(
            f"calibration: {bad} of {x.numel()} values of an activation are NaN or infinite",
            hint="check the weights and the calibration data for NaN, and that training did not diverge",
        )
    return low, high


class Histogram:
    """Counts over at most `bins` bins that cover zero and every value seen.

    `counts[i]` counts the values in [(first + i) · width, (first + i + 1) · width); `minimum` and `maximum` are exact.
    """

    def __init__(self, bins: int) -> None:
        if bins < 2:
            raise ValueError(f"a histogram needs 2 bins or more, not {bins}")
        self.bins = bins
        self.width = 0.0
        self.first = 0
        self.counts: NDArray[np.float64] = np.zeros(1)
        self.minimum, self.maximum = math.inf, -math.inf

    @property
    def empty(self) -> bool:
        return self.minimum > self.maximum

    @property
    def edges(self) -> NDArray[np.float64]:
        """The counts.size + 1 edges, ascending, in the units of the values."""
        return np.arange(self.first, self.first + self.counts.size + 1, dtype=np.float64) * self.width

    @property
    def centres(self) -> NDArray[np.float64]:
        return self.edges[:-1] + 0.5 * self.width

    def update(self, x: torch.Tensor) -> None:
        """Count x, of any shape. Raises EdgekdError where a value is NaN or infinite."""
        if x.numel() == 0:
            return
        low, high = extremes(x)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._cover(min(self.minimum, 0.0), max(self.maximum, 0.0))
        index = torch.floor(x.detach().reshape(-1).double() / self.width).long() - self.first
        self.counts += torch.bincount(index, minlength=self.counts.size).numpy()

    def _cover(self, low: float, high: float) -> None:
        """Widen and lengthen until [low, high] fits; counts move to the bins that hold their values."""
        old = self.width
        if old == 0.0:
            span = high - low
            self.width = 2.0 ** (math.ceil(math.log2(span / self.bins)) if span > 0 else 0)
            self.first = math.floor(low / self.width)
        while math.floor(high / self.width) - math.floor(low / self.width) >= self.bins:
            self.width *= 2.0
        merge = min(round(self.width / old), 2**62) if old else 1  # an index of 64 bits ends in bin -1 or 0 beyond it
        first, last = math.floor(low / self.width), math.floor(high / self.width)
        counts = np.zeros(last - first + 1)
        np.add.at(counts, (np.arange(self.counts.size) + self.first) // merge - first, self.counts)
        self.first, self.counts = first, counts
