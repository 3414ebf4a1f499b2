"""The range that leaves out a set share of the values at each end: robust to a few outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgekd.errors import EdgekdError
from edgekd.quant.histogram import Histogram

__all__ = ["Percentile"]


@dataclass
class Percentile:
    """Range [quantile(1 − p), quantile(p)] with p = percentile / 100, linear within a bin, never beyond what was seen.

    The source takes the percentile of |x|, for symmetric grids; an affine grid has two ends, so each is cut by itself.
    Source: Wu et al. 2020, arXiv 2004.09602, section 3.2 "Percentile" (99.9 to 99.9999 tried there).
    """

    percentile: float = 99.99
    bins: int = 4096

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must be in (50, 100], not {self.percentile}")
        self._histogram = Histogram(self.bins)

    def update(self, x: torch.Tensor) -> None:
        """See one batch, of any shape. Raises EdgekdError for NaN or infinity."""
        self._histogram.update(x)

    def range(self) -> tuple[float, float]:
        """(minimum, maximum). Raises EdgekdError where nothing was seen."""
        seen = self._histogram
        if seen.empty:
            raise EdgekdError("percentile: no values were observed", hint="calibrate with one batch or more")
        cut = 1.0 - self.percentile / 100.0
        below = np.concatenate([[0.0], np.cumsum(seen.counts)]) / seen.counts.sum()
        low = float(np.interp(cut, below, seen.edges))
        high = float(-np.interp(cut, 1.0 - below[::-1], -seen.edges[::-1]))
        low, high = sorted(float(np.clip(end, seen.minimum, seen.maximum)) for end in (low, high))
        return low, high
